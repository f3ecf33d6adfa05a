"""npz archives: splits, forms of labels, compression, and everything that may be wrong."""

import lzma

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.encode import encode
from lorax.data.npz import read_npz
from lorax.data.read import read
from lorax.data.rows import BadRows
from tests.shared_data import shared_path

IMAGES = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)


def write(folder, **arrays):
    """An archive, by its path."""
    np.savez_compressed(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_splits(tmp_path, shape):
    labels = np.array([1, 0, 2, 1, 0]).reshape(shape)
    path = write(tmp_path, x_train=IMAGES, y_train=labels, x_test=IMAGES[:2], y_test=labels[:2])
    train = read("npz", f"{path}:train", task="classification")
    test = read("npz", f"{path}:test", task="classification", labels=train.labels)
    assert train.labels == test.labels == ("0", "1", "2")
    assert [row["label"] for row in train.rows] == [1, 0, 2, 1, 0] and len(test.rows) == 2
    np.testing.assert_array_equal([row["image"] for row in train.rows], IMAGES)
    first = encode(train.rows, None, task="classification", length=1).examples[0]
    np.testing.assert_allclose(first.tokens, IMAGES[0] / 255, rtol=1e-6)
    named = read("npz", f"{path}:train", task="classification", labels=("cat", "dog", "frog"))
    assert named.labels == ("cat", "dog", "frog")


def test_compressed_once_more(tmp_path):
    write(tmp_path, x_a=IMAGES[..., 0], y_a=np.arange(5))
    (tmp_path / "b.npz.xz").write_bytes(lzma.compress((tmp_path / "data.npz").read_bytes()))
    rows, labels = read_npz(f"{tmp_path}/b.npz.xz:a", (), BadRows())
    assert rows[3]["image"].shape == (4, 4) and len(labels) == 5
    assert rows[3]["where"] == f"{tmp_path}/b.npz.xz:x_a, 3"


@pytest.mark.parametrize(
    "name, arrays, match",
    [
        ("", {}, "names no split: expected file.npz:split, data.npz:train say"),
        (":valid", {}, "holds no x_valid and no y_valid: there are x_a, y_a"),
        (":a", {"y_a": np.arange(4)}, "x_a' has 5 images and '.*:y_a' 4 labels"),
        (":a", {"y_a": np.array([0, -2, 1, 1, 1])}, "y_a, label 1: -2 is out of range 0 to 1"),
        (
            ":a",
            {"y_a": np.eye(5)},
            r"y_a in '.*' is float64 of shape \(5, 5\): expected \(N,\) int",
        ),
        (":a", {"x_a": IMAGES / 255}, r"x_a in '.*' is float64 of shape .*: expected uint8 of"),
        (":a", {"x_a": IMAGES[0, 0]}, r"of shape \(4, 3\): expected uint8 of \(N, height"),
        (":a", {"y_a": np.array([None] * 5)}, "cannot read '.*' .Object arrays cannot be loaded"),
    ],
)
def test_mistakes(tmp_path, name, arrays, match):
    path = write(tmp_path, **({"x_a": IMAGES, "y_a": np.zeros(5, int)} | arrays))
    with pytest.raises(LoraxError, match=match) as error:
        read_npz(path + name, (), BadRows())
    assert "\n" not in str(error.value)


def test_what_is_no_archive(tmp_path):
    path = write(tmp_path, x_a=IMAGES, y_a=np.arange(5))
    whole = (tmp_path / "data.npz").read_bytes()
    np.save(tmp_path / "bare.npy", IMAGES)
    bare = (tmp_path / "bare.npy").read_bytes()
    for data in (
        whole[:-20],
        whole[:100],
        b"",
        b"text",
        bare,
        whole[:90] + b"x" * 20 + whole[110:],
    ):
        (tmp_path / "data.npz").write_bytes(data)
        with pytest.raises(
            LoraxError, match="cannot read '.*npz' .*: expected an npz archive; copy"
        ):
            read_npz(f"{path}:a", (), BadRows())
    with pytest.raises(LoraxError, match="'.*none.npz' is not in"):
        read_npz(f"{tmp_path}/none.npz:a", (), BadRows())


def test_real_images(monkeypatch):
    file = shared_path("cifar10_subset/cifar10_small.npz.xz")
    monkeypatch.setenv("LORAX_DATA", str(file.parent.parent))
    found = read("npz", "cifar10_subset/cifar10_small.npz.xz:test", task="classification")
    assert len(found.rows) == 1000 and len(found.labels) == 10
    assert found.rows[0]["image"].shape == (32, 32, 3) and found.rows[0]["label"] == 3
