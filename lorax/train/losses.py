"""What is minimised, and in which units is it told? Losses of tokens, classes and values.

A loss is `loss(delta, base, batch, key) -> (mean over what counts, metrics)`, as `make_step` wants
it; the metric "tokens" or "examples" is how many counted. The key is for dropout and nothing else.

Shape suffixes: B batch, T tokens, V vocabulary, C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core import paths
from lorax.core.adapter import Adapter, unprepared
from lorax.core.engine import adapt
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.train.gradients import Loss, Metrics
from lorax.train.head_loss import Costs, chunked_costs, costs


def cross_entropy(
    logits_BTV: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean over the real tokens of `-log softmax(logits)[target]`, in nats, and their number.

    Args:
      logits_BTV: (..., V), any floating dtype; computed in float32 at least.
      targets_BT: (...) integers below V; entry t is what follows input t, so the shift has been
        made already.
      mask_BT: (...), true or non-zero where a target counts; None means everywhere.

    Returns:
      Two float32 scalars. Without a single real token the mean is 0, not NaN.
    """
    mask = jnp.ones(jnp.shape(targets_BT), bool) if mask_BT is None else mask_BT
    found = costs(logits_BTV, targets_BT, mask)
    return _mean(found.nats, found.counted), found.counted


def next_token_loss(
    fn: Callable[..., Any],
    adapter: Adapter,
    on_fallback: str = "warn",
    *,
    label_smoothing: float = 0.0,
    chunk: int = 0,
    sharded_vocabulary: bool = False,
    dropout: bool = False,
) -> Loss:
    """The loss of a language model under an adapter, in nats a token.

    Args:
      fn: `fn(params, inputs_BT, **options) -> logits_BTV`, `model.apply` for instance. Options are
        given only where they are needed: `mask` (B, T, T) and `positions` (B, T) for a batch with
        segments, so that packed examples do not see each other; `readout` with `chunk`;
        `deterministic` and `rngs` with `dropout`.
      adapter: what is adapted; its dropout, if any, is on, with the step's key.
      on_fallback: as for `lorax.adapt`.
      label_smoothing: as for `lorax.train.head_loss.costs`. The metric "nats" is then the mean
        without it.
      chunk: tokens whose logits exist at once, 0 for all; see `lorax.train.head_loss`. A head that
        is not adapted goes by blocks of the vocabulary instead, as large in memory and faster,
        where it says what it is: see `lorax.train.frozen_head.Head`.
      sharded_vocabulary: the head's table is split over devices along the vocabulary, whose blocks
        each of them would have to be sent: chunks are always of tokens.
      dropout: whether the model's own dropout is on, `deterministic=False` and
        `rngs={"dropout": key}` with a key that is derived from the step's and is not the adapter's.

    Returns:
      The loss; its batches have the fields `inputs`, `targets` and `mask`, each (B, T), as
      `lorax.data.batch.Batch` does; one without them is a LoraxTypeError.

    Raises:
      LoraxError: `label_smoothing` is no share, or `chunk` no number of tokens.
    """
    _check_smoothing(label_smoothing)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 0:
        raise LoraxError(f"chunk is {chunk!r}: expected a number of tokens, or 0 for all at once")
    run = _program(fn, adapter, on_fallback, dropout)

    def loss(delta: Any, base: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        options = _packing(batch)
        if chunk:
            readout = lambda hidden, head: chunked_costs(
                hidden, head, batch.targets, batch.mask, chunk, label_smoothing,
                frozen=not sharded_vocabulary and _is_frozen(head, adapter, base, delta),
            )  # fmt: skip
            found = run(delta, base, batch, key, readout=readout, **options)
        else:
            logits_BTV = run(delta, base, batch, key, **options)
            found = costs(logits_BTV, batch.targets, batch.mask, label_smoothing)
        return _told(found, "tokens", label_smoothing)

    return penalised(loss, adapter)


def classification_loss(
    fn: Callable[..., jax.Array],
    adapter: Adapter,
    on_fallback: str = "warn",
    *,
    label_smoothing: float = 0.0,
    dropout: bool = False,
) -> Loss:
    """The cross-entropy of a classifier under an adapter, in nats an example.

    Args:
      fn: `fn(params, inputs, **options) -> logits_BC` on tokens or images. Options are `mask`
        (B, T), false at padding, for a batch with segments; and those of `dropout`.
      adapter, on_fallback, label_smoothing, dropout: as for `next_token_loss`.

    Returns:
      The loss; its batches have `targets` (B,), integers below C, and `mask` (B,).

    Raises:
      LoraxError: `label_smoothing` is no share; when called, logits of another shape.
    """
    _check_smoothing(label_smoothing)
    run = _program(fn, adapter, on_fallback, dropout)

    def loss(delta: Any, base: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        logits = run(delta, base, batch, key, **_padding(batch))
        _check_heads(logits, batch.targets)
        found = costs(logits, batch.targets, batch.mask, label_smoothing)
        return _told(found, "examples", label_smoothing)

    return penalised(loss, adapter)


def regression_loss(
    fn: Callable[..., jax.Array],
    adapter: Adapter,
    on_fallback: str = "warn",
    *,
    dropout: bool = False,
) -> Loss:
    """The mean squared error of a model with one output, as GLUE's STS-B is trained.

    Args:
      fn: as for `classification_loss`, with outputs (B, 1).
      adapter, on_fallback, dropout: as for `next_token_loss`.

    Returns:
      The loss; its batches have `targets` (B,), numbers, and `mask` (B,).

    Raises:
      LoraxError: when called, outputs of another shape.
    """
    run = _program(fn, adapter, on_fallback, dropout)

    def loss(delta: Any, base: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        outputs = run(delta, base, batch, key, **_padding(batch))
        _check_heads(outputs, batch.targets, 1)
        values = outputs[:, 0].astype(jnp.promote_types(outputs.dtype, jnp.float32))
        mask = batch.mask.astype(values.dtype)
        total = jnp.where(mask > 0, jnp.square(values - batch.targets) * mask, 0).sum()
        return _mean(total, mask.sum()), {"examples": mask.sum()}

    return penalised(loss, adapter)


def penalised(loss: Loss, adapter: Adapter) -> Loss:
    """`loss` with the `penalty` of a method that has one, which is the metric "penalty" as well.

    The losses of this file have it already.
    """

    def whole(delta: Any, base: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        value, metrics = loss(delta, base, batch, key)
        penalty = adapter.penalty(delta)
        if penalty is None:
            return value, metrics
        return value + penalty, {**metrics, "penalty": penalty}

    return whole


def _program(
    fn: Callable[..., Any], adapter: Adapter, on_fallback: str, dropout: bool
) -> Callable[..., Any]:
    """`fn` on the inputs of a batch, under the adapter, with the dropout of both."""

    def run(delta: Any, base: Any, batch: Any, key: jax.Array, **options: Any) -> Any:
        _check_batch(batch)
        if dropout:
            # a name that no leaf has, so that no mask of the adapter's is drawn again
            rngs = {"dropout": paths.key_for(key, "the model's own dropout")}
            options |= {"deterministic": False, "rngs": rngs}
        apply = adapt(fn, adapter, on_fallback=on_fallback, dropout_key=key)
        return apply(base, delta, batch.inputs, **options)

    return run


def _is_frozen(head: Any, adapter: Adapter, base: Any, delta: Any) -> bool:
    """Whether the head says which leaf it has, and that is a plain array which is not adapted."""
    name = getattr(head, "name", None)
    plain, _ = unprepared(base)
    own = {p: x for p, x in paths.flatten(plain).items() if name and f"/{p}".endswith(f"/{name}")}
    adapted = adapter.leaves(base, delta)
    return bool(own) and all(
        isinstance(leaf, jax.Array | np.ndarray) and adapted.get(path, leaf) is leaf
        for path, leaf in own.items()
    )


def _mean(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.maximum(count, 1)


def _told(found: Costs, unit: str, label_smoothing: float) -> tuple[jax.Array, Metrics]:
    """The mean loss, and the metrics that go with it."""
    metrics = {unit: found.counted}
    if label_smoothing:
        metrics["nats"] = _mean(found.nats, found.counted)
    return _mean(found.loss, found.counted), metrics


def _packing(batch: Any) -> dict[str, Any]:
    """What a language model has to know of several examples in a row."""
    segments = getattr(batch, "segments", None)
    if segments is None:
        return {}
    same = segments[:, :, None] == segments[:, None, :]
    options = {"mask": same & (segments[:, None, :] > 0)}
    positions = getattr(batch, "positions", None)
    return options if positions is None else options | {"positions": positions}


def _padding(batch: Any) -> dict[str, Any]:
    """What a classifier has to know of rows that end early; positions it counts itself."""
    segments = getattr(batch, "segments", None)
    return {} if segments is None else {"mask": segments > 0}


def _check_batch(batch: Any) -> None:
    if not all(hasattr(batch, name) for name in ("inputs", "targets", "mask")):
        raise LoraxTypeError(
            f"batch is a {type(batch).__name__}: expected one with the fields inputs, targets and "
            "mask; make it with lorax.data.batch.Batch(inputs, targets, mask)"
        )


def _check_heads(outputs: jax.Array, targets: jax.Array, width: int | None = None) -> None:
    """Raises LoraxError unless the model gives one row of numbers for each target (B,)."""
    rows = jnp.shape(targets)
    found = jnp.shape(outputs)
    if len(rows) != 1 or len(found) != 2 or found[0] != rows[0] or width not in (None, found[1]):
        raise LoraxError(
            f"the model gives {found} for targets {rows}: expected (batch, {width or 'classes'}) "
            'for (batch,); use a model with such a head, head="classification" of Roberta say'
        )


def _check_smoothing(share: float) -> None:
    if not 0 <= share < 1:
        raise LoraxError(f"label_smoothing is {share}: expected at least 0 and below 1, 0.1 say")
