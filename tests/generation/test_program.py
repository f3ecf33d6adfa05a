"""A program one token on: padding, memories, and what is found on the model behind `apply`."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.generation.program import Method, left_padded, make_program
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from tests.generation.toys import LLAMA, TOY, Config, Toy, logits_after, params, plain

BASE = params()
RIGHT = jnp.asarray([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
LENGTHS = jnp.asarray([3, 1, 2])


def test_padding_moves_to_the_left():
    tokens, mask = left_padded(RIGHT, LENGTHS)
    assert tokens.tolist() == [[1, 2, 3], [4, 4, 4], [5, 5, 6]]
    assert mask.tolist() == [[True] * 3, [False, False, True], [False, True, True]]


@pytest.mark.parametrize("apply", [TOY.apply, plain], ids=["cache", "recomputed"])
def test_start_step_and_select(apply):
    program = make_program(apply, None, None, None)
    memory, logits = program.start(BASE, None, RIGHT, LENGTHS, 8)
    ids = [[1, 2, 3], [4], [5, 6]]
    expect = lambda rows: np.stack([logits_after(BASE, row) for row in rows])
    np.testing.assert_allclose(logits, expect(ids), atol=1e-5)
    picked = [2, 2, 0, 1]
    memory = program.select(memory, jnp.asarray(picked), 8)
    ids = [[*ids[i], token] for i, token in zip(picked, (7, 8, 9, 10), strict=True)]
    memory, logits = program.step(BASE, None, memory, jnp.asarray([7, 8, 9, 10]))
    np.testing.assert_allclose(logits, expect(ids), atol=1e-5)
    memory, logits = program.step(BASE, None, memory, jnp.asarray([1, 2, 3, 4]))
    ids = [[*row, token] for row, token in zip(ids, (1, 2, 3, 4), strict=True)]
    np.testing.assert_allclose(logits, expect(ids), atol=1e-5)


def test_select_takes_the_axis_of_the_batch():
    program = make_program(LLAMA.apply, None, None, None)
    cache = LLAMA.init_cache(3, 8)
    marked = dataclasses.replace(cache, keys=cache.keys + jnp.arange(3.0)[:, None, None, None])
    taken = program.select(marked, jnp.asarray([2, 0]), 8)
    assert taken.keys.shape[1] == 2 and taken.valid.shape == (2, 8)
    assert taken.keys[:, 0].min() == 2 and taken.keys[:, 1].max() == 0
    assert taken.length.shape == ()


def test_the_model_behind_apply_is_found():
    gpt2 = GPT2(GPT2Config(20, 8, 1, 2, max_length=16))
    adapted = lorax.adapt(gpt2.apply, lorax.LoRA(rank=2))
    for apply in (gpt2.apply, jax.jit(gpt2.apply), functools.partial(gpt2.apply, mask=None)):
        program = make_program(apply, None, None, None)
        assert (program.max_length, program.vocab_size) == (16, 20)
        assert program.init_cache(2, 4).valid.shape == (2, 4)
    assert make_program(adapted, {}, None, None).init_cache is not None
    assert make_program(gpt2.apply, None, False, 8).init_cache is None
    assert make_program(gpt2.apply, None, None, 8).max_length == 8
    for apply in (plain, lambda base, tokens: gpt2.apply(base, tokens), jnp.sum):
        program = make_program(apply, None, None, None)
        assert program.init_cache is None
        assert (program.max_length, program.vocab_size) == (None, None)


def test_programs_that_do_the_same_are_equal():
    adapter = lambda: lorax.LoRA(rank=2, where=("head",))
    adapted = lambda: lorax.adapt(Toy(Config()).apply, adapter())
    first, second = (make_program(adapted(), {}, None, None) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert isinstance(first.fn, Method)
    others = (lorax.adapt(TOY.apply, lorax.LoRA(rank=3, where=("head",))), Toy(Config(13)).apply)
    for other, delta in zip(others, ({}, None), strict=True):
        assert make_program(other, delta, None, None) != first


def test_a_program_that_cannot_be_hashed():
    class Module(eqx.Module):
        bias: jax.Array

        def __call__(self, base, tokens):
            return plain(base, tokens) + self.bias

    module = Module(jnp.zeros(()))
    for apply in (module, module.__call__):
        program = make_program(apply, None, None, None)
        assert hash(program) == hash(program)
        _, logits = program.start(BASE, None, RIGHT, LENGTHS, 4)
        assert logits.shape == (3, 12)


def test_a_function_of_base_and_delta():
    def apply(base, delta, tokens):
        return plain(base, tokens) + delta

    program = make_program(apply, jnp.ones(()), None, None)
    _, logits = program.start(BASE, jnp.ones(()), RIGHT, LENGTHS, 4)
    np.testing.assert_allclose(logits[1], logits_after(BASE, [4]) + 1, atol=1e-5)


def test_an_init_cache_of_ones_own():
    call = lambda base, tokens, **kwargs: TOY.apply(base, tokens, **kwargs)
    program = make_program(call, None, TOY.init_cache, None)
    _, logits = program.start(BASE, None, RIGHT, LENGTHS, 4)
    np.testing.assert_allclose(logits[1], logits_after(BASE, [4]), atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((3, None, None, None), "apply is a int: expected a function of (params, ...)"),
        ((LLAMA, None, None, None), "apply is a Llama: expected a function of (params, ...); pass"),
        ((LLAMA.apply, {}, None, None), "delta is empty: expected lorax.adapt"),
        ((plain, {}, None, None), "delta is empty"),
        ((LLAMA.apply, {"a": 1}, None, None), "apply is that of a Llama itself"),
        ((jax.jit(LLAMA.apply), {"a": 1}, None, None), "pass delta=None to run the base alone"),
        ((TOY.apply, None, 3, None), "init_cache is 3: expected a function"),
        ((lorax.adapt(plain, lorax.LoRA()), None, None, None), "delta is None for an adapted"),
        (
            (lorax.adapt(plain, lorax.LoRA(), dropout_key=jax.random.key(0)), {}, None, None),
            "apply has a dropout_key",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words):
    with pytest.raises(LoraxError) as caught:
        make_program(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_outputs_that_are_no_logits():
    start = lambda fn, init_cache=None: make_program(fn, None, init_cache, None).start(
        BASE, None, RIGHT, LENGTHS, 4
    )
    with pytest.raises(LoraxError, match="returned tuple for tokens of shape"):
        start(lambda base, tokens: (plain(base, tokens), 0))
    with pytest.raises(LoraxError, match=r"returned shape \(3, 12\)"):
        start(lambda base, tokens: plain(base, tokens)[:, -1])
    with pytest.raises(LoraxTypeError, match=r"expected \(logits, cache\)"):
        start(lambda base, tokens, mask, cache: plain(base, tokens), TOY.init_cache)
