"""The loading benchmark: its rows, and that waiting is what it says."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


def test_rows_and_waiting(tmp_path, tool_environment):
    def measure(*options):
        command = [sys.executable, TOOL, "data", "--size", "8", "--num", "70", "--workers", "0"]
        command += ["--batch-size", "32", "--seconds", "0.2", "--json", tmp_path / "a.json"]
        subprocess.run([*command, *options], env=tool_environment, check=True, capture_output=True)
        return json.loads((tmp_path / "a.json").read_text())

    record = measure("--step-ms", "300")
    assert [row["form"] for row in record["rows"]] == ["folder", "zip", "lmdb", "memmap"]
    assert all(row["images_per_second"] > 0 for row in record["rows"])
    # Beside a step that takes almost no time, waiting is nearly all there is.
    idle = measure("--step-ms", "0.001", "--formats", "folder")
    assert idle["rows"][0]["waiting"] > 0.5
    assert record["rows"][0]["waiting"] < idle["rows"][0]["waiting"]
