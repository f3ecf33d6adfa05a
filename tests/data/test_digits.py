"""The digits of scikit-learn, in shades of bytes; a plain word where it is not installed."""

import sys

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.digits import read_digits
from lorax.data.read import read


def test_all_digits_and_all_shades():
    datasets = pytest.importorskip("sklearn.datasets")
    found, known = read("digits", "digits", task="classification"), datasets.load_digits()
    images = np.array([row["image"] for row in found.rows])
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8
    np.testing.assert_allclose(images / 255, known.images / 16, atol=0.5 / 255)
    assert [row["label"] for row in found.rows] == known.target.tolist()
    assert found.labels == tuple("0123456789") and found.rows[7]["where"] == "digits, 7"


def test_another_path():
    with pytest.raises(LoraxError, match="the path of format 'digits' is 'train': expected one of"):
        read("digits", "train", task="classification")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(LoraxError, match=r"needs scikit-learn: pip install 'lorax-flax\[eval\]'"):
        read_digits()
