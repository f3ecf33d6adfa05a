"""Loss, perplexity and bits a byte by hand; packed rows; what is compiled, and when it stops."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.data.batch import Batch
from lorax.evaluation.language import (
    bits_per_byte,
    check_batch,
    cross_entropies,
    forgetting,
    make_evaluate_language,
)
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from tests.evaluation.programs import VOCABULARY, Bigram, batch, log_softmax, table


class Packed(NamedTuple):
    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segments: np.ndarray | None = None
    positions: np.ndarray | None = None


def test_numbers_by_hand():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    inputs, targets = np.array([[0, 1, 2, 0]]), np.array([[1, 1, 2, 0]])
    batches = [Batch(inputs, targets, np.array([[True, True, False, False]]))]
    batches += [Batch(inputs, targets, np.array([[False, False, False, True]]))]
    found = make_evaluate_language(lambda table, tokens: table[tokens])(batches, logits, size=2)
    loss = -(math.log(0.25) + math.log(0.8) + math.log(0.5)) / 3  # not the mean of two means
    assert found["loss"] == pytest.approx(loss, rel=1e-6) and found["tokens"] == 3
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(3 * loss / (2 * math.log(2)), rel=1e-6)
    assert "bits_per_byte" not in make_evaluate_language(lambda t, x: t[x])(batches, logits)


def test_a_uniform_model_of_bytes_needs_eight_bits():
    found = bits_per_byte(math.log(256), 1000, 1000)
    assert found == pytest.approx(8)
    assert bits_per_byte(math.log(256), 10, 40) == pytest.approx(2)  # tokens of four bytes


def test_how_batches_are_cut_does_not_matter_and_nothing_recompiles():
    rng, model = np.random.default_rng(0), Bigram()
    whole = batch(rng, 8, 20)
    parts = [Batch(*(field[i : i + 2] for field in whole[:3])) for i in range(0, 8, 2)]
    evaluate = make_evaluate_language(model.apply)
    nats = -log_softmax(table())[whole.inputs, whole.targets][whole.mask]
    for batches in ([whole], parts, iter(parts)):
        found = evaluate(batches, table())
        assert found["loss"] == pytest.approx(nats.mean(), rel=1e-6)
        assert found["tokens"] == whole.mask.sum()
    assert evaluate(parts, table(1))["loss"] != found["loss"]
    assert evaluate(parts, table()) == found  # bit for bit
    assert model.shapes == [(8, 20), (2, 20)]


def test_padding_may_hold_anything():
    evaluate = make_evaluate_language(lambda table, tokens: table[tokens])
    rows = jnp.asarray([[0.0, 0.0], [jnp.nan, jnp.nan]])
    one = Batch(np.array([[0, 1]]), np.array([[1, 9]]), np.array([[True, False]]))
    assert evaluate([one], rows)["loss"] == pytest.approx(math.log(2))
    assert math.isnan(evaluate([one._replace(mask=np.ones((1, 2), bool))], rows)["loss"])
    hopeless = jnp.asarray([[0.0, -1e30], [0.0, 0.0]])
    assert evaluate([one], hopeless)["perplexity"] == math.inf


def test_nothing_to_count_is_told():
    evaluate = make_evaluate_language(lambda table, tokens: table[tokens])
    blank = batch(np.random.default_rng(0), 1, 3, share=0)
    for batches in ([], [blank]):
        with pytest.raises(LoraxError, match="no token .* counts: .*empty split"):
            evaluate(batches, table())
    with pytest.raises(LoraxTypeError, match="batches hold a dict: expected .*Batch"):
        evaluate([{"inputs": 1}], table())
    with pytest.raises(LoraxTypeError):
        check_batch(np.zeros(3))
    with pytest.raises(LoraxTypeError, match="pass model.apply"):
        make_evaluate_language(Llama(LlamaConfig(8, 8, 1, 1, 1, 8)))


def test_it_can_be_stopped_after_any_batch():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit(143)

    batches = [batch(np.random.default_rng(i), 2, 4) for i in range(5)]
    with pytest.raises(SystemExit):
        make_evaluate_language(lambda t, x: t[x])(iter(batches), table(), check=check)
    assert len(calls) == 2


def test_cross_entropies_are_those_of_numpy_in_any_dtype():
    logits, targets = table()[:6], np.arange(6)
    expected = -log_softmax(logits)[targets, targets]
    np.testing.assert_allclose(cross_entropies(logits, targets), expected, rtol=1e-5)
    half = cross_entropies(logits.astype(jnp.bfloat16), targets)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=0.05)
    assert np.isnan(cross_entropies(logits, np.full(6, VOCABULARY))).all()


@pytest.fixture(scope="module")
def adapted():
    """A small Llama: adapter, adapted program, base, and a delta far from zero."""
    model = Llama(LlamaConfig(16, 8, 1, 2, 1, 12, max_length=16))
    example = jnp.zeros((1, 4), jnp.int32)
    base = jax.jit(model.init)(jax.random.key(0), example)
    adapter = lorax.LoRA(rank=2, where="all-linear")
    apply = lorax.adapt(model.apply, adapter)
    delta = apply.init(jax.random.key(1), base, example)
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape)
    return model, adapter, apply, base, jax.tree.map(noise, delta)


def test_factored_and_merged_parameters_measure_the_same(adapted):
    model, adapter, apply, base, delta = adapted
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 16, (2, 3, 8)).astype(np.int32)
    one = Batch(tokens[0], tokens[1], np.ones((3, 8), bool))
    factored = make_evaluate_language(apply)([one], base, delta)
    bare = make_evaluate_language(model.apply)
    merged, frozen = bare([one], adapter.merge(base, delta)), bare([one], base)
    assert factored["loss"] == pytest.approx(merged["loss"], rel=1e-5)
    assert abs(forgetting(factored, frozen)["loss"]) > 1e-3


def test_a_packed_row_counts_as_its_examples_alone(adapted):
    model, _, _, base, _ = adapted
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 16, n + 1).astype(np.int32) for n in (3, 5, 2)]
    evaluate = make_evaluate_language(model.apply)
    alone = [evaluate([Batch(t[None, :-1], t[None, 1:], np.ones((1, len(t) - 1), bool))], base)
             for t in texts]  # fmt: skip
    padding = np.zeros(2, np.int32)
    row = lambda parts: np.concatenate([*parts, padding])[None].astype(np.int32)
    packed = Packed(
        row([t[:-1] for t in texts]),
        row([t[1:] for t in texts]),
        np.arange(12)[None] < 10,
        row([np.full(len(t) - 1, i) for i, t in enumerate(texts, 1)]),
        row([np.arange(len(t) - 1) for t in texts]),
    )
    found = evaluate([packed], base)
    expected = sum(one["loss"] * one["tokens"] for one in alone) / 10
    assert found["tokens"] == 10 and found["loss"] == pytest.approx(expected, rel=1e-5)
    mixed = evaluate([packed._replace(segments=None, positions=None)], base)
    assert mixed["loss"] != pytest.approx(expected, rel=1e-3)


def test_forgetting_is_a_difference_from_the_base():
    now = {"loss": 2.5, "perplexity": math.exp(2.5), "tokens": 10, "bits_per_byte": 3.0}
    frozen = {"loss": 2.0, "perplexity": math.exp(2.0), "tokens": 10}
    assert forgetting(now, frozen) == {"loss": 0.5}
    assert forgetting(now, now) == {"loss": 0.0, "bits_per_byte": 0.0}
    with pytest.raises(LoraxError, match="on 9 tokens and the base on 10"):
        forgetting(now | {"tokens": 9}, frozen)
