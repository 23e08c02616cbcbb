"""prepare_data.py interrupted, on a full disk, with damaged parts, and next to another process."""

import contextlib
import fcntl
import itertools
import multiprocessing
import os
import re
import resource
import signal

import numpy as np
import pytest
from test_prepare_data import (
    READERS,
    make_folder,
    make_raw_lmdb,
    make_zip,
    values_of,
)

from ddgan.data import ImageMemmap, prepare
from ddgan.data.sources import open_source


def prepare_and_die(source, made, form, workers, moment, after):
    """Prepare, and kill this process when ``after`` images of a stage are done."""

    @contextlib.contextmanager
    def progress(label, total):
        done = itertools.count(1)

        def advance(count):
            for _ in range(count):
                if next(done) == after and label == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        yield advance

    prepare.prepare(open_source(source), made, form, progress, workers)


@pytest.mark.parametrize(
    ("form", "ending", "workers", "moment", "after"),
    [
        ("zip", "zip", 0, "preparing", 6),
        ("memmap", "npy", 1, "preparing", 6),
        ("lmdb", "lmdb", 0, "writing", 5),
        ("zip", "zip", 0, "verifying", 4),
    ],
)
def test_killed_and_started_again(tmp_path, monkeypatch, form, ending, workers, moment, after):
    images, labels = make_zip(tmp_path / "a.zip", 11)
    made = tmp_path / f"made.{ending}"
    monkeypatch.setattr(prepare, "SHARD", 3)
    arguments = (tmp_path / "a.zip", made, form, workers, moment, after)
    process = multiprocessing.get_context("fork").Process(target=prepare_and_die, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not made.exists()
    decoded = []
    source = open_source(tmp_path / "a.zip")
    image = source.image
    source.image = lambda i: decoded.append(i) or image(i)
    result = prepare.prepare(source, made, form, bars)
    assert result.resumed >= 6
    assert decoded == list(range(result.resumed, 11))
    data = READERS[ending](made)
    for i in range(11):
        np.testing.assert_array_equal(data[i]["x"].permute(1, 2, 0).numpy(), images[i])
        assert data[i]["label"] == labels[i]
    assert not list(tmp_path.glob("*.partial"))


def half_made(tmp_path, monkeypatch):
    """A stage whose shards are done, but nothing put together."""
    make_raw_lmdb(tmp_path / "a.lmdb", 7)
    monkeypatch.setattr(prepare, "SHARD", 3)
    with monkeypatch.context() as broken:
        broken.setattr(prepare, "_finish", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(open_source(tmp_path / "a.lmdb"), tmp_path / "b.npy", "memmap", bars)
    return tmp_path / "b.npy.partial"


def bars(label, total):
    return contextlib.nullcontext(lambda count: None)


def test_damaged_parts_are_found_and_made_anew(tmp_path, call_tool, monkeypatch):
    stage = half_made(tmp_path, monkeypatch)
    part = stage / "000001.bin"
    part.write_bytes(part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1]))
    tool = ("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy", "--workers", 0)
    arguments = ("--crop", "none")
    status, output = call_tool(*tool, *arguments)
    assert status == 1
    assert "image 5 of memmap" in output
    assert "differs from what was decoded" in output
    assert not (tmp_path / "b.npy").exists()
    status, output = call_tool(*tool, *arguments)
    assert (status, "were there from before" in output) == (0, False)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy")[5].transpose(1, 2, 0), values_of(5))


def test_parts_that_are_cut_short_are_made_anew(tmp_path, call_tool, monkeypatch):
    stage = half_made(tmp_path, monkeypatch)
    for name in ("000000.bin", "000001.bin"):
        (stage / name).write_bytes((stage / name).read_bytes()[:-1])
    (tmp_path / "b.labels.npy").write_bytes(b"of an older file")
    tool = ("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy", "--workers", 0)
    assert call_tool(*tool, "--crop", "none")[0] == 0
    assert len(ImageMemmap(tmp_path / "b.npy")) == 7
    assert "label" not in ImageMemmap(tmp_path / "b.npy")[0]


@pytest.mark.parametrize(
    ("name", "content", "kept"), [("000001.json", b"[{", 4), ("recipe.json", b"\xff", 0)]
)
def test_damaged_lists_are_made_anew(tmp_path, call_tool, monkeypatch, name, content, kept):
    stage = half_made(tmp_path, monkeypatch)
    (stage / name).write_bytes(content)
    tool = ("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy", "--workers", 0)
    status, output = call_tool(*tool, "--crop", "none")
    assert status == 0, output
    assert re.findall(r"(\d+) were there from before", output) == [str(kept)] * (kept > 0)
    assert len(ImageMemmap(tmp_path / "b.npy")) == 7


def test_a_stage_that_outlived_its_work_is_cleared_away(tmp_path, call_tool, monkeypatch):
    """As when the process is killed after the destination has its name."""
    stage = half_made(tmp_path, monkeypatch)
    tool = ("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy", "--workers", 0)
    with monkeypatch.context() as broken:
        broken.setattr(prepare.shutil, "rmtree", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call_tool(*tool, "--crop", "none")
    assert stage.exists()
    status, output = call_tool(*tool, "--crop", "none")
    assert (status, "7 were there from before" in output) == (0, True), output
    assert not stage.exists()


def test_a_folder_of_others_is_left_alone(tmp_path, call_tool):
    make_zip(tmp_path / "a.zip", 3)
    (tmp_path / "b.zip.partial").mkdir()
    (tmp_path / "b.zip.partial" / "thesis.txt").write_text("mine")
    tool = ("prepare_data", tmp_path / "a.zip", tmp_path / "b.zip", "--workers", 0)
    status, output = call_tool(*tool)
    assert status == 1
    assert "holds other files, such as thesis.txt" in output
    assert (tmp_path / "b.zip.partial" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("ending", ["zip", "lmdb", "npy"])
@pytest.mark.parametrize("limit", [8_000, 40_000])
def test_a_full_disk_ends_with_one_message(tmp_path, call_tool, ending, limit):
    """No file may grow beyond a limit: at first the parts do, then what is made of them."""
    make_folder(tmp_path / "in", 300)
    made = tmp_path / f"made.{ending}"
    tool = ("prepare_data", tmp_path / "in", made, "--workers", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        status, output = call_tool(*tool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1, output
    part = "000000.bin" if limit < 10_000 else f"final.{ending}"
    assert re.search(rf"error: .*{part} cannot be written \(.*free space there", output), output
    assert not made.exists()
    status, output = call_tool(*tool)
    assert status == 0, output
    assert ("were there from before" in output) == (limit > 10_000)
    assert len(READERS[ending](made)) == 300


def test_other_options_start_over(tmp_path, call_tool, monkeypatch):
    half_made(tmp_path, monkeypatch)
    tool = ("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy", "--workers", 0)
    status, output = call_tool(*tool, "--size", 4)
    assert (status, "were there from before" in output) == (0, False)
    assert ImageMemmap(tmp_path / "b.npy").image_shape == (3, 4, 4)
    status, output = call_tool(*tool, "--size", 6)
    assert status == 1
    assert "is there already, and was not made from this source with these options" in output


def hold(path, held, done):
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        held.set()
        done.wait(60)


def test_only_one_process_at_a_time(tmp_path, call_tool, monkeypatch):
    stage = half_made(tmp_path, monkeypatch)
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(stage / "lock", held, done))
    process.start()
    try:
        assert held.wait(60)
        status, output = call_tool("prepare_data", tmp_path / "a.lmdb", tmp_path / "b.npy")
        assert status == 1
        assert "in use by another process" in output
    finally:
        done.set()
        process.join()
