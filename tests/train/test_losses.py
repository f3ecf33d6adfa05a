"""Losses by hand, masks that hide NaN, packed rows, streams of dropout, and units."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models import GPT2, MLP, Llama, LlamaConfig, Roberta, segment_mask
from lorax.models.gpt2_config import GPT2_TOY
from lorax.models.roberta_config import ROBERTA_TOY
from lorax.train.losses import (
    classification_loss,
    cross_entropy,
    next_token_loss,
    regression_loss,
)


def test_uniform_logits_cost_log_of_the_vocabulary():
    nats, count = cross_entropy(jnp.zeros((2, 3, 7)), jnp.zeros((2, 3), jnp.int32))
    assert float(nats) == pytest.approx(math.log(7)) and float(count) == 6


def test_masked_tokens_do_not_count_even_if_they_are_nan():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 5)).at[0, 2:].set(jnp.nan)
    targets, mask = jnp.array([[1, 2, 3, 4]]), jnp.array([[True, True, False, False]])
    nats, count = cross_entropy(logits, targets, mask)
    alone, _ = cross_entropy(logits[:, :2], targets[:, :2])
    assert float(nats) == pytest.approx(float(alone)) and float(count) == 2


def test_nothing_real_costs_nothing():
    nats, count = cross_entropy(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), int), jnp.zeros((1, 2)))
    assert float(nats) == 0 and float(count) == 0


def test_bfloat16_logits_are_summed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (1, 512, 300)).astype(jnp.bfloat16)
    targets = jnp.zeros((1, 512), jnp.int32)
    nats, _ = cross_entropy(logits, targets)
    exact, _ = cross_entropy(logits.astype(jnp.float32), targets)
    assert nats.dtype == jnp.float32 and float(nats) == float(exact)


def test_next_token_loss_uses_dropout_with_the_steps_key():
    fn = lambda params, x: jax.nn.one_hot(x, 8) @ params["w"]
    base = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
    x = np.arange(8)[None]
    batch = Batch(x, (x + 1) % 8, np.ones((1, 8), bool))
    for dropout, varies in ((0.0, False), (0.5, True)):
        adapter = lorax.LoRA(rank=2, dropout=dropout, where=("w",))
        delta = adapter.init(jax.random.key(1), base)
        delta = jax.tree.map(lambda leaf: leaf + 1, delta)
        loss = next_token_loss(fn, adapter, on_fallback="error")
        values = {float(loss(delta, base, batch, jax.random.key(i))[0]) for i in range(3)}
        assert (len(values) > 1) is varies
        assert float(loss(delta, base, batch, jax.random.key(0))[1]["tokens"]) == 8


def test_a_batch_without_the_three_fields():
    loss = next_token_loss(lambda params, x: x, lorax.LoRA(rank=2))
    for wrong in ({"inputs": 1, "targets": 1, "mask": 1}, np.ones((2, 3)), (1, 2, 3)):
        with pytest.raises(lorax.LoraxTypeError, match=r"lorax\.data\.batch\.Batch\(inputs"):
            loss({}, {}, wrong, jax.random.key(0))


def drawn(model, inputs, adapter, seed=0):
    """A base, and a delta that has left its start; drawn by numpy, to be quick."""
    draw = np.random.default_rng(seed)
    fill = lambda x: jnp.asarray(0.3 * draw.normal(size=x.shape), x.dtype)
    base = jax.tree.map(fill, jax.eval_shape(model.init, jax.random.key(0), inputs))
    start = lambda base: lorax.adapt(model.apply, adapter).init(jax.random.key(0), base, inputs)
    return base, jax.tree.map(fill, jax.eval_shape(start, base))


def test_packed_examples_cost_what_they_cost_alone():
    model, adapter = Llama(LlamaConfig(32, 16, 2, 4, 2, 24)), lorax.LoRA(rank=2)
    draw, lengths = np.random.default_rng(0), (4, 3)
    texts = [draw.integers(0, 32, length + 1).astype(np.int32) for length in lengths]
    alone = [Batch(t[None, :-1], t[None, 1:], np.ones((1, len(t) - 1), bool)) for t in texts]
    row = lambda parts: np.concatenate([*parts, np.zeros(2, np.int32)])[None].astype(np.int32)
    segments = row([np.full(4, 1), np.full(3, 2)])
    packed = Batch(
        row([t[:-1] for t in texts]),
        row([t[1:] for t in texts]),
        segments > 0,
        segments,
        row([np.arange(4), np.arange(3)]),
    )
    base, delta = drawn(model, packed.inputs, adapter)
    value = lambda chunk, batch: float(
        jax.jit(next_token_loss(model.apply, adapter, "error", chunk=chunk))(
            delta, base, batch, jax.random.key(0)
        )[0]
    )
    costs = [value(0, batch) * length for batch, length in zip(alone, lengths, strict=True)]
    for chunk in (0, 4):
        assert value(chunk, packed) == pytest.approx(sum(costs) / sum(lengths), rel=1e-5)


def test_the_mask_of_packed_rows_is_the_models_own():
    seen = {}

    def fn(params, x, mask, positions=None):
        seen.update(mask=mask, positions=positions)
        return jax.nn.one_hot(x, 8) @ params["w"]

    adapter, base = lorax.LoRA(rank=2, where=("w",)), {"w": jnp.ones((8, 8))}
    delta = adapter.init(jax.random.key(0), base)
    segments = np.array([[1, 1, 2, 0], [1, 2, 3, 3]])
    x = np.zeros((2, 4), np.int32)
    loss = next_token_loss(fn, adapter)
    loss(delta, base, Batch(x, x, segments > 0, segments), jax.random.key(0))
    np.testing.assert_array_equal(seen["mask"], segment_mask(segments))
    assert seen["positions"] is None
    loss(delta, base, Batch(x, x, segments > 0, segments, x + 5), jax.random.key(0))
    np.testing.assert_array_equal(seen["positions"], x + 5)


def test_smoothing_is_minimised_and_nats_are_told_beside_it():
    fn = lambda params, x: jax.nn.one_hot(x, 8) @ params["w"]
    adapter, base = lorax.LoRA(rank=2, where=("w",)), {"w": 3 * jnp.eye(8)}
    delta = adapter.init(jax.random.key(0), base)
    x = np.arange(8)[None]
    batch = Batch(x, x, np.ones((1, 8), bool))
    plain, metrics = next_token_loss(fn, adapter)(delta, base, batch, jax.random.key(0))
    assert metrics.keys() == {"tokens"}
    smooth = next_token_loss(fn, adapter, label_smoothing=0.2)
    value, metrics = smooth(delta, base, batch, jax.random.key(0))
    assert float(metrics["nats"]) == float(plain)
    uniform = -jax.nn.log_softmax(3 * jnp.eye(8)).mean()
    assert float(value) == pytest.approx(0.8 * float(plain) + 0.2 * float(uniform), rel=1e-6)


def noisy(rate):
    """A model with dropout of its own, in the manner of Linen."""

    def fn(params, x, deterministic=True, rngs=None):
        hidden = jax.nn.one_hot(x, 8)
        if not deterministic:
            keep = jax.random.bernoulli(rngs["dropout"], 1 - rate, hidden.shape)
            hidden = hidden * keep / (1 - rate)
        return hidden @ params["w"]

    return fn


def test_all_dropout_comes_from_the_key_and_the_two_kinds_are_apart():
    base = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
    x = np.arange(16).reshape(2, 8) % 8
    batch = Batch(x, (x + 1) % 8, np.ones((2, 8), bool))

    def values(adapter_rate, on, rate=0.2):
        adapter = lorax.LoRA(rank=2, dropout=adapter_rate, where=("w",))
        delta = jax.tree.map(lambda x: x + 1, adapter.init(jax.random.key(1), base))
        loss = next_token_loss(noisy(rate), adapter, "error", dropout=on)
        return [float(loss(delta, base, batch, jax.random.key(i))[0]) for i in (0, 0, 1)]

    same, again, other = values(0.0, False)
    assert same == again == other  # neither is on: the key is not used
    only_model, again, other = values(0.0, True)
    assert only_model == again != other
    only_adapter, again, other = values(0.5, False)
    assert only_adapter == again != other
    # the model's stream, turned on at rate 0, leaves the adapter's masks as they were
    assert values(0.5, True, rate=0.0)[0] == only_adapter
    assert values(0.5, True)[0] not in (same, only_model, only_adapter)


@pytest.mark.parametrize("name", ["gpt2", "roberta"])
def test_the_dropout_of_our_models_can_be_turned_on(name):
    config, make = {"gpt2": (GPT2_TOY, GPT2), "roberta": (ROBERTA_TOY, Roberta)}[name]
    fields = {"dropout": 0.2, "layers": 1} | ({"head": "classification"} if name != "gpt2" else {})
    model, adapter = make(dataclasses.replace(config, **fields)), lorax.LoRA(rank=1)
    tokens = np.arange(2, 14, dtype=np.int32).reshape(2, 6)
    targets = tokens if name == "gpt2" else np.array([0, 1])
    batch = Batch(tokens, targets, np.ones(targets.shape, bool))
    base, delta = drawn(model, tokens, adapter)
    loss = next_token_loss if name == "gpt2" else classification_loss
    loss = jax.jit(loss(model.apply, adapter, "error", dropout=True))
    key = functools.partial(jax.random.key, impl="unsafe_rbg")  # quicker to compile
    values = [float(loss(delta, base, batch, key(i))[0]) for i in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def linear(targets, adapter, outputs):
    inputs = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    batch = Batch(inputs, targets, np.array([True, True, True, False]))
    model = MLP((outputs,))
    base, delta = drawn(model, inputs, adapter)
    return model, base, delta, batch, model.apply(adapter.merge(base, delta), inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_images_by_hand(smoothing):
    adapter, targets = lorax.LoRA(rank=2), np.array([2, 0, 1, 1])
    model, base, delta, batch, logits = linear(targets, adapter, 3)
    loss = classification_loss(model.apply, adapter, "error", label_smoothing=smoothing)
    value, metrics = loss(delta, base, batch, jax.random.key(0))
    wanted = (1 - smoothing) * jax.nn.one_hot(targets, 3) + smoothing / 3
    each = -(wanted * jax.nn.log_softmax(logits)).sum(-1)
    assert float(value) == pytest.approx(float(each[:3].mean()), rel=1e-5)
    assert float(metrics["examples"]) == 3 and ("nats" in metrics) == bool(smoothing)


def test_values_by_hand():
    adapter, targets = lorax.LoRA(rank=1), np.array([2.0, 0.5, -1.0, np.nan], np.float32)
    model, base, delta, batch, outputs = linear(targets, adapter, 1)
    loss = regression_loss(model.apply, adapter, "error")
    value, metrics = loss(delta, base, batch, jax.random.key(0))
    assert float(value) == pytest.approx(float(((outputs[:, 0] - targets)[:3] ** 2).mean()), 1e-5)
    assert float(metrics["examples"]) == 3


def test_padding_is_not_seen_by_a_classifier():
    config = dataclasses.replace(ROBERTA_TOY, layers=1, head="classification", labels=3)
    model, adapter = Roberta(config), lorax.LoRA(rank=1)
    tokens = np.arange(2, 10, dtype=np.int32).reshape(2, 4)
    short = Batch(tokens, np.array([0, 2]), np.ones(2, bool))
    segments = np.array([[1, 1, 1, 1, 0, 0]] * 2)
    # garbage, not the model's own padding token, behind the end of every row
    padded = short._replace(inputs=np.pad(tokens, [(0, 0), (0, 2)], constant_values=7))
    base, delta = drawn(model, tokens, adapter)
    loss = jax.jit(classification_loss(model.apply, adapter, "error"))
    value = functools.partial(loss, delta, base, key=jax.random.key(0))
    expected = float(value(batch=short)[0])
    found = float(value(batch=padded._replace(segments=segments, positions=segments))[0])
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(value(batch=padded)[0]) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "outputs", "message"),
    [
        (classification_loss, (4, 2, 3), r"gives \(4, 2, 3\) for targets \(4,\): .*\(batch, cla"),
        (classification_loss, (3, 5), r"gives \(3, 5\) for targets \(4,\)"),
        (regression_loss, (4, 2), r"gives \(4, 2\) for targets \(4,\): expected \(batch, 1\)"),
    ],
)
def test_a_head_that_does_not_fit(make, outputs, message):
    loss = make(lambda params, x: jnp.zeros(outputs) * params["w"].sum(), lorax.Full())
    base = {"w": jnp.ones(2)}
    batch = Batch(np.ones((4, 2)), np.zeros(4, np.int32), np.ones(4, bool))
    with pytest.raises(lorax.LoraxError, match=message):
        loss(lorax.Full().init(jax.random.key(0), base), base, batch, jax.random.key(0))


def test_refusals():
    for make in (next_token_loss, classification_loss):
        with pytest.raises(lorax.LoraxError, match="label_smoothing is 1.0: expected"):
            make(lambda params, x: x, lorax.LoRA(), label_smoothing=1.0)
    for chunk in (-1, 0.5, True):
        with pytest.raises(lorax.LoraxError, match=f"chunk is {chunk}: expected a number of token"):
            next_token_loss(lambda params, x: x, lorax.LoRA(), chunk=chunk)
