"""What is told of a training: records when they are due, the pace of its steps, the end at NaN."""

import math
import types

import pytest

from lorax.train import records
from lorax.train.records import RECENT, NotFinite, Recorder, due

FINE = {"loss": 2.0, "l2_grads": 1.0}


class Kept(list):
    """A writer that keeps what it gets."""

    def write(self, **record):
        self.append(record)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""
    now = types.SimpleNamespace(time=100.0)
    monkeypatch.setattr(records.time, "perf_counter", lambda: now.time)
    return now


def finish(recorder, clock, number, took, **options):
    clock.time += took
    recorder.finished(number, FINE, lambda: FINE | {"bias": 0.5}, **options)


@pytest.mark.parametrize(
    "every, last, steps",
    [(3, 7, [3, 6, 7]), (0, 5, [5]), (1, 3, [1, 2, 3]), (9, 4, [4]), (2, 4, [2, 4])],
)
def test_due_every_so_many_steps_and_at_the_last(every, last, steps):
    assert [number for number in range(1, last + 1) if due(number, every, last)] == steps


def test_records_are_written_when_they_are_due(clock):
    kept = Kept()
    recorder = Recorder("toy", 5, 2, kept)
    asked = []
    for number in range(1, 6):
        clock.time += 0.5
        recorder.finished(number, FINE, lambda n=number: asked.append(n) or FINE | {"bias": n})
    recorder.evaluated(5, {"validation/loss": 1.5})
    assert asked == [2, 4, 5]  # the device is asked for no more than is recorded
    assert [record | {"step_time_sec": None} for record in kept[:3]] == [
        {"run": "toy", "step": n, "kind": "train", **FINE, "bias": n, "step_time_sec": None}
        for n in (2, 4, 5)
    ]
    assert kept[3] == {"run": "toy", "step": 5, "kind": "eval", "validation/loss": 1.5}
    assert recorder.last == FINE | {"bias": 5} and recorder.text == "loss 2.000"


@pytest.mark.parametrize("name", ["loss", "l2_grads"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_recorded_and_raised(name, value):
    kept = Kept()
    recorder = Recorder("toy", 50, 10, kept)
    bad = FINE | {name: value}
    with pytest.raises(NotFinite, match=f"toy: .* at step 3, where .*{name} is {value}"):
        recorder.finished(3, bad, lambda: bad)
    (record,) = kept
    assert record["step"] == 3 and record["kind"] == "train"
    assert not math.isfinite(record[name]) and recorder.text == ""


def test_the_cure_of_a_first_step_is_another():
    for step, cure in ((1, "look at the data and the base"), (2, "lower the learning rate")):
        with pytest.raises(NotFinite, match=cure):
            Recorder("toy", 5, 1, None).finished(step, FINE | {"loss": math.nan}, lambda: FINE)


def test_a_step_takes_from_the_end_of_the_one_before_and_pauses_do_not_count(clock):
    kept = Kept()
    recorder = Recorder("toy", 9, 1, kept)
    assert math.isnan(recorder.seconds_per_step()) and math.isnan(recorder.wait_share())
    finish(recorder, clock, 1, 60.0)  # compilation
    assert "step_time_sec" not in kept[-1] and math.isnan(recorder.seconds_per_step())
    finish(recorder, clock, 2, 0.25)
    recorder.rest()
    finish(recorder, clock, 3, 30.0)  # an evaluation
    recorder.waited = 0.5
    finish(recorder, clock, 4, 0.75)
    assert recorder.seconds_per_step() == kept[-1]["step_time_sec"] == 0.5
    assert recorder.wait_share() == 0.5 and recorder.waited == 0.0


def test_units_that_share_a_step_share_its_time(clock):
    recorder = Recorder("toy", 9, 0, None)
    finish(recorder, clock, 1, 1.0, share=4)
    recorder.waited = 0.5
    finish(recorder, clock, 2, 2.0, share=4)
    assert recorder.seconds_per_step() == 0.5 and recorder.wait_share() == 0.25


def test_the_time_in_a_record_is_that_of_the_newest_steps(clock):
    kept = Kept()
    recorder = Recorder("toy", 10_000, 1, kept)
    for number in range(1, 2 * RECENT + 2):
        finish(recorder, clock, number, 1.0 if number <= RECENT + 1 else 0.5)
    assert kept[-1]["step_time_sec"] == 0.5
    assert recorder.seconds_per_step() == 0.75
