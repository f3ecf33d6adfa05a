"""How are the base pre-trained and the methods adapted? With one step, one loop, one optimizer."""

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from experiments import _fit
from experiments._fit import Method, Trained
from experiments._quickstart.sample import make_sampler
from experiments._quickstart.setting import Corpus, Setting
from lorax.core.errors import LoraxError
from lorax.data import text
from lorax.data.batch import Batch
from lorax.train.loop import Outcome, Plan
from lorax.train.metrics import MetricsWriter


def check(config: Any, setting: Setting, compared: list[Method]) -> None:
    """Finds, before anything is trained or written, what would fail later.

    Raises:
      LoraxError: a schedule that cannot be, or an adapter that does not fit the model.
    """
    _fit.optimizer(config.pretrain, config.pretrain.learning_rate)
    example = np.zeros((1, config.data.length), np.int32)
    try:
        base = jax.eval_shape(setting.model.init, jax.random.key(0), example)
        make_sampler(setting.model, config.sample, seed=0)
    except ValueError as error:
        raise LoraxError(f"config cannot be used: {error}") from None
    _fit.check(config, setting.model.apply, base, compared)


def pretrain(config: Any, setting: Setting, writer: MetricsWriter) -> tuple[Any, Outcome]:
    """The base, trained from scratch on English.

    Pre-training is full fine-tuning of a random base: one engine for everything.
    """
    key = jax.random.key(config.seed.init)
    example = np.zeros((1, config.data.length), np.int32)
    start = jax.jit(setting.model.init)(key, example)
    everything = Method("pretrain", lorax.Full(), (config.pretrain.learning_rate,))
    trained = _train(config, setting, everything, start, setting.english, config.pretrain, writer)
    return everything.adapter.merge(start, trained.delta), trained.outcome


def adapt(
    config: Any, setting: Setting, method: Method, base: Any, writer: MetricsWriter
) -> Trained:
    """`method` on Python source, with curves of both held-out texts in the metrics."""
    return _train(config, setting, method, base, setting.python, config.adapt, writer)


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


def _train(
    config: Any,
    setting: Setting,
    method: Method,
    base: Any,
    corpus: Corpus,
    part: Any,
    writer: MetricsWriter,
) -> Trained:
    """`part.steps` updates of a fresh delta, on batches that are the same for every method."""
    count = part.get("evaluations", 0)
    every = -(-part.steps // count) if count else 0
    return _fit.fit(
        setting.model.apply,
        method.adapter,
        base,
        _batches(config, corpus),
        part,
        learning_rate=method.learning_rate,
        key=jax.random.key(config.seed.init),
        plan=Plan(part.steps, method.name, config.log_every, every),
        writer=writer,
        evaluate=setting.measure if every else None,
    )


def _batches(config: Any, corpus: Corpus) -> Iterator[Batch]:
    return text.batches(
        corpus.train, batch=config.data.batch, length=config.data.length, seed=config.seed.data
    )
