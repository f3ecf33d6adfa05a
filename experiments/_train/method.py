"""How does a config say what learns, and how? The adapter, its start, the loss, the optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import lorax
from configs._page import defaults
from experiments._train.scoring import LANGUAGE
from lorax.adapters.full import Full
from lorax.core.errors import LoraxError
from lorax.io.checkpoint import load_adapter
from lorax.io.tokenizer import Tokenizer
from lorax.parallel.layout import Layout
from lorax.train.losses import classification_loss, next_token_loss, regression_loss
from lorax.train.optim import adamw, settled
from lorax.train.schedules import schedule
from lorax.train.step import Loss, Schedule

_SHARED = ("rank", "alpha")
"""Fields that mean the same in every adapter that has them; a page's are no mistake elsewhere."""


def make_adapter(config: Any, tokenizer: Tokenizer | None = None) -> lorax.Adapter:
    """What `config.adapter` and `config.also_train` describe.

    Args:
      config: of the run.
      tokenizer: of the model, for a prompt whose `text` the adapter is to begin with.

    Raises:
      LoraxError: an adapter that cannot be.
    """
    fields = _own(config.adapter.to_dict())
    if fields.get("text"):
        fields |= _begins_with(fields.pop("text"), tokenizer)
    if tuple(fields.get("where", ())) == ("all-linear",):
        fields["where"] = "all-linear"
    try:
        adapter = lorax.from_dict(fields)
        _check_infix(adapter)
        if not config.also_train:
            return adapter
        return lorax.Chain(adapter, Full(where=tuple(config.also_train)))
    except LoraxError as error:
        raise LoraxError(f"config.adapter: {error}") from None


def _check_infix(adapter: lorax.Adapter) -> None:
    """Virtual tokens inside the rows would never be met, and so never learn."""
    for member in getattr(adapter, "members", (adapter,)):
        if infix := getattr(member, "infix", 0):
            raise LoraxError(
                f"infix is {infix} and the rows of a run hold no tokens beyond the vocabulary: "
                "expected 0; give a program of your own such rows, through lorax.adapt"
            )


def _own(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` without those of a page's LoRA that its adapter does not have and nobody changed."""
    known = {cls.__name__: cls for cls in map(lorax.__dict__.get, lorax.__all__) if _is_kind(cls)}
    kind = known.get(fields.get("adapter"))
    if kind in (None, lorax.LoRA):
        return fields
    own = {field.name for field in dataclasses.fields(kind)}
    start = defaults().adapter.to_dict()
    changed = lambda name, value: name not in start or value != start[name]
    return {
        name: value
        for name, value in fields.items()
        if name == "adapter" or (name in own if name in _SHARED else changed(name, value))
    }


def _is_kind(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, lorax.Adapter) and cls is not lorax.Chain


def _begins_with(text: str, tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        raise LoraxError(
            f"config.adapter.text is {text!r} and the model has no tokenizer: expected one, for a "
            "prompt that begins as a text; set config.model.tokenizer, or token_ids"
        )
    return {"initializer": "text", "token_ids": tuple(map(int, tokenizer.encode(text)))}


def make_loss(
    config: Any, fn: Callable[..., Any], adapter: lorax.Adapter, layout: Layout | None = None
) -> Loss:
    """The loss of `config.data.task`, with the dropout of the model and of the adapter.

    Args:
      config: of the run.
      fn, adapter: what is adapted.
      layout: that the run is on; None for one device.
    """
    mesh = None if layout is None else layout.mesh
    part = config.optimizer
    dropout = bool(config.model.dropout)
    if config.data.task in LANGUAGE:
        return next_token_loss(
            fn, adapter, label_smoothing=part.label_smoothing, chunk=part.chunk, dropout=dropout,
            sharded_vocabulary=mesh is not None and mesh.shape["tensor"] > 1,
        )  # fmt: skip
    if config.data.task == "regression":
        return regression_loss(fn, adapter, dropout=dropout)
    return classification_loss(fn, adapter, label_smoothing=part.label_smoothing, dropout=dropout)


def make_optimizer(
    part: Any, steps: int, adapter: lorax.Adapter | None = None
) -> tuple[optax.GradientTransformation, Schedule]:
    """AdamW and the schedule inside it, of `config.optimizer`, for a run of `steps` updates.

    With an `adapter`, its method has its word after each update.

    Raises:
      LoraxError: numbers that make none, naming the part of the config.
    """
    try:
        rate = schedule(
            part.schedule, part.learning_rate, steps,
            warmup=part.warmup, warmup_ratio=part.warmup_ratio, final=part.final,
        )  # fmt: skip
        tx = adamw(
            rate, part.weight_decay, part.clip or None,
            b1=part.b1, b2=part.b2, eps=part.eps, loraplus=part.loraplus,
        )  # fmt: skip
    except LoraxError as error:
        raise LoraxError(f"config.optimizer: {error}") from None
    return (tx if adapter is None else settled(tx, adapter, steps)), rate


def first_delta(
    config: Any,
    fn: Callable[..., Any],
    adapter: lorax.Adapter,
    base: Any,
    example: Any,
    roles: Any = None,
) -> Any:
    """The delta that training begins with: drawn, or that of `config.adapter_from` where it fits.

    Args:
      config: of the run.
      fn, adapter, base: what is adapted.
      example: inputs, which tell how `fn` uses each leaf.
      roles: that, where it is known already.

    Raises:
      LoraxError: the adapter does not fit the model, or no leaf of the saved one fits.
    """
    key = jax.random.key(config.seed.init)
    if roles is None:
        roles = lorax.roles(fn, base, example)
    delta = adapter.init(key, base, roles)
    if not config.adapter_from:
        return delta
    try:
        _, saved = load_adapter(config.adapter_from)
    except LoraxError as error:
        raise LoraxError(f"config.adapter_from: {error}") from None
    found = {_name(path): leaf for path, leaf in _leaves(saved)}
    taken = 0

    def one(path: Any, leaf: Any) -> Any:
        nonlocal taken
        other = found.get(_name(path))
        if other is None or other.shape != leaf.shape:
            return leaf  # a head of another number of classes begins anew
        taken += 1
        return other.astype(leaf.dtype)

    delta = jax.tree_util.tree_map_with_path(one, delta)
    if not taken:
        raise LoraxError(
            f"config.adapter_from='{config.adapter_from}' shares no leaf with this adapter: "
            "expected the same model, targets and rank"
        )
    return delta


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: Any) -> str:
    """Where a leaf is, whatever member of a `Chain` it belongs to."""
    kept = [key for key in path if not isinstance(key, jax.tree_util.SequenceKey)]
    return jax.tree_util.keystr(tuple(kept))
