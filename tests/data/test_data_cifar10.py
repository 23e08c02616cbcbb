"""The CIFAR-10 reader: files of the published form, damaged ones and malicious ones."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan.data import CIFAR10, cifar10


def batch(seed: int, count: int = 4) -> dict:
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"a batch",
        b"labels": [int(x) for x in rng.integers(0, 10, count)],
        b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"a.png"] * count,
    }


def python2_pickle(content: dict) -> bytes:
    """The bytes that Python 2 wrote (protocol 2, numpy 1): opcodes by hand."""

    def text(raw: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(raw)) + raw

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def array(values: np.ndarray) -> bytes:
        shape = b"".join(integer(n) for n in values.shape)
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR"
        dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0)
        made += b"t" + text(b"b") + b"tR"
        state = b"(" + integer(1) + b"(" + shape + b"t" + dtype + b"I00\n" + text(values.tobytes())
        return made + state + b"tb"

    labels = b"](" + b"".join(integer(x) for x in content[b"labels"]) + b"e"
    pairs = text(b"labels") + labels + text(b"data") + array(content[b"data"])
    return b"\x80\x02}(" + pairs + b"u."


def write(root: Path, make=lambda b: pickle.dumps(b, protocol=2)) -> list[dict]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batches = [batch(i) for i in range(6)]
    for content, name in zip(batches, cifar10.MD5, strict=True):
        (folder / name).write_bytes(make(content))
    return batches


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "python2"])
def test_reads_what_was_written(tmp_path, protocol):
    make = python2_pickle if protocol == "python2" else lambda b: pickle.dumps(b, protocol)
    batches = write(tmp_path, make)
    data = CIFAR10(tmp_path, verify=False)
    assert len(data) == 20
    assert data.image_shape == (3, 32, 32)
    rows = np.concatenate([b[b"data"] for b in batches[:5]])
    labels = [x for b in batches[:5] for x in b[b"labels"]]
    for i, item in enumerate(data[j] for j in range(20)):
        assert item["x"].dtype == torch.uint8
        # The red value of row 2, column 5 is the 2 * 32 + 5th of a record; blue begins at 2048.
        assert item["x"][0, 2, 5] == rows[i, 2 * 32 + 5]
        np.testing.assert_array_equal(item["x"][2].numpy().ravel(), rows[i, 2048:])
        assert (item["label"], item["index"]) == (labels[i], i)
    test = CIFAR10(tmp_path / "cifar-10-batches-py", split="test", verify=False)
    np.testing.assert_array_equal(test.images.numpy().reshape(4, -1), batches[5][b"data"])
    assert test.digest() != data.digest()


def test_by_hand_pickle_is_what_numpy_reads():
    content = batch(0)
    read = pickle.loads(python2_pickle(content), encoding="latin1")
    np.testing.assert_array_equal(read["data"], content[b"data"])


def test_digests_are_checked(tmp_path, monkeypatch):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1 has MD5 .* expected c99cafc1"):
        CIFAR10(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(cifar10, "MD5", digests)
    assert len(CIFAR10(tmp_path)) == 20
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_3 has MD5"):
        CIFAR10(tmp_path)


def test_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_batch_1 is missing.*kriz/cifar\.html"):
        CIFAR10(tmp_path)
    with pytest.raises(ValueError, match="split is 'val'"):
        CIFAR10(tmp_path, split="val")


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_executes_nothing(tmp_path, protocol):
    trace = tmp_path / "executed"
    write(tmp_path, lambda b: pickle.dumps({**b, b"labels": Shell(trace)}, protocol))
    with pytest.raises(ValueError, match=r"refers to (posix|os)\.system"):
        CIFAR10(tmp_path, verify=False)
    assert not trace.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cnumpy\ndtype\n(S'O8'\ntR.",  # an array of objects
        b"c_codecs\nencode\n(Va\nVrot13\ntR.",
        b"c_codecs\nencode\n.",
        b"cnumpy\nndarray\n(V__class__\nI1\ntb.",
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"",
        b"}.",
        b"\x80\x02}(U\x04data",
        b"]r\xff\xff\xff\x7f.",  # the memo entry 2**31 - 1
        b"\x80\x05\x96" + bytes([0, 0, 0, 0, 64, 0, 0, 0]) + b".",  # a bytearray of 2**38 bytes
    ],
)
def test_other_content_is_refused(tmp_path, payload):
    write(tmp_path, lambda b: payload)
    with pytest.raises(ValueError, match="is not a CIFAR-10 batch"):
        CIFAR10(tmp_path, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        {b"labels": [1, 2]},
        {b"labels": [1, 2, 3, 10]},
        {b"labels": [1, 2, 3, "4"]},
        {b"data": np.zeros((4, 3071), dtype=np.uint8)},
        {b"data": np.zeros((4, 3072), dtype=np.float32)},
        {b"data": [0] * 3072},
    ],
)
def test_wrong_contents_are_refused(tmp_path, change):
    write(tmp_path, lambda b: pickle.dumps({**b, **change}, protocol=2))
    with pytest.raises(ValueError, match="is not a CIFAR-10 batch"):
        CIFAR10(tmp_path, verify=False)
