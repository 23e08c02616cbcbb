#!/usr/bin/env bash
# Reproduce an experiment of the papers from nothing: bash tools/reproduce.sh gaussians25 [options]
# Makes the environment first; run again, it goes on where it was. --list shows all experiments.
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"
exec python tools/reproduce.py "$@"
