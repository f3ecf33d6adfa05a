"""Nats and tokens row by row, filler rows left out, against numpy and the mean of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.evaluation.language import make_evaluate_language
from lorax.evaluation.rows import make_evaluate_rows

LOGITS = jax.random.normal(jax.random.key(0), (5, 5))


def batch(seed, mask):
    """Tokens of a language of five."""
    tokens = np.random.default_rng(seed).integers(0, 5, (len(mask), 4)).astype(np.int32)
    return Batch(tokens[:, :3], tokens[:, 1:], np.array(mask, bool))


BATCHES = [
    batch(0, [[1, 1, 1], [0, 1, 1]]),
    batch(1, [[0, 0, 1], [0, 0, 0]]),  # the last row only fills up
]


def table(logits, tokens):
    return logits[tokens]


def test_rows_against_numpy():
    found = make_evaluate_rows(table)(BATCHES, LOGITS)
    log_probs = np.asarray(jax.nn.log_softmax(LOGITS))
    wanted = [
        -sum(log_probs[i, t] for i, t, on in zip(*row, strict=True) if on)
        for one in BATCHES for row in zip(one.inputs, one.targets, one.mask, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(found.nats, wanted[:3], rtol=1e-6)
    assert found.tokens.tolist() == [3, 2, 1] and found.nats.dtype == np.float64
    whole = make_evaluate_language(table)(BATCHES, LOGITS)
    assert found.nats.sum() / found.tokens.sum() == pytest.approx(whole["loss"], rel=1e-6)


def test_segments_are_seen_and_nothing_to_count_is_one_line():
    def count(_, tokens, mask):
        assert mask.shape == (2, 3, 3)
        return jnp.zeros((*tokens.shape, 5)) + mask.sum(-1, keepdims=True)

    segments = np.array([[1, 1, 2], [1, 0, 0]])
    found = make_evaluate_rows(count)([BATCHES[0]._replace(segments=segments)], ())
    np.testing.assert_allclose(found.nats, np.log(5) * np.array([3, 2]), rtol=1e-6)
    with pytest.raises(LoraxError, match="no token of the held-out set counts"):
        make_evaluate_rows(table)([BATCHES[0]._replace(mask=np.zeros((2, 3), bool))], LOGITS)
