"""Batches of examples: padding counts for nothing, neighbours see nothing of each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.collate import collate
from lorax.data.example import Example, labelled, next_tokens
from lorax.models import GPT2, Llama, LlamaConfig, segment_mask
from lorax.models.gpt2_config import GPT2Config

A, B = next_tokens([1, 2, 3, 4], learn=2), next_tokens([5, 6, 7])


def test_one_example_a_row():
    batch = collate([[A], [], [B]], 4, like=A, pad=9)
    assert batch.inputs.tolist() == [[1, 2, 3, 9], [9] * 4, [5, 6, 9, 9]]
    assert batch.targets.tolist() == [[2, 3, 4, 9], [9] * 4, [6, 7, 9, 9]]
    assert batch.mask.tolist() == [
        [False, True, True, False],
        [False] * 4,
        [True, True, False, False],
    ]
    assert batch.segments is None and batch.positions is None
    assert [x.dtype for x in batch[:3]] == [np.int32, np.int32, bool]


def test_several_examples_a_row():
    batch = collate([[A, B], [B], []], 6, like=A, packed=True)
    assert batch.inputs.tolist() == [[1, 2, 3, 5, 6, 0], [5, 6, 0, 0, 0, 0], [0] * 6]
    assert batch.targets.tolist() == [[2, 3, 4, 6, 7, 0], [6, 7, 0, 0, 0, 0], [0] * 6]
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0], [0] * 6]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    assert batch.mask[0].tolist() == [False, True, True, True, True, False]
    assert not batch.mask[2].any() and batch.segments.dtype == batch.positions.dtype == np.int32


@pytest.mark.parametrize("label, kind", [(3, np.int32), (0.5, np.float32)])
def test_labelled_sequences(label, kind):
    example = labelled([4, 5], label)
    batch = collate([[example], []], 3, like=example, pad=1)
    assert batch.inputs.tolist() == [[4, 5, 1], [1, 1, 1]]
    assert batch.segments.tolist() == [[1, 1, 0], [0, 0, 0]] and batch.positions is None
    assert batch.targets.tolist() == [label, 0] and batch.targets.dtype == kind
    assert batch.mask.tolist() == [True, False]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_images(shape):
    example = labelled(np.full(shape, 0.25, np.float32), 7)
    batch = collate([[example], []], 0, like=example)
    assert batch.inputs.shape == (2, *shape) and batch.inputs.dtype == np.float32
    assert batch.inputs[0].min() == 0.25 and not batch.inputs[1].any()
    assert batch.targets.tolist() == [7, 0] and batch.mask.tolist() == [True, False]
    assert batch.segments is None


@pytest.mark.parametrize("like", [A, labelled([1], 0), labelled(np.ones((2, 2)), 1)])
def test_a_batch_of_nothing_has_the_form_of_any_other(like):
    """As one process of several may get at the end of an epoch."""
    full, empty = (collate(rows, 5, like=like) for rows in ([[like]] * 2, [[]] * 2))
    shapes = lambda batch: jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    assert shapes(full) == shapes(empty) and full.mask.any() and not empty.mask.any()


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(2, 6), max_size=3), min_size=1, max_size=4))
def test_every_target_that_counts_is_kept_in_place(sizes):
    values = iter(range(1, 1000))
    rows = [[next_tokens([next(values) for _ in range(n)], learn=2) for n in row] for row in sizes]
    batch = collate(rows, 18, like=A, packed=True)
    for b, row in enumerate(rows):
        for number, example in enumerate(row, 1):
            here = batch.segments[b] == number
            for laid, own in zip(batch[:3], example, strict=True):
                assert np.array_equal(laid[b][here], own)
            assert np.array_equal(batch.positions[b][here], np.arange(len(example.tokens)))
    real = sum(len(example.tokens) for row in rows for example in row)
    assert (batch.segments > 0).sum() == real and not batch.mask[batch.segments == 0].any()


@pytest.mark.parametrize(
    "model",
    [
        Llama(LlamaConfig(vocab_size=16, dim=16, layers=2, heads=2, kv_heads=1, hidden_dim=16)),
        GPT2(GPT2Config(16, 16, 2, 2, max_length=16)),
    ],
    ids=["llama", "gpt2"],
)
def test_a_packed_example_has_the_loss_it_has_alone(model):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 16, n) for n in (5, 4, 7)]
    # large weights, so that a token that is seen or not makes a difference
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    params = jax.tree.map(lambda x: x * 3, params)

    @jax.jit
    def losses(batch):
        mask = None if batch.segments is None else segment_mask(batch.segments)
        logits = model.apply(params, batch.inputs, positions=batch.positions, mask=mask)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], -1)
        return -picked[..., 0]

    def packed(texts):
        first, second, third = (next_tokens(text) for text in texts)
        return collate([[first, second], [third]], 10, like=A, packed=True)

    batch = packed(texts)
    together = np.asarray(losses(batch))
    alone = collate([[next_tokens(text)] for text in texts], 10, like=A)
    alone_losses = np.asarray(losses(alone))
    for i, (b, number) in enumerate([(0, 1), (0, 2), (1, 1)]):
        here = together[b][batch.segments[b] == number]
        np.testing.assert_allclose(here, alone_losses[i][alone.mask[i]], atol=1e-5)
    # at the border: the last token of the first example changes, and the second sees nothing of it
    changed = [np.append(texts[0][:-2], (texts[0][-2:] + 1) % 16), *texts[1:]]
    other, second = np.asarray(losses(packed(changed))), batch.segments[0] == 2
    np.testing.assert_array_equal(together[0][second], other[0][second])
    assert not np.allclose(together[0][:4], other[0][:4])


@pytest.mark.parametrize(
    "rows, like, packed, message",
    [
        ([[A], [A, B]], A, True, "a row has 5 tokens, but its length is 4"),
        ([[A, B]], A, False, "several examples share a row"),
        ([[labelled([1], 0)] * 2], labelled([1], 0), True, "only next tokens can be packed"),
        ([[labelled(np.ones((2, 3)), 0)]], labelled(np.ones((2, 2)), 0), False, "one shape"),
    ],
)
def test_refuses(rows, like: Example, packed, message):
    with pytest.raises(LoraxError, match=message):
        collate(rows, 4, like=like, packed=packed)
