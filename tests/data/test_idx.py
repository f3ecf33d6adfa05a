"""idx files: arrays as written, labels found beside images, damage told."""

import gzip
import lzma
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lorax.core.errors import LoraxError
from lorax.data.idx import read_idx, read_images
from lorax.data.rows import BadRows
from tests.shared_data import shared_path

IMAGES = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)


def idx(array):
    """The bytes of an idx file."""
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + bytes(array)
    )


def write(folder, labels=(2, 0, 1), prefix="train", dash="-"):
    """A set of three images."""
    labels = np.array(labels, np.uint8)
    (folder / f"{prefix}-images{dash}idx3-ubyte").write_bytes(idx(IMAGES))
    (folder / f"{prefix}-labels{dash}idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared by all draws of a property."""
    return tmp_path_factory.mktemp("idx")


@given(
    st.integers(1, 3).flatmap(
        lambda n: arrays.arrays(np.uint8, arrays.array_shapes(min_dims=n, max_dims=n, min_side=0))
    )
)
def test_an_array_comes_back(folder, array):
    (folder / "x.xz").write_bytes(lzma.compress(idx(array), preset=0))
    np.testing.assert_array_equal(read_idx(folder / "x.xz", array.ndim), array)


@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("name", ["train", "train-images{}idx3-ubyte"])
def test_labels_are_found_beside_images(tmp_path, dash, name):
    write(tmp_path, dash=dash)
    found = read_images(str(tmp_path / name.format(dash)), 3, BadRows())
    assert [record["label"] for record in found] == [2, 0, 1]
    np.testing.assert_array_equal([record["image"] for record in found], IMAGES)


@pytest.mark.parametrize(
    "data, match",
    [
        (b"", "begins with nothing: expected 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00 00 0d 03"),
        (idx(IMAGES)[:-1], r"expected 40 bytes.*\(shape \(3, 2, 4\)\), found 39; copy it again"),
        (idx(IMAGES) + b"x", "is cut off or damaged: expected 40 bytes.*, found 41; copy"),
        (idx(IMAGES)[:9], r"expected 16 bytes.* \(shape unknown\), found 9"),
        (b"\x00\x00\x08\x03" + struct.pack(">3i", -1, 2, -1) + b"xx", r"\(shape \(4294967295, "),
    ],
)
def test_damaged_files(tmp_path, data, match):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(LoraxError, match=match):
        read_idx(tmp_path / "x", 3)


def test_a_damaged_archive_says_what_was_expected_and_what_was_found(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(30, 28, 28)).astype(np.uint8)
    packed = lzma.compress(idx(noise), preset=0)
    file = tmp_path / "train-images-idx3-ubyte.xz"
    for damaged in (packed[: len(packed) // 2], packed[:-40], packed[:-500] + bytes(500)):
        file.write_bytes(damaged)
        with pytest.raises(LoraxError, match="expected 23,536 bytes.*, found .* before") as error:
            read_images(str(tmp_path / "train"), 10, BadRows())
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    file.write_bytes(packed[:20])
    with pytest.raises(LoraxError, match=r"cannot read '.*ubyte.xz' \(.*found 0 bytes"):
        read_idx(file, 3)


def test_wrong_sets(tmp_path):
    write(tmp_path, labels=(2, 10, 1))
    with pytest.raises(LoraxError, match="label 1: 10 is out of range 0 to 9"):
        read_images(str(tmp_path / "train"), 10, BadRows())
    bad = BadRows("skip")
    assert len(read_images(str(tmp_path / "train"), 10, bad)) == 2 and bad.count == 1
    write(tmp_path, labels=(2,))
    with pytest.raises(LoraxError, match="has 3 images and .* 1 labels"):
        read_images(str(tmp_path / "train"), 10, BadRows())
    with pytest.raises(LoraxError, match="'.*test-images-idx3-ubyte' is not in"):
        read_images(str(tmp_path / "test"), 10, BadRows())
    with pytest.raises(LoraxError, match="is no file of images: expected a name with images-idx3"):
        read_images(str(tmp_path / "train-labels-idx1-ubyte.gz"), 10, BadRows())
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(LoraxError, match="'.*train-labels-idx1-ubyte' is not in"):
        read_images(str(tmp_path / "train"), 10, BadRows())


def test_real_digits():
    file = shared_path("mnist/t10k-images-idx3-ubyte.xz")
    found = read_images(str(file.parent / "t10k"), 10, BadRows())
    assert len(found) == 10_000 and found[0]["image"].shape == (28, 28)
    assert [record["label"] for record in found[:5]] == [7, 2, 1, 0, 4]
