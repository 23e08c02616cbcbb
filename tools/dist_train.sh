#!/usr/bin/env bash
# Train on GPUS processes of this machine: bash tools/dist_train.sh CONFIG GPUS [train.py's options]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set.
#
# SIGTERM, SIGUSR1 and SIGHUP are passed on to the processes, which get SIGTERM as well when this
# script is killed. The exit status is theirs: 75 means that the run saved a checkpoint after such a signal; start it again with --resume. torchrun can start
# tools/train.py too, but turns every status into 1 and leaves 30 seconds for a checkpoint.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=N NODE_RANK=I MASTER_ADDR=HOST PORT=P] bash $0 CONFIG GPUS [options]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

# shellcheck source=tools/processes.sh
source "$(dirname "$0")/processes.sh"
run_processes "$gpus" "$(dirname "$0")/train.py" "$config" "$@"
