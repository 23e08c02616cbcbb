#!/usr/bin/env bash
# Create .venv with the locked dependencies and this package, or reuse it. Sourced by the scripts
# that need it; afterwards `python` is that of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

base_python=${PYTHON:-python3}
if ! "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: $base_python is $("$base_python" --version 2>&1); Python 3.10 or newer is needed." \
        "Set PYTHON to one." >&2
    exit 1
fi

# requirements.lock has what the package needs, LOCK=requirements-dev.lock also what the tests need.
lock=${LOCK:-requirements.lock}
fingerprint() { echo "$(cat "$1" setup.py | cksum) $("$base_python" --version)"; }
installed() { [ -f .venv/lock ] && grep -qxF "$(fingerprint "$1")" .venv/lock; }
if ! installed "$lock" && ! installed requirements-dev.lock; then
    echo "Installing the versions of $lock into .venv (a few minutes, once)"
    installed requirements.lock || rm -rf .venv
    [ -d .venv ] || "$base_python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$lock"
    # mmengine imports OpenCV, whose default build needs the libraries of a desktop.
    if ! .venv/bin/python -c 'import cv2' 2>/dev/null; then
        opencv=$(sed -n 's/^opencv-python==//p' requirements.lock)
        .venv/bin/python -m pip uninstall --quiet --yes opencv-python
        .venv/bin/python -m pip install --quiet "opencv-python-headless==$opencv"
    fi
    fingerprint "$lock" >>.venv/lock
fi
sources="$(find csrc setup.py -type f ! -name '*.pyc' -exec cksum {} + 2>/dev/null | sort | cksum)"
if [ ! -f .venv/built ] || [ "$(cat .venv/built)" != "$sources" ]; then
    echo "Building the package and its compiled operations"
    # The GPUs of a whole cluster, from V100 on, of which the toolkit may know only the newer; others
    # compile the PTX when they first run it.
    export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-7.0 7.5 8.0 9.0+PTX}"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --no-deps --no-build-isolation --editable .
    echo "$sources" >.venv/built
fi
export PATH="$PWD/.venv/bin:$PATH"
