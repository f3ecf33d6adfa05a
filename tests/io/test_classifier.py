"""A classifier that no file has: drawn where it is wanted, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax import LoraxError
from lorax.io.classifier import HEAD_DEVIATION, drawn_parts, in_classifier, is_new
from tests.io.tiny import llama, roberta

FLOAT = np.dtype(jnp.bfloat16)
STORED, KEPT, OTHER = roberta(head="masked_lm"), roberta(), roberta(labels=200)


def test_it_is_new_where_the_file_has_none_or_one_for_other_labels():
    assert is_new(STORED, KEPT) and is_new(KEPT, OTHER)
    assert not is_new(KEPT, KEPT) and not is_new(KEPT, roberta(head="none"))
    assert not is_new(llama(), llama())
    assert drawn_parts(KEPT, KEPT, FLOAT, None) == {}


def test_each_leaf_is_drawn_from_key_and_path():
    parts = drawn_parts(STORED, OTHER, FLOAT, jax.random.key(0))
    assert all(map(in_classifier, parts)) and len(parts) == 4
    for path, part in parts.items():
        array = part.source.read()
        assert (array.dtype, array.shape) == (FLOAT, part.source.shape)
        if path.endswith("bias"):
            assert not array.any()
    kernel = parts["params/classifier/out/kernel"].source.read().astype(np.float32)
    assert kernel.shape == (16, 200) and abs(kernel.std() / HEAD_DEVIATION - 1) < 0.1
    again = drawn_parts(KEPT, OTHER, FLOAT, jax.random.key(0))["params/classifier/dense/kernel"]
    first = parts["params/classifier/dense/kernel"].source.read()
    assert again.source.read().tobytes() == first.tobytes()


def test_without_a_key_or_for_another_head_it_is_one_line():
    with pytest.raises(LoraxError, match=r"no classifier for 3 labels: expected a key"):
        drawn_parts(STORED, KEPT, FLOAT, None)
    with pytest.raises(LoraxError, match="only a classifier is drawn anew"):
        drawn_parts(KEPT, STORED, FLOAT, jax.random.key(0))
