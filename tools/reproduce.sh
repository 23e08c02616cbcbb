#!/usr/bin/env bash
# Reproduce an experiment of the papers from nothing: bash tools/reproduce.sh gaussians25 [options]
# Creates the environment first. Run it again to continue. --list shows all experiments.
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"
# The extra "eval", for FID, IS and recall at full size. setup.py names its packages.
if [[ " $* " != *" --small "* && " $* " != *" --list "* ]] &&
    ! python -c 'import importlib.metadata as m; m.version("torch-fidelity"); m.version("timm")' \
        2>/dev/null; then
    echo "Installing what the metrics of images need (once)"
    python -m pip install --quiet --disable-pip-version-check --constraint requirements-dev.lock \
        torch torchvision torch-fidelity timm
fi
exec python tools/reproduce.py "$@"
