"""A frozen head in two products: values and gradients of the definition, whatever learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models import GPT2, GPT2Config
from lorax.models.layers import Head
from lorax.train.head_loss import chunked_costs, costs
from lorax.train.losses import next_token_loss
from tests.jaxprs import equations

ROWS, LENGTH, WIDTH, VOCABULARY = 2, 12, 5, 300


@functools.cache
def example(axis=0, dtype="float32"):
    """Hidden states, a head, targets and a mask."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(VOCABULARY, WIDTH))
    hidden = jnp.asarray(2 * draw.normal(size=(ROWS, LENGTH, WIDTH)), dtype)
    head = Head(jnp.asarray(table if axis == 0 else table.T, dtype), axis, "embed/embedding")
    targets = jnp.asarray(draw.integers(0, VOCABULARY, (ROWS, LENGTH)), jnp.int32)
    return hidden, head, targets, jnp.asarray(draw.random((ROWS, LENGTH)) < 0.7)


def found(hidden, head, targets, mask, *, chunk=9, smoothing=0.0):
    return chunked_costs(hidden, head, targets, mask, chunk, smoothing, frozen=True)


def wanted(hidden, head, targets, mask, *, smoothing=0.0):
    return costs(head(hidden), targets, mask, smoothing)


def mixed(costs):
    """A function of all the costs, whose derivative reaches both of them."""
    return (costs.loss + 0.3 * jnp.square(costs.nats) / 100) / costs.counted


def near(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("chunk", "smoothing"), [(100, 0.0), (9, 0.1)])
def test_values_and_gradients_are_those_of_the_definition(axis, chunk, smoothing):
    hidden, *rest = example(axis)
    ours = functools.partial(found, chunk=chunk, smoothing=smoothing)
    both = [
        jax.jit(jax.value_and_grad(lambda x, f=f: mixed(f(x, *rest))))(hidden)
        for f in (ours, functools.partial(wanted, smoothing=smoothing))
    ]
    near(*both)
    near(jax.jit(ours)(hidden, *rest), wanted(hidden, *rest, smoothing=smoothing))


def test_a_head_that_is_differentiated_has_its_gradient():
    hidden, head, *rest = example()
    both = [
        jax.jit(jax.grad(lambda x, h, f=f: mixed(f(x, h, *rest)), (0, 1)))(hidden, head)
        for f in (found, wanted)
    ]
    near(*both)


def test_units_share_the_table():
    hidden, *rest = example()
    units = jnp.stack([hidden, 0.5 * hidden, -hidden])
    ours, theirs = (jax.grad(lambda x, f=f: mixed(f(x, *rest))) for f in (found, wanted))
    near(jax.jit(jax.vmap(ours))(units), jax.jit(jax.vmap(theirs))(units))


def test_padding_costs_nothing_even_if_it_is_nan():
    hidden, head, targets, mask = example()
    spoilt = jnp.where(mask[..., None], hidden, jnp.nan)
    run = jax.jit(jax.value_and_grad(lambda x: mixed(found(x, head, targets, mask))))
    (value, gradient), (other, other_gradient) = run(hidden), run(spoilt)
    assert value == other
    assert not gradient[~mask].any() and not other_gradient[~mask].any()
    near(gradient, other_gradient)


def test_sixteen_bits_lose_no_more_than_the_definition_does():
    hidden, head, targets, mask = example(0, "bfloat16")
    targets = head(hidden).argmax(-1)  # where p is near 1, p - 1 must not be a difference
    wide = hidden.astype("float32"), Head(head.table.astype("float32"), 0, "")
    gradient = lambda f, x, h: jax.jit(jax.grad(lambda x: mixed(f(x, h, targets, mask))))(x)
    exact = gradient(wanted, *wide)
    errors = [
        float(jnp.linalg.norm(gradient(f, hidden, head).astype("float32") - exact))
        for f in (found, wanted)
    ]
    assert gradient(found, hidden, head).dtype == jnp.bfloat16
    assert errors[0] <= 1.2 * errors[1]


def products(loss, *arguments):
    """The products with the vocabulary in the value and gradient of a loss."""
    program = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(*arguments)
    return sum(
        eqn.primitive.name == "dot_general"
        and any(VOCABULARY in atom.aval.shape for atom in (*eqn.invars, *eqn.outvars))
        for eqn in equations(program.jaxpr)
    )


def test_the_loss_of_a_language_model_takes_the_fast_way_where_the_head_is_frozen():
    model = GPT2(GPT2Config(VOCABULARY, 8, 1, 2, max_length=LENGTH))
    *_, targets, mask = example()
    batch = Batch(targets, targets, mask)
    key = jax.random.key(0)
    base = jax.eval_shape(model.init, key, targets)
    adapters = {
        "attention": lorax.LoRA(rank=2, where=(".*/qkv/kernel",)),
        "embedding": lorax.LoRA(rank=2, where=("params/embed/embedding",)),
    }
    counts = {}
    for name, adapter in adapters.items():
        init = lorax.adapt(model.apply, adapter).init
        delta = jax.eval_shape(lambda base, init=init: init(key, base, targets), base)
        for sharded in (False, True):
            loss = next_token_loss(model.apply, adapter, chunk=24, sharded_vocabulary=sharded)
            counts[name, sharded] = products(loss, delta, base, batch, key)
    assert counts["attention", False] == 2 and counts["attention", True] == 3
    assert counts["embedding", False] == counts["embedding", True] > 3
