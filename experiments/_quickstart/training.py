"""How are the base pre-trained and the methods adapted? With one step, one loop, one optimizer."""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lorax
from experiments._quickstart.sample import make_sampler
from experiments._quickstart.setting import Corpus, Setting
from lorax.core.errors import LoraxError
from lorax.data import text
from lorax.data.batch import Batch
from lorax.train.loop import Outcome, Plan, train
from lorax.train.losses import next_token_loss
from lorax.train.metrics import MetricsWriter
from lorax.train.optim import adamw, warmup_cosine
from lorax.train.step import State, Step, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to adapt: its name in the config, its adapter, its learning rate."""

    name: str
    adapter: lorax.Adapter
    learning_rate: float


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
        try:
            adapter = lorax.from_dict(fields.adapter.to_dict())
            found.append(Method(name, adapter, fields.learning_rate))
        except LoraxError as error:
            raise LoraxError(f"config.methods.{name}.adapter: {error}") from None
    return found


def check(config: Any, setting: Setting, compared: list[Method]) -> None:
    """Finds, before anything is trained or written, what would fail later.

    Raises:
      LoraxError: a schedule that cannot be, or an adapter that does not fit the model.
    """
    _optimizer(config.pretrain, config.pretrain.learning_rate)
    example = np.zeros((1, config.data.length), np.int32)
    try:
        base = jax.eval_shape(setting.model.init, jax.random.key(0), example)
        make_sampler(setting.model, config.sample, seed=0)
    except ValueError as error:
        raise LoraxError(f"config cannot be used: {error}") from None
    for method in compared:
        try:
            _optimizer(config.adapt, method.learning_rate)
            apply = lorax.adapt(setting.model.apply, method.adapter)
            jax.eval_shape(lambda base, f=apply: f.init(jax.random.key(0), base, example), base)
        except LoraxError as error:
            raise LoraxError(f"config.methods.{method.name}: {error}") from None


def pretrain(config: Any, setting: Setting, writer: MetricsWriter) -> tuple[Any, Outcome]:
    """The base, trained from scratch on English.

    Pre-training is full fine-tuning of a random base: one engine for everything.
    """
    key = jax.random.key(config.seed.init)
    example = np.zeros((1, config.data.length), np.int32)
    start = jax.jit(setting.model.init)(key, example)
    everything = Method("pretrain", lorax.Full(), config.pretrain.learning_rate)
    trained = _fit(config, setting, everything, start, setting.english, config.pretrain, writer)
    return everything.adapter.merge(start, trained.delta), trained.outcome


def adapt(
    config: Any, setting: Setting, method: Method, base: Any, writer: MetricsWriter
) -> Trained:
    """`method` on Python source, with curves of both held-out texts in the metrics."""
    return _fit(config, setting, method, base, setting.python, config.adapt, writer)


def seconds_per_step(
    config: Any, setting: Setting, base: Any, kept: Mapping[str, Trained], rounds: int = 9
) -> dict[str, float]:
    """The median time of one step of each method, taken in turn.

    A machine that is busy for a while then slows every method alike, which is not so for the steps
    of training, where one method comes after the other.
    """
    batch = next(_batches(config, setting.python))
    # a step donates its state, and the trained one is still needed
    states = {
        name: jax.tree.map(lambda x: jnp.array(x, copy=True), trained.outcome.state)
        for name, trained in kept.items()
    }
    times: dict[str, list[float]] = {name: [] for name in kept}
    for _ in range(rounds):
        for name, trained in kept.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(trained.step(states[name], base, batch))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def _fit(
    config: Any,
    setting: Setting,
    method: Method,
    base: Any,
    corpus: Corpus,
    part: Any,
    writer: MetricsWriter,
) -> Trained:
    """`part.steps` updates of a fresh delta, on batches that are the same for every method."""
    tx, schedule = _optimizer(part, method.learning_rate)
    key = jax.random.key(config.seed.init)
    delta = lorax.adapt(setting.model.apply, method.adapter).init(
        key, base, np.zeros((1, config.data.length), np.int32)
    )
    state = init_state(delta, tx, key)
    optimizer_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    merge = jax.jit(method.adapter.merge)
    plan = Plan(part.steps, method.name, config.log_every, _every(part))

    def evaluate(state: State) -> dict[str, float]:
        return setting.measure(merge(base, state.delta))

    step = make_step(next_token_loss(setting.model.apply, method.adapter), tx, schedule)
    outcome = train(
        step,
        state,
        base,
        _batches(config, corpus),
        plan,
        writer=writer,
        evaluate=evaluate if _every(part) else None,
    )
    trainable = sum(leaf.size for leaf in jax.tree.leaves(delta))
    return Trained(outcome.state.delta, trainable, optimizer_bytes, outcome, step)


def _optimizer(
    part: Any, learning_rate: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = warmup_cosine(learning_rate, part.steps, part.warmup, final=0.1)
    return adamw(schedule, part.weight_decay, part.clip), schedule


def _every(part: Any) -> int:
    count = part.get("evaluations", 0)
    return -(-part.steps // count) if count else 0


def _batches(config: Any, corpus: Corpus) -> Iterator[Batch]:
    return text.batches(
        corpus.train, batch=config.data.batch, length=config.data.length, seed=config.seed.data
    )
