"""The example in docs/examples runs, shortened, and imports no more than it says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "minimal_ddgan.py"


def run_example(out, iterations):
    """Mean distance of its samples to the nearest digit after a short training."""
    command = [sys.executable, EXAMPLE, "--iterations", str(iterations), "--out", out]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.search(r"nearest digit: ([\d.]+)", run.stdout)[1])


def test_the_minimal_example_learns_and_draws(tmp_path):
    out = tmp_path / "digits.png"
    untrained, trained = run_example(out, 0), run_example(out, 200)
    assert untrained > 5
    assert trained < 3.3
    with Image.open(out) as image:
        image.load()
        # Sixteen columns and eight rows of digits, black to white.
        assert image.size == (16 * 60, 8 * 60)
        assert image.getextrema() == (0, 255)


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
    assert others == {"torch", "sklearn", "PIL"}
