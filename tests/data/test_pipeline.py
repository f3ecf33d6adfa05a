"""Pipelines: the same batches however they are read, shared out, stopped and resumed."""

import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.bucketing import Bucketed
from lorax.data.example import Example, labelled, next_tokens
from lorax.data.order import Sequential, Shuffled
from lorax.data.packing import Packed
from lorax.data.pipeline import Pipeline

EXAMPLES = [next_tokens(range(i + 1, i + n + 2)) for i, n in enumerate([3, 5, 2, 6, 4, 1, 2])]
LENGTHS = [len(example.tokens) for example in EXAMPLES]
ORDERS = {
    "shuffled": Shuffled(examples=7, batch=4, seed=1, tokens=6),
    "bucketed": Bucketed(lengths=LENGTHS, batch=4, buckets=(3, 6), seed=1),
    "packed": Packed(lengths=LENGTHS, batch=4, tokens=6, seed=1),
}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))


def same(one, other) -> bool:
    """Are two batches equal, in form too?"""
    equal = jax.tree.map(np.array_equal, one, other)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(jax.tree.leaves(equal))


def take(batches, count: int) -> list:
    return [next(batches) for _ in range(count)]


@every_order
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_reading_ahead_gives_what_asking_for_a_step_gives(order, prefetch):
    pipeline = Pipeline(EXAMPLES, order, pad=9, prefetch=prefetch)
    with pipeline.batches(start=2, stop=9) as batches:
        found = list(batches)
    assert len(found) == 7 and len(pipeline) == pipeline.steps_per_epoch == order.steps_per_epoch
    assert all(same(batch, pipeline[2 + i]) for i, batch in enumerate(found))
    assert all(batch.inputs.shape == (4, order.length(2 + i)) for i, batch in enumerate(found))


@settings(max_examples=15)
@given(st.sampled_from(sorted(ORDERS)), st.integers(0, 12), st.integers(0, 5), st.integers(0, 3))
def test_a_resumed_run_sees_the_tail_of_an_undisturbed_one(name, taken, ahead, prefetch):
    pipeline = Pipeline(EXAMPLES, ORDERS[name], prefetch=prefetch)
    with pipeline.batches() as batches:
        take(batches, taken)
        state = json.loads(json.dumps(batches.state()))
        tail = take(batches, 4)
    with pipeline.batches() as resumed:
        take(resumed, ahead)  # what was read before does not matter
        resumed.restore(state)
        assert resumed.step == taken
        assert all(same(a, b) for a, b in zip(tail, take(resumed, 4), strict=True))


@every_order
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_read_the_same_batch(order, count):
    whole = Pipeline(EXAMPLES, order)
    parts = [Pipeline(EXAMPLES, order, process=(p, count)) for p in range(count)]
    for step in range(2 * len(whole)):
        together = jax.tree.map(lambda *x: np.concatenate(x), *[part[step] for part in parts])
        assert same(together, whole[step])
    for part in parts:  # the state of one is that of all
        part.batches().restore(whole.batches(start=3).state())


def test_evaluation_ends_and_counts_every_example_once():
    pipeline = Pipeline(EXAMPLES, Sequential(examples=7, batch=4, tokens=6))
    batches = iter(pipeline)
    found = list(batches)
    assert len(found) == 2 and next(batches, None) is None
    counted = np.concatenate([batch.targets[batch.mask] for batch in found])
    assert np.array_equal(counted, np.concatenate([e.targets[e.mask] for e in EXAMPLES]))
    assert not found[1].mask[3].any()


def test_images_and_labels_go_through():
    images = [labelled(np.full((2, 2), i, np.float32), i) for i in range(3)]
    with Pipeline(images, Shuffled(examples=3, batch=2, seed=0)).batches() as batches:
        found = take(batches, 2)
    labels = np.concatenate([batch.targets[batch.mask] for batch in found])
    assert sorted(labels) == [0, 1, 2] and not found[1].mask[1]
    assert all((b.inputs[:, 0, 0] * b.mask == b.targets).all() for b in found)


def test_waiting_is_measured():
    class Slow:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Example:
            time.sleep(0.02)
            return EXAMPLES[index]

    order = Shuffled(examples=2, batch=2, seed=0, tokens=6)
    with Pipeline(Slow(), order).batches() as batches:
        assert batches.waited == 0
        take(batches, 2)
        assert batches.waited >= 0.04  # two of the sleeps at least
    with Pipeline(EXAMPLES, ORDERS["packed"]).batches() as batches:
        take(batches, 1)
        before = batches.waited
        time.sleep(0.3)  # a long step: what is ready then is not waited for
        take(batches, 1)
        assert batches.waited - before < 0.15


def _readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def _eventually(holds) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@pytest.mark.parametrize("how", ["closed", "forgotten", "exhausted"])
def test_no_thread_is_left(how):
    pipeline = Pipeline(EXAMPLES, ORDERS["shuffled"])
    batches = pipeline.batches(stop=3)
    take(batches, 1)
    assert _readers()
    if how == "closed":
        batches.close()
        assert same(next(batches), pipeline[1])  # where it was, and reading ahead again
        batches.close()
    elif how == "exhausted":
        assert len(list(batches)) == 2
    del batches
    gc.collect()
    assert _eventually(lambda: not _readers())


def test_an_error_reaches_the_caller_and_ends_reading():
    examples = [*EXAMPLES[:6], next_tokens(range(99))]
    batches = Pipeline(examples, ORDERS["shuffled"]).batches()
    with pytest.raises(LoraxError, match="a row has 98 tokens, but its length is 6"):
        take(batches, 2)
    assert _eventually(lambda: not _readers())


def test_state_of_other_data_is_refused():
    state = Pipeline(EXAMPLES, ORDERS["packed"]).batches(start=5).state()
    fewer = Packed(lengths=LENGTHS[:6], batch=2, tokens=6, seed=1)
    with pytest.raises(LoraxError, match=r"lengths 7:\w+ -> 6:\w+, batch 4 -> 2\): use the run's"):
        Pipeline(EXAMPLES[:6], fewer).batches().restore(state)
    with pytest.raises(LoraxError, match="order Packed -> Shuffled, .*examples none -> 7"):
        Pipeline(EXAMPLES, ORDERS["shuffled"]).batches().restore(state)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"examples": EXAMPLES[:3]}, "order is of 7 examples, but there are 3"),
        ({"process": (0, 3)}, "batch of 4 cannot be split evenly over 3 processes"),
        ({"process": (2, 2)}, r"process is \(2, 2\): expected"),
        ({"workers": -1}, "workers is -1"),
        ({"workers": 1, "prefetch": 0}, "at least 1 batch ahead"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(LoraxError, match=message):
        Pipeline(**{"examples": EXAMPLES, "order": ORDERS["shuffled"]} | arguments)


def test_without_grain_steps_can_still_be_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    pipeline = Pipeline(EXAMPLES, ORDERS["packed"])
    assert pipeline[0].inputs.shape == (4, 6)
    with pytest.raises(LoraxError, match=r"needs grain: pip install 'lorax-flax\[data\]'"):
        pipeline.batches()


SCRIPT = """
import multiprocessing, os, sys, time
from lorax.data.pipeline import Pipeline
from tests.data.test_pipeline import EXAMPLES, ORDERS, same, take

if __name__ == "__main__":
    plain, pipeline = [Pipeline(EXAMPLES, ORDERS["packed"], workers=n) for n in (0, 2)]
    with pipeline.batches(start=1) as batches:
        assert all(same(plain[1 + i], batch) for i, batch in enumerate(take(batches, 5)))
        state = batches.state()
        assert state == plain.batches(start=6).state()
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, 15)  # as a cluster does to all processes of a job
        assert same(next(batches), plain[6])
    assert not multiprocessing.active_children()
    one = Pipeline(EXAMPLES, ORDERS["packed"], workers=1).batches()
    one.restore(state)
    assert same(next(one), plain[6])
    print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def test_workers_read_the_same_and_do_not_outlive_a_run_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "error", str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        workers = [int(pid) for pid in run.stdout.readline().split()]
        run.send_signal(signal.SIGKILL)
        assert len(workers) == 1, run.stderr.read()
        assert _eventually(lambda: not any(map(_alive, workers)))
        assert run.stderr.read() == ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = pathlib.Path(f"/proc/{pid}/stat")  # one that is dead but not yet reaped is not alive
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
