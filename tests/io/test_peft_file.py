import numpy as np
import pytest

from lorax import LoraxError
from lorax.io.peft_config import TENSORS_NAME
from lorax.io.peft_file import AdapterFile
from lorax.io.tensors import write_tensors

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def _opened(folder, tensors, bare=()):
    write_tensors(folder / TENSORS_NAME, tensors)
    return AdapterFile(folder, "p.", lambda key: key.removeprefix("p."), bare)


def test_every_tensor_is_taken_once(tmp_path):
    file = _opened(tmp_path, {"p.a": ONE, "b": ONE}, bare=("b",))
    assert file.shape("a") == (2, 3) and file.shape("c") is None
    np.testing.assert_array_equal(file.take("a", (2, 3)), ONE)
    with pytest.raises(LoraxError, match="tensor 'b' is not expected .* this int: no part of it"):
        file.check_all_taken(3)
    file.take("b", (2, 3))
    file.check_all_taken(3)
    with pytest.raises(KeyError):
        file.take("a", (2, 3))


def test_keys_that_peft_would_pass_over(tmp_path):
    with pytest.raises(LoraxError, match="tensor 'a' lacks the prefix 'p.'"):
        _opened(tmp_path, {"a": ONE})
    with pytest.raises(LoraxError, match="are one: expected one"):
        _opened(tmp_path, {"p.a": ONE, "a": ONE}, bare=("a",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ONE.T, r"shape \(3, 2\)"),
        (ONE * np.float32(np.nan), "NaN"),
        (ONE.astype(np.int32), "is int32"),
        (ONE.astype(np.float64), "jax_enable_x64"),
    ],
)
def test_what_is_taken_is_checked(tmp_path, array, message):
    file = _opened(tmp_path, {"p.a": array})
    with pytest.raises(LoraxError, match=message):
        file.take("a", (2, 3))


def test_no_file(tmp_path):
    with pytest.raises(LoraxError, match="does not exist: expected a folder that PEFT wrote"):
        AdapterFile(tmp_path, "p.", str)
