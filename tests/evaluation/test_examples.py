"""Classes and values of held-out examples, filler rows left out, against numpy."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.data.batch import Batch
from lorax.evaluation.examples import Answers, make_evaluate_examples


class Segmented(NamedTuple):
    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segments: np.ndarray | None = None
    positions: np.ndarray | None = None


def linear(kernel, inputs):
    """Logits or values of vectors."""
    TRACES.append(inputs.shape)
    return inputs @ kernel


TRACES = []
KERNEL = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def test_classes_by_hand():
    TRACES.clear()
    inputs = np.array([[1, 0], [0, 1], [3, 1], [9, 9]], np.float32)
    labels = np.array([0, 1, 1, 2], np.int32)
    first = Batch(inputs[:2], labels[:2], np.array([True, True]))
    last = Batch(inputs[2:], labels[2:], np.array([True, False]))  # a row that only fills up
    evaluate = make_evaluate_examples(linear)
    found = evaluate([first, last], KERNEL)
    assert found.predictions.tolist() == [0, 1, 0] and found.labels.tolist() == [0, 1, 1]
    losses = [math.log(sum(map(math.exp, row))) - row[label]
              for row, label in (((1, 0, 0), 0), ((0, 2, 0), 1), ((3, 2, 0), 1))]  # fmt: skip
    assert found.loss == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert evaluate([last, first], 2 * KERNEL).predictions.tolist() == [0, 0, 1]
    assert TRACES == [(2, 2)]  # one shape, whatever the parameters
    assert found.predictions.dtype == np.int32


@pytest.mark.parametrize("columns", [(slice(None),), (slice(None), slice(0, 1))])
def test_values_by_hand(columns):
    weights = jnp.asarray([[2.0], [1.0]])[:, 0] if len(columns) == 1 else jnp.asarray([[2.0], [1]])
    inputs = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    one = Batch(inputs, np.array([1, 1, 9], np.float32), np.array([True, True, False]))
    found = make_evaluate_examples(linear)([one], weights)
    assert found.predictions.tolist() == [2, 1] and found.labels.tolist() == [1, 1]
    assert found.loss == pytest.approx(0.5) and found.labels.dtype == np.float32


def bag(table, tokens, mask=None):
    """Logits from the mean of the real tokens' rows: what stands at padding would change them."""
    real = jnp.ones(tokens.shape, bool) if mask is None else mask
    return (table[tokens] * real[..., None]).sum(axis=1) / real.sum(axis=1, keepdims=True)


def test_padding_does_not_change_a_class():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
    tokens = rng.integers(0, 12, (2, 8)).astype(np.int32)
    plain = Batch(tokens[:, :5], np.array([0, 2], np.int32), np.ones(2, bool))
    evaluate = make_evaluate_examples(bag)
    expected = evaluate([plain], table)
    real = (np.arange(8)[None] < np.array([[5], [5]])).astype(np.int32)
    padded = Segmented(tokens, plain.targets, plain.mask, real)
    assert evaluate([padded], table).loss == pytest.approx(expected.loss, rel=1e-5)
    assert evaluate([padded._replace(segments=None)], table).loss != pytest.approx(expected.loss)


def test_it_can_be_stopped_after_any_batch():
    calls = []

    def check():
        calls.append(1)
        raise KeyboardInterrupt

    one = Batch(np.ones((2, 2), np.float32), np.zeros(2, np.int32), np.ones(2, bool))
    with pytest.raises(KeyboardInterrupt):
        make_evaluate_examples(linear)([one] * 3, KERNEL, check=check)
    assert len(calls) == 1


def test_mistakes_are_told():
    evaluate = make_evaluate_examples(linear)
    one = Batch(np.ones((2, 2), np.float32), np.zeros(2, np.int32), np.ones(2, bool))
    for batches in ([], [one._replace(mask=np.zeros(2, bool))]):
        with pytest.raises(LoraxError, match="no example .* counts"):
            evaluate(batches, KERNEL)
    with pytest.raises(LoraxError, match=r"returned \(2,\) for .* expected \(2, 'classes'\)"):
        evaluate([one], KERNEL[:, 0])
    values = one._replace(targets=np.zeros(2, np.float32))
    with pytest.raises(LoraxError, match=r"returned \(2, 3\) .* expected \(2, 1\) or \(2,\)"):
        evaluate([values], KERNEL)
    with pytest.raises(LoraxError, match="the program returned tuple"):
        make_evaluate_examples(lambda kernel, x: (x @ kernel,))([one], KERNEL)
    with pytest.raises(LoraxTypeError, match="batches hold a list"):
        evaluate([[1, 2]], KERNEL)
    assert Answers._fields == ("predictions", "labels", "loss")
