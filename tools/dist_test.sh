#!/usr/bin/env bash
# Score on GPUS processes of this machine: bash tools/dist_test.sh GPUS [test.py's arguments]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set.
#
# SIGTERM, SIGUSR1 and SIGHUP end the processes, and so does the end of this script in any way.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=N NODE_RANK=I MASTER_ADDR=HOST PORT=P] bash $0 GPUS" \
        "[CONFIG] [CHECKPOINT] --metric NAMES [options]" >&2
    exit 2
fi
gpus=$1
shift

# shellcheck source=tools/processes.sh
source "$(dirname "$0")/processes.sh"
run_processes "$gpus" "$(dirname "$0")/test.py" "$@"
