"""The example in docs/examples runs, shortened, and imports no more than it says."""

import ast
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "minimal_ddgan.py"


def test_the_minimal_example_trains_samples_and_draws(tmp_path):
    out = tmp_path / "points.png"
    command = [sys.executable, EXAMPLE, "--iterations", "20", "--batch-size", "16", "--out", out]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "of 25 modes" in run.stdout
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_minimal_example_needs_no_framework():
    imported = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    own = {name for name in imported if name.split(".")[0] == "ddgan"}
    assert own == {"ddgan.diffusion", "ddgan.models.losses", "ddgan.networks"}
    others = {name.split(".")[0] for name in imported - own} - set(sys.stdlib_module_names)
    assert others == {"torch", "matplotlib"}
