#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most ten minutes on an H100:
# bash tools/gpu_check.sh [folder for logs and numbers, default gpu_check]
#
# Builds the operators for this GPU, runs their tests and those of training, and measures. It needs
# PyTorch, mmengine, pytest and nvcc; no network and no data (with data/mnist it also trains on
# StackedMNIST). A step that fails or takes too long does not stop the others. The status is 0 if
# all steps passed, 1 if one did not, 2 without a GPU.
#
# DEVICE=cpu rehearses the steps with tiny sizes; STEPS="sample train" runs these alone; PYTHON is
# the interpreter, SECONDS_IN_ALL the time limit.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

device=${DEVICE:-cuda}
python=${PYTHON:-python}
limit=${SECONDS_IN_ALL:-600}
out=$(realpath -m "${1:-gpu_check}")
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ "$device" = cuda ]; then
    arch=$("$python" -c 'import torch
c = torch.cuda
print("%d.%d" % c.get_device_capability() if c.is_available() else "none")') || {
        echo "error: $python cannot import torch; set PYTHON to an interpreter with PyTorch" >&2
        exit 2
    }
    if [ "$arch" = none ]; then
        echo "error: PyTorch finds no GPU; check nvidia-smi and that PyTorch is a CUDA build." \
            "DEVICE=cpu rehearses the steps without one" >&2
        exit 2
    fi
    export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$arch}" DDGAN_CUDA=1
fi
mkdir -p "$out" || exit 1
summary=$out/summary.txt
: >"$summary"
begin=$(date +%s)
failed=0

# step NAME SECONDS COMMAND...: run a command into NAME.log, within its time and that of all.
step() {
    local name=$1 seconds=$2 left start code result
    shift 2
    case " ${STEPS:-$name} " in *" $name "*) ;; *) return ;; esac
    start=$(date +%s)
    left=$((begin + limit - start))
    if [ "$left" -le 0 ]; then
        result="not run: $limit s are over"
    else
        echo "$name ..."
        echo "\$ $*" >"$out/$name.log"
        timeout --kill-after=10 $((seconds < left ? seconds : left)) "$@" >>"$out/$name.log" 2>&1
        code=$?
        case $code in
            0) result=passed ;;
            124 | 137) result="time is up" ;;
            *) result="failed with $code" ;;
        esac
    fi
    [ "$result" = passed ] || failed=$((failed + 1))
    printf '%-22s %-22s %5d s\n' "$name" "$result" $(($(date +%s) - start)) >>"$summary"
}
skip() {
    case " ${STEPS:-$1} " in *" $1 "*) printf '%-22s %s\n' "$1" "left out: $2" >>"$summary" ;; esac
}
bench() { # bench NAME SECONDS ARGUMENTS...
    local name=$1 seconds=$2
    shift 2
    step "$name" "$seconds" "$python" tools/benchmark.py "$@" --device "$device" \
        --json "$out/$name.json"
}

small=()
if [ "$device" = cuda ]; then
    step build 240 "$python" setup.py build_ext --inplace
    step device 30 "$python" -m ddgan.ops
    # Without the operators all of their tests are skipped, which is no success.
    step tests 180 bash -c '"$0" -m pytest -rs -p no:cacheprovider tests/ops/test_cuda_device.py \
        tests/models/test_graphs.py tests/test_cuda_training.py && "$0" -c \
        "from ddgan.ops.backend import built_for, load; assert built_for(\"cuda\"), load()"' "$python"
    fast=(--amp bf16 --channels-last)
    graph=(--cuda-graph)
    memory=(--batch-size 4)
    iterations=1000
else
    step device 60 "$python" -m ddgan.ops
    step tests 60 "$python" -m pytest -p no:cacheprovider tests/models/test_graphs.py
    small=(--width 16 --batch-size 4 --rounds 1 --cfg-options model.generator.image_size=8
        "model.generator.channel_multipliers=[1,2]" model.generator.num_res_blocks=1
        "model.discriminator.blocks=[[128,False],[128,True]]")
    fast=(--amp bf16)
    graph=()
    memory=(--width 8 --batch-size 1)
    iterations=20
fi

if [ "$device" = cuda ]; then
    bench ops 90 ops --no-compile --rounds 5
else
    bench ops 60 ops --no-compile --rounds 1 --size 2 32 8 8
fi
bench sample_float32 60 sample --against plain limit reference "${small[@]}"
bench sample 60 sample --against plain limit "${fast[@]}" "${graph[@]}" "${small[@]}"
bench train_float32 60 train --against plain limit reference "${small[@]}"
bench train 60 train --against plain limit "${fast[@]}" "${small[@]}"
bench options 90 options "${small[@]}"
bench memory_256 60 train --memory --against plain --config configs/ddgan_celebahq256.py \
    "${memory[@]}"
bench memory_256_least 60 train --memory "${fast[@]}" \
    --config configs/ddgan_celebahq256.py "${memory[@]}" \
    --cfg-options model.{generator,discriminator}.checkpoint_activations=True
bench runner 60 runner --iterations $((iterations / 10))
if [ "$device" = cuda ]; then
    bench train_compiled 180 train "${fast[@]}" --compile --against plain
fi

# train NAME SECONDS CONFIG OPTIONS...: a short run, and its modes.
train() {
    local name=$1 seconds=$2 config=$3
    shift 3
    rm -rf "${out:?}/$name"
    step "$name" "$seconds" bash -c 'python=$1 device=$2 config=$3 folder=$4 && shift 4 &&
        "$python" tools/train.py "$config" --work-dir "$folder" --device "$device" --amp bf16 \
            --cfg-options "$@" &&
        "$python" tools/test.py "$folder"/iter_*.pth --metric modes --num 2560 --device "$device"' \
        train "$python" "$device" "$config" "$out/$name" "train_cfg.max_iters=$iterations" "$@"
}
train gaussians25 90 configs/ddgan_gaussians25.py
if [ -d data/mnist ]; then
    train stackedmnist 180 configs/ddgan_stackedmnist.py
else
    skip stackedmnist "no data/mnist"
fi

# Last, since they take whatever time is left.
for tool in memcheck racecheck synccheck; do
    if [ "$device" = cuda ] && command -v compute-sanitizer >/dev/null; then
        # Without PyTorch's cache each tensor has its own memory, so out-of-bounds access shows.
        step $tool 120 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool \
            --error-exitcode 9 "$python" -m pytest -p no:cacheprovider \
            tests/ops/test_cuda_device.py -k "(small and float32) or derivatives_of_a_team"
    else
        skip $tool "no GPU or no compute-sanitizer"
    fi
done

echo
cat "$summary"
echo "Logs and numbers are in $out"
[ "$failed" -eq 0 ]
