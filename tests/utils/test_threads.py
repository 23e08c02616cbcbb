"""Tools choose how threads wait before torch is loaded, unless the user did."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV")
CODE = """
import ddgan.utils.threads
import os, sys
assert "torch" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"))
import torch
"""


def imported(**environment):
    """What a process says that imports the module, and torch after it."""
    clean = {key: value for key, value in os.environ.items() if key not in KNOWN}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_threads_spin_briefly():
    chosen, report = imported(OMP_DISPLAY_ENV="verbose")
    assert int(chosen) <= 3_000
    if "GOMP_SPINCOUNT" not in report:
        pytest.skip("torch is not built with GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{chosen}'" in report


def test_the_users_choice_stays():
    assert imported(GOMP_SPINCOUNT="12345")[0] == "12345"
    assert imported(OMP_WAIT_POLICY="ACTIVE")[0] == "None"


@pytest.mark.parametrize("tool", [path.name for path in sorted((ROOT / "tools").glob("*.py"))])
def test_tools_choose_first(tool):
    tree = ast.parse((ROOT / "tools" / tool).read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == "import ddgan.utils.threads"
