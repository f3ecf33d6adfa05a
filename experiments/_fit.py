"""How is one method trained? An adapter, its optimizer, and the library's step and loop."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax

import lorax
from lorax.core.errors import LoraxError
from lorax.train.loop import Evaluate, Outcome, Plan, train
from lorax.train.losses import next_token_loss
from lorax.train.metrics import MetricsWriter
from lorax.train.optim import adamw, settled
from lorax.train.schedules import schedule
from lorax.train.step import Step, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to adapt: its name in the config, its adapter, the learning rates to try."""

    name: str
    adapter: lorax.Adapter
    learning_rates: tuple[float, ...]

    @property
    def learning_rate(self) -> float:
        """The rate of a method that has just one."""
        (rate,) = self.learning_rates
        return rate


@dataclasses.dataclass(frozen=True)
class Trained:
    """A method after training, and what it took.

    Attributes:
      delta: what was learnt.
      trainable: numbers in it.
      optimizer_bytes: of the real optimizer state.
      outcome: of the loop; its state has been through the last step.
      step: the compiled step.
    """

    delta: Any
    trainable: int
    optimizer_bytes: int
    outcome: Outcome
    step: Step


def methods(config: Any) -> list[Method]:
    """The methods that `config.compare` names, in its order.

    Each entry of `config.methods` has an `adapter` and a `learning_rate`, or `learning_rates`.

    Raises:
      LoraxError: an unknown or repeated name, or an adapter that cannot be, naming the method.
    """
    found = []
    for name in config.compare:
        if name not in config.methods or list(config.compare).count(name) > 1:
            raise LoraxError(
                f"config.compare names '{name}' twice, or config.methods has no such entry: "
                f"expected each of {', '.join(config.methods)} at most once"
            )
        fields = config.methods[name]
        one = (fields.learning_rate,) if "learning_rate" in fields else ()
        try:
            adapter = lorax.from_dict(fields.adapter.to_dict())
        except LoraxError as error:
            raise LoraxError(f"config.methods.{name}.adapter: {error}") from None
        found.append(Method(name, adapter, one or tuple(fields.learning_rates)))
    return found


def check(config: Any, fn: Callable[..., Any], base: Any, compared: list[Method]) -> None:
    """Finds, before anything is trained or written, what would fail later.

    Args:
      config: with the parts `adapt` and `data`.
      fn: the program of (params, tokens).
      base: its parameters, or their shapes.
      compared: the methods.

    Raises:
      LoraxError: a schedule that cannot be, or an adapter that does not fit the model.
    """
    example = np.zeros((1, config.data.length), np.int32)
    for method in compared:
        try:
            for rate in method.learning_rates:
                optimizer(config.adapt, rate)
            apply = lorax.adapt(fn, method.adapter)
            jax.eval_shape(lambda base, f=apply: f.init(jax.random.key(0), base, example), base)
        except LoraxError as error:
            raise LoraxError(f"config.methods.{method.name}: {error}") from None


def optimizer(
    part: Any, learning_rate: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW under `part.warmup` of `part.steps`, cosine decay to a tenth, clipped."""
    rate = schedule("cosine", learning_rate, part.steps, warmup=part.warmup, final=0.1)
    return adamw(rate, part.weight_decay, part.clip), rate


def fit(
    fn: Callable[..., Any],
    adapter: lorax.Adapter,
    base: Any,
    batches: Iterable[Any],
    part: Any,
    *,
    learning_rate: float,
    key: jax.Array,
    plan: Plan,
    writer: MetricsWriter,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
) -> Trained:
    """`plan.steps` updates of a fresh delta for the language model `fn`.

    Args:
      fn, adapter, base: what is adapted.
      batches: with `inputs`, `targets`, `mask`, each (B, T).
      part: the optimizer's settings, see `optimizer`.
      learning_rate: the highest.
      key: of the draw of the delta, and of the run.
      plan: length and reports.
      writer: where the metrics go.
      evaluate: from merged parameters to numbers.
    """
    tx, rate = optimizer(part, learning_rate)
    tx = settled(tx, adapter, plan.steps)
    queue = iter(batches)
    first = next(queue)
    delta = lorax.adapt(fn, adapter).init(key, base, first.inputs)
    base = adapter.prepare(base, delta)
    state = init_state(delta, tx, key)
    optimizer_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    merge = jax.jit(adapter.merge)
    measure: Evaluate | None = None
    if evaluate is not None:
        measure = lambda state: evaluate(merge(base, state.delta))
    step = make_step(next_token_loss(fn, adapter), tx, rate)
    outcome = train(step, state, base, _again(first, queue), plan, writer=writer, evaluate=measure)
    trainable = sum(leaf.size for leaf in jax.tree.leaves(delta))
    return Trained(outcome.state.delta, trainable, optimizer_bytes, outcome, step)


def _again(first: Any, rest: Iterable[Any]) -> Iterable[Any]:
    yield first
    yield from rest
