#!/usr/bin/env bash
# Train under Slurm: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py's options]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SBATCH_ARGS change the request.
#
# The job is submitted, and its output goes to JOB_NAME-ID.out. Two minutes before its time is up,
# or when it is preempted, it saves a checkpoint, goes back to the queue and resumes from there.
set -euo pipefail

if [ "${1:-}" = --in-job ]; then
    shift
    resume=()
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
        resume=(--resume)
    fi
    trap : TERM USR1 HUP # They are for the processes; this script is to see how these end.
    srun --kill-on-bad-exit=1 python -u "$@" --launcher slurm "${resume[@]}" &
    while kill -0 $! 2>/dev/null; do
        wait $! || true
    done
    code=0
    wait $! || code=$?
    if [ $code -eq 75 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit $code
fi

if [ $# -lt 3 ]; then
    echo "usage: [GPUS=N GPUS_PER_NODE=N CPUS_PER_TASK=N SBATCH_ARGS=...] bash $0" \
        "PARTITION JOB_NAME CONFIG [options]" >&2
    exit 2
fi
partition=$1
job_name=$2
shift 2
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}

# Slurm runs a copy of this script in another folder, so it needs the path of the tools.
tool=$(cd "$(dirname "$0")" && pwd)/train.py
# shellcheck disable=SC2086 # SBATCH_ARGS holds several arguments
exec sbatch \
    --partition="$partition" \
    --job-name="$job_name" \
    --output="%x-%j.out" \
    --open-mode=append \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" \
    --requeue \
    --signal=USR1@120 \
    ${SBATCH_ARGS:-} \
    "$0" --in-job "$tool" "$@"
