"""The loop: records, evaluations, a prompt stop at NaN, no waiting for the newest step."""

import io
import itertools
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax import train as train_package
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.data.batch import Batch
from lorax.train import loop
from lorax.train.loop import LAG, NotFinite, Plan, train
from lorax.train.metrics import MetricsWriter, read_metrics
from lorax.train.step import init_state, make_step
from lorax.train.stop import Stop, Stopped

BASE = {"w": jnp.arange(3.0)}
TX = optax.sgd(0.1)


def loss(delta, base, batch, key):
    error = delta["a"] + base["w"] - batch
    return (error**2).mean(), {"bias": error.mean()}


def start():
    return init_state({"a": jnp.zeros(3)}, TX, jax.random.key(0))


def plan(steps, **options):
    return Plan(steps, "toy", stream=io.StringIO(), **options)


def test_trains_and_records(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:
        outcome = train(
            make_step(loss, TX), start(), BASE, itertools.repeat(np.ones(3, np.float32)),
            plan(7, log_every=3, eval_every=4), writer=writer,
            evaluate=lambda state: {"score": state.delta["a"].sum()},
        )  # fmt: skip
    records = read_metrics(file)
    assert [(r["kind"], r["step"]) for r in records] == [
        ("train", 3), ("eval", 4), ("train", 6), ("train", 7), ("eval", 7),
    ]  # fmt: skip
    assert all(r["run"] == "toy" for r in records)
    losses = [r["loss"] for r in records if r["kind"] == "train"]
    assert losses == sorted(losses, reverse=True)
    assert outcome.metrics["loss"] == losses[-1]
    assert int(outcome.state.step) == 7 and outcome.seconds_per_step > 0


@pytest.mark.parametrize("bad_step", [1, 5, 9])
def test_nan_stops_clearly_and_keeps_the_records(tmp_path, bad_step):
    given = []

    def batches():
        for number in itertools.count(1):
            given.append(number)
            yield np.full(3, np.nan if number == bad_step else 1.0, np.float32)

    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer, pytest.raises(NotFinite) as caught:
        train(make_step(loss, TX), start(), BASE, batches(), plan(9, log_every=2), writer=writer)
    message = str(caught.value)
    assert f"toy: training stopped at step {bad_step}, where loss is nan" in message
    assert "learning rate" in message or bad_step == 1
    assert "\n" not in message
    records = read_metrics(file)
    assert [r["step"] for r in records] == [*range(2, bad_step, 2), bad_step]
    assert records[-1]["loss"] is None
    assert len(given) <= bad_step + LAG


def test_infinite_gradient_under_a_finite_loss_stops_too():
    cusp = lambda delta, base, batch, key: (jnp.sqrt(jnp.abs(delta["a"])).sum(), {})
    with pytest.raises(NotFinite, match="step 1, where loss is 0.0, l2_grads is (inf|nan)"):
        train(make_step(cusp, TX), start(), BASE, itertools.repeat(0), plan(5))


def test_batches_that_run_out():
    batches = [np.ones(3, np.float32)] * 2
    with pytest.raises(LoraxError, match="batches ran out after 2 of 5 steps"):
        train(make_step(loss, TX), start(), BASE, batches, plan(5))


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3", True, None])
def test_a_plan_without_steps(steps):
    with pytest.raises(LoraxError, match=f"steps is {steps!r}: expected an integer, at least 1"):
        Plan(steps)


def test_what_is_no_state_and_what_is_no_plan():
    for wrong in ({"a": jnp.zeros(3)}, None):
        with pytest.raises(LoraxTypeError, match=r"state is a .*pass init_state\(delta, tx, key\)"):
            train(make_step(loss, TX), wrong, BASE, [], plan(3))
    for wrong, words in ((25, "an? int.*steps=25"), (None, "NoneType.*steps=30")):
        with pytest.raises(LoraxTypeError, match=f"plan is .*{words}"):
            train(make_step(loss, TX), start(), BASE, [], wrong)


def test_the_newest_steps_are_never_waited_for(monkeypatch):
    read, started = [], []
    get = jax.device_get

    def device_get(tree):
        read.append(len(started))
        return get(tree)

    def step(state, base, batch):
        started.append(1)
        return state, {"loss": jnp.float32(1), "l2_grads": jnp.float32(1)}

    monkeypatch.setattr(loop.jax, "device_get", device_get)
    train(step, start(), BASE, itertools.repeat(0), plan(20, log_every=1000))
    # nothing is read before LAG + 1 steps are under way, and then one step's scalars a step
    assert read[0] == LAG + 1
    assert read[: 20 - LAG] == list(range(LAG + 1, 21))


def test_a_single_step_has_no_median():
    outcome = train(make_step(loss, TX), start(), BASE, [np.ones(3, np.float32)], plan(1))
    assert np.isnan(outcome.seconds_per_step)


def test_the_package_shows_a_way_that_works():
    lines = train_package.__doc__.split("\n\n")
    code = "\n".join(part for part in lines if " = " in part or part.startswith("from"))
    base = {"w": jnp.eye(8)}
    fn = lambda params, tokens: jax.nn.one_hot(tokens, 8) @ params["w"]
    model, adapter = types.SimpleNamespace(apply=fn), lorax.LoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(0), base)
    rows = np.tile(np.arange(8), (2, 1))
    batches = itertools.repeat(Batch(rows, (rows + 1) % 8, np.ones((2, 8), bool)))
    names = {"jax": jax, "model": model, "adapter": adapter, "base": base, "delta": delta}
    names["batches"] = batches
    exec(code.replace("steps=400", "steps=3"), names)
    assert int(names["outcome"].state.step) == 3
    assert jax.tree.structure(names["delta"]) == jax.tree.structure(delta)


def noise(start=0):
    """A batch a step, drawn from the step's number alone."""
    for number in itertools.count(start):
        yield np.random.default_rng(number).normal(size=3).astype(np.float32)


def saver(kept):
    def save(state, moment):
        kept.append((jax.device_get(state.delta["a"]), int(state.step), moment))

    return save


def test_a_resumed_run_ends_where_an_undisturbed_one_does(tmp_path):
    step = make_step(loss, TX)
    whole = train(step, start(), BASE, noise(), plan(9))
    half = train(step, start(), BASE, noise(), plan(4)).state
    again = train(step, half, BASE, noise(4), plan(9))
    assert (again.state.delta["a"] == whole.state.delta["a"]).all()
    assert again.metrics == whole.metrics


def test_a_run_without_steps_left_does_nothing():
    step = make_step(loss, TX)
    done = train(step, start(), BASE, noise(), plan(3)).state
    outcome = train(step, done, BASE, [], plan(3))
    assert outcome.metrics == {} and int(outcome.state.step) == 3


def test_saves_are_at_their_steps_after_evaluation_and_records(tmp_path):
    kept, file = [], tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:

        def save(state, moment):
            steps = [r["step"] for r in read_metrics(file) if r["kind"] == "train"]
            assert steps == list(range(1, moment.step + 1))
            kept.append(moment)

        train(
            make_step(loss, TX), start(), BASE, noise(),
            plan(7, log_every=1, eval_every=4, save_every=3), writer=writer,
            evaluate=lambda state: {"score": 1.0}, save=save,
        )  # fmt: skip
    assert [(m.step, m.numbers, m.pending) for m in kept] == [
        (3, None, False), (4, {"score": 1.0}, False), (6, None, False), (7, {"score": 1.0}, False),
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_a_signal_ends_it_after_a_save_and_nothing_is_lost(tmp_path, where):
    step, kept, stop = make_step(loss, TX), [], Stop()

    def batches():
        for number, batch in enumerate(noise(), 1):
            if where == "step" and number == 4:
                stop.signum = signal.SIGTERM
            yield batch

    def evaluate(state):
        stop.signum = signal.SIGTERM
        stop.check()

    options = {"evaluate": evaluate} if where == "evaluation" else {}
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 4"):
        train(step, start(), BASE, batches(), plan(9, eval_every=4), save=saver(kept), stop=stop,
              **options)  # fmt: skip
    ((_, number, moment),) = kept
    assert number == moment.step == 4 and moment.numbers is None
    assert moment.pending == (where == "evaluation")


def test_an_evaluation_that_was_cut_off_is_made_first(tmp_path):
    step, kept, file = make_step(loss, TX), [], tmp_path / "metrics.jsonl"
    half = train(step, start(), BASE, noise(), plan(4)).state
    with MetricsWriter(file) as writer:
        train(step, half, BASE, noise(4), plan(6, log_every=1, pending=True), writer=writer,
              evaluate=lambda state: {"score": state.step}, save=saver(kept))  # fmt: skip
    assert [(r["kind"], r["step"]) for r in read_metrics(file)] == [
        ("eval", 4), ("train", 5), ("train", 6), ("eval", 6),
    ]  # fmt: skip
    assert [moment.step for _, _, moment in kept] == [4, 6]


def test_the_share_of_waiting_is_that_of_slow_batches():
    def slow():
        for batch in noise():
            time.sleep(0.02)
            yield batch

    step = make_step(loss, TX)
    assert train(step, start(), BASE, slow(), plan(12)).wait_share > 0.5
    ready = [batch for batch, _ in zip(noise(), range(12), strict=False)]
    assert train(step, start(), BASE, ready, plan(12)).wait_share < 0.5
