"""ImageMemmap: contents, labels, worker processes, and files that are not what they should be."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ddgan.data import ImageMemmap, StorageError

RNG = np.random.default_rng


def store(path, count=10, labels=True):
    images = RNG(0).integers(0, 256, (count, 3, 5, 4), dtype=np.uint8)
    np.save(path, images)
    if labels:
        np.save(path.with_suffix(".labels.npy"), np.arange(count, dtype=np.int32) * 3)
    return images


def test_contents_and_batches(tmp_path):
    images = store(tmp_path / "a.npy")
    data = ImageMemmap(tmp_path / "a.npy")
    assert (len(data), data.image_shape) == (10, (3, 5, 4))
    items = data.__getitems__([7, 0, 7, 9])
    for item, i in zip(items, (7, 0, 7, 9), strict=True):
        np.testing.assert_array_equal(item["x"].numpy(), images[i])
        assert (item["index"], item["label"]) == (i, 3 * i)
        # What is given away can be changed without harm to the file.
        item["x"].zero_()
    np.testing.assert_array_equal(data[7]["x"].numpy(), images[7])
    for outside in (10, -1):
        with pytest.raises(IndexError):
            data[outside]


def test_workers_give_the_same(tmp_path):
    store(tmp_path / "a.npy")
    data = ImageMemmap(tmp_path / "a.npy", num_images=7)
    for ours, theirs in zip(DataLoader(data, 3), DataLoader(data, 3, num_workers=1), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("x", "label", "index"))


def test_a_file_larger_than_memory_is_mapped_and_not_copied(tmp_path):
    shape = (100_000, 3, 1024, 1024)
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, np.uint8)) | {"shape": shape}
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.seek(start + 99_999 * 3 * 1024 * 1024)
        file.write(b"\7")
        # The file is sparse: it takes no room on the disk.
        os.truncate(file.fileno(), start + int(np.prod(shape)))
    data = ImageMemmap(tmp_path / "a.npy", image_size=1024)
    assert data[99_999]["x"][0, 0, 0] == 7
    assert data.__getitems__([5])[0]["x"].sum() == 0
    assert len(pickle.dumps(data)) < 10_000
    assert pickle.loads(pickle.dumps(data))[99_999]["x"][0, 0, 0] == 7


def test_a_file_that_shrinks_is_no_bus_error(tmp_path):
    store(tmp_path / "a.npy")
    data = ImageMemmap(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 200)
    with pytest.raises(StorageError, match=r"a\.npy became shorter"):
        data[9]


def test_digest_follows_the_content(tmp_path):
    images = store(tmp_path / "a.npy")
    digests = {ImageMemmap(tmp_path / "a.npy", num_images=n).digest() for n in (9, 10)}
    (tmp_path / "a.labels.npy").unlink()
    digests.add(ImageMemmap(tmp_path / "a.npy").digest())
    images[-1, 0, 0, 0] ^= 1
    np.save(tmp_path / "a.npy", images)
    digests.add(ImageMemmap(tmp_path / "a.npy").digest())
    assert len(digests) == 4
    np.save(tmp_path / "b.npy", images)
    assert ImageMemmap(tmp_path / "b.npy").digest() in digests


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_read(tmp_path):
    harmful = np.array([Harm(tmp_path / "executed")], dtype=object)
    np.save(tmp_path / "a.npy", harmful, allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot be read as a \.npy file"):
        ImageMemmap(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(harmful))
    with pytest.raises(ValueError, match=r"cannot be read as a \.npy file"):
        ImageMemmap(tmp_path / "b.npy")
    store(tmp_path / "c.npy")
    np.save(tmp_path / "c.labels.npy", harmful, allow_pickle=True)
    with pytest.raises(ValueError, match="remove or repair it"):
        ImageMemmap(tmp_path / "c.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4, 4), np.float32),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((0, 3, 4, 4), np.uint8),
        np.asfortranarray(np.zeros((2, 3, 4, 4), np.uint8)),
    ],
    ids=["float", "channels last", "3-d", "empty", "fortran"],
)
def test_other_arrays_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, C, H, W\)"):
        ImageMemmap(tmp_path / "a.npy")


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py"):
        ImageMemmap(tmp_path / "a.npy")
    store(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"images of 4x5 .* image_size=4"):
        ImageMemmap(tmp_path / "a.npy", image_size=4)
    with pytest.raises(ValueError, match="has 10 images, but num_images=11"):
        ImageMemmap(tmp_path / "a.npy", num_images=11)
    np.save(tmp_path / "a.labels.npy", np.arange(9))
    with pytest.raises(ValueError, match=r"holds int64 \(9,\), expected one integer"):
        ImageMemmap(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="prepare it again"):
        ImageMemmap(tmp_path / "a.npy")
    with (tmp_path / "b.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(ValueError, match="expected uint8 images"):
        ImageMemmap(tmp_path / "b.npy")
