#!/usr/bin/env bash
# Score on GPUS processes of this machine: bash tools/dist_test.sh GPUS [test.py's arguments]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=N NODE_RANK=I MASTER_ADDR=HOST PORT=P] bash $0 GPUS" \
        "[CONFIG] [CHECKPOINT] --metric NAMES [options]" >&2
    exit 2
fi
gpus=$1
shift

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/test.py" --launcher pytorch "$@"
