#!/usr/bin/env bash
# Install what the tests need into .venv, check the code's form and run the tests:
# bash tools/run_tests.sh [pytest's arguments]
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"

ruff check .
ruff format --check .
python -m pytest "$@"
