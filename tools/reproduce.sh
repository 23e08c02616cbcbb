#!/usr/bin/env bash
# Reproduce an experiment of the papers from nothing: bash tools/reproduce.sh gaussians25 [options]
# Creates the environment first. Run it again to continue. --list shows all experiments.
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"
exec python tools/reproduce.py "$@"
