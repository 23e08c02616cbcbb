#!/usr/bin/env bash
# Train under Slurm: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py's options]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS change what is asked for.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [GPUS=N GPUS_PER_NODE=N CPUS_PER_TASK=N SRUN_ARGS=...] bash $0" \
        "PARTITION JOB_NAME CONFIG [options]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}

# shellcheck disable=SC2086 # SRUN_ARGS holds several arguments
exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
