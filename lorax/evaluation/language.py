"""How well does a program predict text? Loss, perplexity, bits a byte; and what was forgotten.

Shape suffixes: B rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.trace import check_program
from lorax.data.batch import Batch

Numbers = dict[str, float]


def make_evaluate_language(fn: Callable[..., jax.Array]) -> Callable[..., Numbers]:
    """The measure of a language model on held-out batches, compiled once a shape of batch.

    Keep what it returns: calling it again, with other parameters say, compiles nothing.

    Args:
      fn: `fn(*params, inputs_BT) -> logits_BTV`: `model.apply`, or `lorax.adapt(model.apply,
        adapter)`, which takes base and delta. For a batch with `segments` it is called with the
        keyword `mask` (B, T, T), by which a token sees those of its own example alone, and for one
        with `positions` with that keyword.

    Returns:
      `evaluate(batches, *params, size=None, check=None) -> {"loss", "perplexity", "tokens"}` and
      "bits_per_byte" where `size`, the bytes of the text, is given. "loss" is the mean of
      `-log softmax(logits)[target]` in nats over all "tokens" whose mask is true, however they are
      spread over the batches; sums within a batch are float32, over batches float64. "perplexity"
      is its exponential. `check` is called after each batch; what it raises ends the evaluation.
      It raises a LoraxError where no token counts, and a LoraxTypeError for what is no batch.
    """
    check_program(fn)

    @jax.jit
    def totals(params: tuple[Any, ...], batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits_BTV = fn(*params, batch.inputs, **keywords(batch))
        nats_BT = cross_entropies(logits_BTV, batch.targets)
        # where, not a product: NaN at padding times zero would still be NaN
        return jnp.where(batch.mask, nats_BT, 0).sum(), batch.mask.astype(bool).sum()

    def evaluate(
        batches: Iterable[Batch],
        *params: Any,
        size: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Numbers:
        nats, tokens = 0.0, 0
        for batch in batches:
            check_batch(batch)
            now = totals(params, batch)
            nats, tokens = nats + float(now[0]), tokens + int(now[1])
            if check is not None:
                check()
        return told_of(nats, tokens, size)

    return evaluate


def forgetting(now: Mapping[str, float], frozen: Mapping[str, float]) -> Numbers:
    """How much worse a held-out set is predicted than by the frozen base; above 0 is forgotten.

    Args:
      now, frozen: what `make_evaluate_language` measured on the same batches, after training and
        of the base alone.

    Returns:
      `now - frozen` of "loss" (nats a token), and of "bits_per_byte" where both have it.

    Raises:
      LoraxError: the two counted different numbers of tokens.
    """
    if now["tokens"] != frozen["tokens"]:
        raise LoraxError(
            f"the trained model was measured on {now['tokens']} tokens and the base on "
            f"{frozen['tokens']}: expected the same held-out set"
        )
    both = [name for name in ("loss", "bits_per_byte") if name in now and name in frozen]
    return {name: now[name] - frozen[name] for name in both}


def bits_per_byte(nats: float, tokens: float, size: float) -> float:
    """Nats a token as bits a byte: `nats · tokens / (size · ln 2)`.

    Comparable between tokenisers, unlike perplexity. `tokens` is how many were predicted and
    `size` how many bytes of text they stand for; the two are equal for a model of bytes.
    """
    return nats * tokens / (size * math.log(2))


def cross_entropies(logits: jax.Array, targets: Any) -> jax.Array:
    """`-log softmax(logits)[target]` in nats: logits (..., V) and targets (...) to (...) float32.

    NaN for a target that is not below V.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - right


def check_batch(batch: Any) -> None:
    """Raises LoraxTypeError unless `batch` has the fields of `lorax.data.batch.Batch`."""
    if not all(hasattr(batch, name) for name in ("inputs", "targets", "mask")):
        raise LoraxTypeError(
            f"batches hold a {type(batch).__name__}: expected lorax.data.batch.Batch(inputs, "
            "targets, mask); pass a list of them"
        )


def keywords(batch: Batch) -> dict[str, jax.Array]:
    """What a packed batch tells the program beside its tokens; nothing of a plain one."""
    found = {}
    segments_BT = getattr(batch, "segments", None)
    if segments_BT is not None:
        same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
        found["mask"] = same_BTT & (segments_BT != 0)[:, :, None]
    positions_BT = getattr(batch, "positions", None)
    if positions_BT is not None:
        found["positions"] = positions_BT
    return found


def told_of(nats: float, tokens: int, size: int | None = None) -> Numbers:
    """Loss, perplexity and tokens, as `make_evaluate_language` tells them, of the sum of nats.

    Raises:
      LoraxError: there are no tokens.
    """
    if not tokens:
        raise LoraxError(
            "no token of the held-out set counts: expected at least one whose mask is true; look "
            "for an empty split, or answers cut off at the length"
        )
    loss = nats / tokens
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    found: Numbers = {"loss": loss, "perplexity": perplexity, "tokens": tokens}
    if size is not None:
        found["bits_per_byte"] = bits_per_byte(loss, tokens, size)
    return found
