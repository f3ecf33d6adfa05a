"""Every mistake is told in one line that names the thing and the cure."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax import LoraxError, LoraxTypeError

KEY = jax.random.key(0)
NAN = float("nan")
X = jnp.ones((2, 4))
BASE = {
    "query": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)},
    "heads": jnp.ones((4, 2, 3)),
    "steps": jnp.ones((2, 2), jnp.int32),
    "idle": jnp.ones((3, 3)),
}
QUERY = "query/kernel"
LORA = lorax.LoRA(rank=2, where=(QUERY,))
FULL = lorax.Full(where=(QUERY,))
LORA_DELTA, FULL_DELTA = LORA.init(KEY, BASE), FULL.init(KEY, BASE)
OTHER = BASE | {"query": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)}}
STACK = jax.tree.map(lambda x: jnp.stack([x, x]), LORA_DELTA)


def program(base, x):
    """Uses `heads` in two ways that disagree, and `idle` not at all."""
    y = x @ base["query"]["kernel"] + base["query"]["bias"]
    first = jnp.einsum("bd,dhk->bhk", x, base["heads"])
    return y, first, jnp.einsum("bh,dhk->bdk", x[:, :2], base["heads"]), base["steps"]


def lora(**kwargs):
    """Builds the adapter when called."""
    return lambda: lorax.LoRA(**kwargs)


def init(*where, adapter=lorax.LoRA, roles=None):
    """Makes a delta when called."""
    return lambda: adapter(where=where).init(KEY, BASE, roles)


def used(*where, **kwargs):
    """Makes a delta from an example input when called."""
    return lambda: lorax.adapt(program, lorax.LoRA(where=where, **kwargs)).init(KEY, BASE, X)


def adapt(fn=program, adapter=LORA, **kwargs):
    """Adapts when called."""
    return lambda: lorax.adapt(fn, adapter, **kwargs)


# name: (call, type, what the message names, what it says to do)
MISTAKES = {
    "rank zero": (lora(rank=0), LoraxError, "rank is 0", "at least 1"),
    "rank negative": (lora(rank=-4), LoraxError, "rank is -4", "at least 1"),
    "rank bool": (lora(rank=True), LoraxTypeError, "rank is True", "such as rank=8"),
    "rank float": (lora(rank=8.0), LoraxTypeError, "rank is 8.0", "such as rank=8"),
    "rank string": (lora(rank="8"), LoraxTypeError, "rank is '8'", "such as rank=8"),
    "alpha nan": (lora(alpha=NAN), LoraxError, "alpha is nan", "such as alpha=16.0"),
    "alpha inf": (lora(alpha=float("inf")), LoraxError, "alpha is inf", "such as alpha=16.0"),
    "alpha zero": (lora(alpha=0), LoraxError, "alpha is 0", "such as alpha=16.0"),
    "alpha string": (lora(alpha="16"), LoraxTypeError, "alpha is '16'", "such as alpha=16.0"),
    "alpha bool": (lora(alpha=True), LoraxTypeError, "alpha is True", "such as alpha=16.0"),
    "scaling": (lora(scaling="rs"), LoraxError, "scaling is 'rs'", "'standard', 'rslora'"),
    "initializer": (lora(initializer="svd"), LoraxError, "initializer is 'svd'", "'pissa'"),
    "dropout one": (lora(dropout=1.0), LoraxError, "dropout is 1.0", "[0, 1)"),
    "dropout string": (lora(dropout="0.1"), LoraxError, "dropout is '0.1'", "[0, 1)"),
    "dtype": (lora(dtype="int32"), LoraxTypeError, "dtype is 'int32'", "floating-point"),
    "bare where": (lora(where="query"), LoraxTypeError, "'query'", "where=('.*/query/kernel',)"),
    "bare where of Full": (lambda: lorax.Full(where="query"), LoraxTypeError, "'query'", "where=("),
    "bare exclude": (lora(exclude="bias"), LoraxTypeError, "'bias'", "exclude=("),
    "no regex": (init("("), LoraxError, "'('", "re.fullmatch"),
    "override": (lora(where={"q": {"r": 4}}), LoraxError, "'r'", "'alpha', 'rank'"),
    "override's rank": (lora(where={"q": {"rank": 0}}), LoraxError, "rank is 0", "at least 1"),
    "no match": (init("qeury/kernel"), LoraxError, "'qeury/kernel'", f"near misses: '{QUERY}'"),
    "part of a path": (init("query"), LoraxError, "'query'", "near misses: 'query/bias', '"),
    "exclude without match": (
        lambda: lorax.LoRA(where=(QUERY,), exclude=("head",)).init(KEY, BASE),
        LoraxError, "'head'", "near misses: 'heads'",
    ),
    "two patterns": (init(QUERY, ".*/kernel"), LoraxError, f"both match '{QUERY}'", "exclusive"),
    "all excluded": (
        lambda: lorax.LoRA(where=(QUERY,), exclude=(".*",)).init(KEY, BASE),
        LoraxError, "no leaf is adapted", "widen where=",
    ),
    "all-linear without use": (
        lambda: lorax.LoRA().init(KEY, BASE), LoraxError, "all-linear", "adapted.init",
    ),
    "integer leaf": (init("steps"), LoraxTypeError, "'steps' has dtype int32", "narrow where="),
    "integer leaf, Full": (init("steps", adapter=lorax.Full), LoraxTypeError, "'steps'", "narrow"),
    "vector": (init("query/bias"), LoraxError, "'query/bias' has shape (6,)", "BitFit or Full"),
    "three axes": (init("heads"), LoraxError, "'heads' has 3 axes", "roles="),
    "ambiguous": (used("heads"), LoraxError, "'heads' are ambiguous", "'heads': lorax.Ro"),
    "unused": (used("idle"), LoraxError, "'idle'", "narrow where="),
    "unused, Full": (
        lambda: lorax.adapt(program, lorax.Full(where=("idle",))).init(KEY, BASE, X),
        LoraxError, "'idle'", "narrow where=",
    ),
    "wrong roles": (
        init("heads", roles={"heads": lorax.Roles((), (0,), (1,))}),
        LoraxError, "roles of 'heads'", "correct the entry",
    ),
    "pissa's rank": (
        used(QUERY, rank=5, initializer="pissa"), LoraxError, f"'{QUERY}' has rank 5", "at most 4",
    ),
    "orthogonal's rank": (
        used(QUERY, rank=3, initializer="orthogonal"), LoraxError, "rank 3", "use 4",
    ),
    "other rank": (
        lambda: lorax.LoRA(rank=4, where=(QUERY,)).merge(BASE, LORA_DELTA),
        LoraxError, f"'{QUERY}' has rank 2 but this LoRA has rank 4", "load its adapter.json, or",
    ),
    "other model": (
        lambda: LORA.merge(OTHER, LORA_DELTA), LoraxError, "A (4, 2)", "another model",
    ),
    "other names": (
        lambda: LORA.merge({"query": {"kernel": jnp.ones((4, 6))}}, {"key/kernel": 0}),
        LoraxError, "'key/kernel'", "load the base it was trained on",
    ),
    "other model, Full": (
        lambda: FULL.merge(OTHER, FULL_DELTA), LoraxError, "shape (4, 6)", "load its own base",
    ),
    "empty delta": (lambda: LORA.merge(BASE, {}), LoraxError, "delta is empty", "init"),
    "no delta": (lambda: LORA.merge(BASE, None), LoraxTypeError, "NoneType", "init returns it"),
    "delta of Full": (
        lambda: LORA.merge(BASE, FULL_DELTA), LoraxTypeError, f"'{QUERY}'", "LoRA.init returns",
    ),
    "stacked delta outside vmap": (
        lambda: lorax.adapt(program, LORA)(BASE, STACK, X),
        LoraxError, "A (2, 4, 2)", "a stack of deltas outside vmap",
    ),
    "engine": (adapt(engine="fast"), LoraxError, "engine is 'fast'", "'factored', 'merged'"),
    "on_fallback": (adapt(on_fallback="no"), LoraxError, "on_fallback is 'no'", "'warn', 'allow'"),
    "no function": (adapt(fn=None), LoraxTypeError, "fn is a NoneType", "pass model.apply"),
    "a class": (adapt(adapter=lorax.LoRA), LoraxTypeError, "adapter is ", "pass an instance"),
}  # fmt: skip
MERGE_LORA_INTO_FULL = lambda: FULL.merge(BASE, LORA_DELTA)
MORE = {
    "delta of LoRA": (MERGE_LORA_INTO_FULL, LoraxTypeError, f"'{QUERY}'", "Full"),
    "rank array": (lora(rank=np.ones(2, int)), LoraxTypeError, "rank", "such as rank=8"),
    "alpha array": (lora(alpha=np.ones(2)), LoraxTypeError, "alpha", "such as alpha=16.0"),
    "alpha nan array": (lora(alpha=jnp.asarray(NAN)), LoraxError, "alpha", "such as alpha=16.0"),
    "alpha huge": (lora(alpha=10**400), LoraxError, "alpha", "such as alpha=16.0"),
    "where of numbers": (lora(where=(1, 2)), LoraxTypeError, "where", "where=("),
    "override no mapping": (lora(where={"q": 4}), LoraxTypeError, "'q'", "rank"),
    "a number for a key": (lambda: LORA.init(0, BASE), LoraxTypeError, "key is 0", "random.key"),
    "a number for the masks": (adapt(dropout_key=3), LoraxTypeError, "key is 3", "jax.random.key"),
    "a truth for a rate": (lora(dropout=False), LoraxError, "dropout is False", "dropout=0.1"),
    "factors of numbers": (
        lambda: LORA.merge(BASE, {QUERY: lorax.Factors(1, 2, lorax.Roles((), (0,), (1,)))}),
        LoraxTypeError, f"'{QUERY}'", "LoRA.init returns",
    ),
    "odd keys in one tree": (
        lambda: lorax.freeze_base(optax.sgd(0.1)).init({"a": 1, 3: 4}),
        LoraxError, "['3', 'a']", "'base' and 'delta'",
    ),
    "dtype unknown": (lora(dtype="floaty"), LoraxTypeError, "'floaty'", "floating-point"),
    "program a model": (
        lambda: lorax.adapt(nn.Dense(3), LORA), LoraxTypeError, "fn is a Dense", "model.apply",
    ),
    "where all_linear": (
        lora(where="all_linear"), LoraxTypeError, "'all_linear'", "'all-linear', or a tuple",
    ),
    "chain of a list": (
        lambda: lorax.Chain([LORA]), LoraxTypeError, "one list", "Chain(first, second)",
    ),
    "program no function": (
        lambda: lorax.report(3, LORA, BASE, X), LoraxTypeError, "fn is a int", "model.apply",
    ),
}  # fmt: skip


def _told_in_one_line(call, error, thing, cure):
    with pytest.raises(LoraxError) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) is error
    assert thing in text and cure in text and "\n" not in text, text


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(name):
    _told_in_one_line(*MISTAKES[name])


@pytest.mark.parametrize("name", MORE)
def test_more_mistakes_are_told_in_one_line(name):
    _told_in_one_line(*MORE[name])


def test_a_base_without_a_similar_name_is_not_called_empty():
    with pytest.raises(LoraxError) as caught:
        lorax.BitFit().init(KEY, {"w": jnp.ones((2, 2))})
    assert "no leaves" not in str(caught.value)


def test_a_wasteful_rank_warns_and_works():
    adapter = lorax.LoRA(rank=5, where=(QUERY,))
    apply = lorax.adapt(lambda base, x: x @ base["query"]["kernel"], adapter)
    with pytest.warns(lorax.LoraxWarning, match=rf"'{QUERY}' \(4 × 6\); lower rank") as caught:
        delta = apply.init(KEY, BASE, X)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, delta)
    want = X @ adapter.merge(BASE, moved)["query"]["kernel"]
    np.testing.assert_allclose(apply(BASE, moved, X), want, rtol=1e-5)


def test_the_smaller_side_itself_does_not_warn():
    lorax.LoRA(rank=4, where=(QUERY,)).init(KEY, BASE)


def test_the_classes_are_what_callers_catch():
    assert issubclass(LoraxError, ValueError) and not issubclass(LoraxError, TypeError)
    assert issubclass(LoraxTypeError, LoraxError) and issubclass(LoraxTypeError, TypeError)
    assert issubclass(lorax.LoraxWarning, UserWarning)
