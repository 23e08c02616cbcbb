#!/usr/bin/env bash
# Train on GPUS processes of this machine: bash tools/dist_train.sh CONFIG GPUS [train.py's options]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set.
#
# SIGTERM, SIGUSR1 and SIGHUP are passed on to the processes. The exit status is theirs: 75 means that the
# run saved a checkpoint after such a signal; start it again with --resume. torchrun can start
# tools/train.py too, but turns every status into 1 and leaves 30 seconds for a checkpoint.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=N NODE_RANK=I MASTER_ADDR=HOST PORT=P] bash $0 CONFIG GPUS [options]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

export WORLD_SIZE=$((${NNODES:-1} * gpus))
export MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
export MASTER_PORT=${PORT:-29500}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

processes=()
signalled=
tell() {
    signalled=1
    kill -s "$1" "${processes[@]}" 2>/dev/null || true
}
trap 'tell USR1' TERM USR1 HUP
trap 'tell KILL; exit 130' INT

for ((i = 0; i < gpus; i++)); do
    RANK=$((${NODE_RANK:-0} * gpus + i)) LOCAL_RANK=$i \
        "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@" &
    processes+=($!)
done

status=0
while true; do
    signalled=
    code=0
    wait -n || code=$?
    if [ -n "$signalled" ]; then
        continue
    elif [ $code -eq 127 ]; then # None is left.
        exit $status
    elif [ $code -eq 75 ]; then
        status=75
    elif [ $code -ne 0 ]; then
        break
    fi
done

# A process failed. The others notice, or wait for it for ever.
for ((i = 0; i < 200; i++)); do
    kill -0 "${processes[@]}" 2>/dev/null || break
    sleep 0.1
done
kill -KILL "${processes[@]}" 2>/dev/null || true
wait
exit $code
