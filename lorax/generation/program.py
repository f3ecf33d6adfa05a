"""How does a program take one more token? With its key-value cache, or by computing all anew.

Shape suffixes: R rows, P prompt (padded), S slots (prompt and new tokens), V vocabulary.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.core.adapter import Adapter, Base, Delta, Prepared
from lorax.core.engine import Adapted, adapt
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.trace import check_program

Function = Callable[..., Any]


class Method(NamedTuple):
    """A bound method that equals another one if their owners are equal.

    Python compares owners by identity, and a Flax model is built anew as often as not: the jitted
    decoding would be compiled for each.
    """

    function: Function
    owner: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the method."""
        return self.function(self.owner, *args, **kwargs)


class Sequence(NamedTuple):
    """The tokens so far of a program without a cache: prompt, new tokens, then padding.

    ``tokens`` (R, S) int32 and ``length`` (R,) int32, how many of them are real.
    """

    tokens: jax.Array
    length: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """A program on (base, delta) that is decoded; hashable, so that a jit knows it again.

    Attributes:
      fn: of (params, tokens, …) where `adapter` is given; else as the caller wrote it.
      adapter, engine, on_fallback: those of an `Adapted`, or None, "" and "".
      takes_delta: is `fn` of (base, delta, tokens, …)?
      init_cache: (batch, slots) to an empty cache, any pytree whose leaves have at most one axis of
        size batch; None where the program has none.
      max_length: most tokens that the program takes beside virtual ones, None if unknown.
      vocab_size: number of its ids, None if unknown.
    """

    fn: Function
    adapter: Adapter | None = None
    engine: str = ""
    on_fallback: str = ""
    takes_delta: bool = False
    init_cache: Function | None = None
    max_length: int | None = None
    vocab_size: int | None = None

    @property
    def virtual_tokens(self) -> int:
        """How many places of the context the adapter takes."""
        return 0 if self.adapter is None else self.adapter.virtual_tokens

    def prepare(self, base: Base, delta: Delta) -> Base:
        """What the adapter derives from the base, once before the first token."""
        if self.adapter is None or isinstance(base, Prepared):
            return base
        return self.adapter.prepare(base, delta)

    def start(
        self, base: Base, delta: Delta, prompts: jax.Array, lengths: jax.Array, slots: int
    ) -> tuple[Any, jax.Array]:
        """Read the prompts (R, P), each followed by padding: the memory, and logits (R, V)."""
        rows, width = prompts.shape
        if self.init_cache is None:
            tokens_RS = jnp.pad(prompts, ((0, 0), (0, slots - width)))
            return self._recompute(base, delta, Sequence(tokens_RS, lengths))
        tokens, mask = left_padded(prompts, lengths)
        cache = self.init_cache(rows, slots)
        return self._cached(base, delta, tokens, cache, mask)

    def step(self, base: Base, delta: Delta, memory: Any, last: jax.Array) -> tuple[Any, jax.Array]:
        """Read one more token a row, ``last`` (R,): the memory, and logits (R, V)."""
        if self.init_cache is None:
            tokens_RS, length = memory
            at = jnp.arange(tokens_RS.shape[1]) == length[:, None]
            tokens_RS = jnp.where(at, last[:, None], tokens_RS)
            return self._recompute(base, delta, Sequence(tokens_RS, length + 1))
        mask = jnp.ones((len(last), 1), bool)
        return self._cached(base, delta, last[:, None], memory, mask)

    def logits(self, base: Base, delta: Delta, tokens: jax.Array) -> jax.Array:
        """The logits (R, T, V) of tokens (R, T), without a cache."""
        return _checked(self._call(base, delta, tokens), tokens)

    def select(self, memory: Any, rows: jax.Array, slots: int) -> Any:
        """The memory with ``rows`` (R',) of it as its rows; a row may be taken many times."""
        if self.init_cache is None:
            return jax.tree.map(lambda leaf: leaf[rows], memory)
        two, three = (jax.eval_shape(functools.partial(self.init_cache, n, slots)) for n in (2, 3))

        def take(leaf: jax.Array, small: Any, large: Any) -> jax.Array:
            pairs = enumerate(zip(small.shape, large.shape, strict=True))
            axes = [axis for axis, (a, b) in pairs if a != b]
            return jnp.take(leaf, rows, axis=axes[0]) if axes else leaf

        # leaf by leaf: a memory that was begun may say so, and is then of another form
        leaves, form = jax.tree.flatten(memory)
        taken = map(take, leaves, jax.tree.leaves(two), jax.tree.leaves(three))
        return jax.tree.unflatten(form, taken)

    def _cached(
        self, base: Base, delta: Delta, tokens: jax.Array, cache: Any, mask: jax.Array
    ) -> tuple[Any, jax.Array]:
        found = self._call(base, delta, tokens, mask=mask, cache=cache)
        if not isinstance(found, tuple) or len(found) != 2:
            raise LoraxTypeError(
                f"the program returned {type(found).__name__} for a call with cache=: expected "
                "(logits, cache); pass init_cache=False to decode without a cache"
            )
        return found[1], _checked(found[0], tokens)[:, -1]

    def _recompute(self, base: Base, delta: Delta, memory: Sequence) -> tuple[Any, jax.Array]:
        logits_RSV = self.logits(base, delta, memory.tokens)
        last = (memory.length - 1)[:, None, None]
        return memory, jnp.take_along_axis(logits_RSV, last, axis=1)[:, 0]

    def _call(self, base: Base, delta: Delta, tokens: jax.Array, **kwargs: Any) -> Any:
        if self.adapter is not None:
            # a plain method again: `adapt` reads the signature
            fn = types.MethodType(*self.fn) if isinstance(self.fn, Method) else self.fn
            adapted = adapt(fn, self.adapter, engine=self.engine, on_fallback=self.on_fallback)
            return adapted(base, delta, tokens, **kwargs)
        params = (base, delta) if self.takes_delta else (base,)
        return self.fn(*params, tokens, **kwargs)


def make_program(apply: Function, delta: Delta, init_cache: Any, max_length: int | None) -> Program:
    """The program behind `apply`, with the cache of the model it is a method of.

    Args:
      apply: an `Adapted`, or a function of (base, delta, tokens, …), or, with `delta` None, of
        (base, tokens, …).
      delta: as `generate` got it.
      init_cache: a function, None to look for one on the model, False for none.
      max_length: None to look for it in the model's config, less what the adapter takes of it.

    Raises:
      LoraxTypeError: `apply` or `init_cache` is no function.
      LoraxError: an adapted program without a delta, or with dropout; a delta for a program that
        takes none.
    """
    check_program(apply, "apply")
    fn, known = apply, Program(apply)
    if isinstance(apply, Adapted):
        _check_adapted(apply, delta)
        fn = apply.fn
        known = Program(fn, apply.adapter, apply.engine, apply.on_fallback)
    model = _owner(fn)
    if known.adapter is None:
        _check_plain(fn, model, delta)
    if init_cache is None:
        init_cache = getattr(model, "init_cache", None)
    elif init_cache is False:
        init_cache = None
    elif not callable(init_cache):
        raise LoraxTypeError(
            f"init_cache is {init_cache!r}: expected a function of (batch, length), None to use "
            "the model's own, or False for none"
        )
    config = getattr(model, "config", None)
    context = getattr(config, "max_length", None)
    if context is not None:
        context -= known.virtual_tokens
    return dataclasses.replace(
        known,
        fn=_comparable(fn),
        takes_delta=delta is not None,
        init_cache=None if init_cache is None else _comparable(init_cache),
        max_length=context if max_length is None else max_length,
        vocab_size=getattr(config, "vocab_size", None),
    )


def left_padded(prompts: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Prompts (R, P) with their padding moved to the left, and a mask, false at padding.

    Padding is a token of the prompt, so that it lies in every vocabulary.
    """
    source = jnp.arange(prompts.shape[1]) - (prompts.shape[1] - lengths[:, None])
    return jnp.take_along_axis(prompts, jnp.maximum(source, 0), axis=1), source >= 0


def _check_adapted(apply: Adapted, delta: Delta) -> None:
    if delta is None:
        raise LoraxError(
            "delta is None for an adapted program: pass its delta, or the plain model.apply"
        )
    if apply.dropout_key is not None:
        raise LoraxError(
            "apply has a dropout_key: expected a program without dropout; generate with "
            "lorax.adapt(fn, adapter)"
        )


def _check_plain(fn: Function, model: Any, delta: Delta) -> None:
    """A model's own `apply` takes no delta, and an empty one is none."""
    is_apply = hasattr(model, "init") and getattr(fn, "__name__", "") == "apply"
    empty = isinstance(delta, Mapping | tuple | list) and not delta
    if delta is not None and (is_apply or empty):
        what = "delta is empty" if empty else f"apply is that of a {type(model).__name__} itself"
        raise LoraxError(
            f"{what}: expected lorax.adapt(model.apply, adapter) with a delta; pass delta=None to "
            "run the base alone"
        )


def _checked(logits: Any, tokens: jax.Array) -> jax.Array:
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 3 or tuple(shape[:2]) != tokens.shape:
        found = type(logits).__name__ if shape is None else f"shape {tuple(shape)}"
        raise LoraxError(
            f"the program returned {found} for tokens of shape {tokens.shape}: expected logits "
            f"{(*tokens.shape, 'vocabulary')}; wrap it so that it returns them alone"
        )
    return logits


def _owner(fn: Any) -> Any:
    """What the innermost function is a method of, through `jax.jit` and `functools.partial`."""
    while not hasattr(fn, "__self__"):
        inner = getattr(fn, "func", None) or getattr(fn, "__wrapped__", None)
        if inner is None:
            return None
        fn = inner
    return fn.__self__


def _comparable(fn: Any) -> Any:
    """`fn` so that a jit can look it up: by value where that works, else by identity."""
    if isinstance(fn, types.MethodType) and _hashable(fn.__self__):
        return Method(fn.__func__, fn.__self__)
    return fn if _hashable(fn) else _Itself(fn)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class _Itself:
    """A function that cannot be hashed, an Equinox module for instance; equal to itself alone."""

    def __init__(self, fn: Function):
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)
