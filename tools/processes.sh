# Processes of one run on this machine; sourced by dist_train.sh and dist_test.sh.
#
# run_processes GPUS TOOL ARGUMENTS... starts them and exits with their status. SIGTERM, SIGUSR1 and
# SIGHUP are passed on. If this shell is killed, the kernel sends SIGTERM to the processes.

run_processes() {
    local gpus=$1 tool=$2 i status=0 code
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
            "${PYTHON:-python}" -u "$tool" "$@" --launcher pytorch &
        processes+=($!)
    done

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
}
