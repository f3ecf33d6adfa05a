"""Examples: targets are what follows, and only what is to be learnt counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.example import labelled, next_tokens


@given(st.lists(st.integers(0, 99), min_size=2, max_size=9), st.integers(0, 10))
def test_targets_follow_tokens_and_the_context_does_not_count(ids, learn):
    example = next_tokens(ids, learn)
    assert example.tokens.dtype == example.targets.dtype == np.int32
    assert [*example.tokens, example.targets[-1]] == ids
    assert list(example.targets) == ids[1:]
    assert list(example.targets[example.mask]) == ids[max(learn, 1) :]


def test_labels_are_scalars_of_their_kind():
    example = labelled([3, 4], 1)
    assert example.targets.shape == example.mask.shape == () and example.targets.dtype == np.int32
    assert labelled([3, 4], 2.5).targets.dtype == np.float32
    image = np.zeros((2, 2), np.float32)
    assert labelled(image, 1).tokens.dtype == np.float32


@pytest.mark.parametrize("ids", [[], [1]])
def test_too_few_ids(ids):
    with pytest.raises(LoraxError, match=f"{len(ids)} ids make no example"):
        next_tokens(ids)
