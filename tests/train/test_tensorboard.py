"""Event files: every number of a record once, at its step, as TensorBoard's own format has it."""

import struct
import sys

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.train.metrics import MetricsWriter, read_metrics
from lorax.train.tensorboard import SUFFIX, TensorBoardWriter, Writers, replay

pytest.importorskip("tensorboardX")


def events(folder):
    """The events of the one file in a folder, its framing and checksums checked."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    (file,) = folder.glob("*tfevents*")
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + size]
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        assert struct.unpack("<I", data[12 + size : 16 + size]) == (masked_crc32c(body),)
        found.append(event_pb2.Event.FromString(body))
        data = data[16 + size :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def scalars(folder):
    """[(step, tag, value)] in order."""
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def test_scalars_by_kind_and_name_with_the_step(tmp_path):
    with TensorBoardWriter(tmp_path / "deep" / "events") as writer:
        writer.write(run="a", step=1, kind="train", loss=np.float32(0.5), tokens=8)
        writer.write(run="a", step=2, kind="eval", **{"validation/loss": 2.0, "odd name": 1})
        writer.write(step=3, kind="result", total=10**6)
    assert scalars(tmp_path / "deep" / "events" / "a") == [
        (1, "train/loss", 0.5),
        (1, "train/tokens", 8.0),
        (2, "eval/validation/loss", 2.0),
        (2, "eval/odd_name", 1.0),
    ]
    assert scalars(tmp_path / "deep" / "events") == [(3, "result/total", 1e6)]


def test_what_is_no_number_is_left_out(tmp_path):
    with TensorBoardWriter(tmp_path) as writer:
        writer.write(step=1, kind="x", text="a", none=None, nan=float("nan"), inf=np.inf, list=[1])
        writer.write(step=2, kind="x", vector=np.zeros(2), one=np.zeros(1), text="b")
    assert scalars(tmp_path) == [(2, "x/one", 0.0)]


def test_a_resumed_run_has_every_step_once(tmp_path):
    metrics, folder = tmp_path / "metrics.jsonl", tmp_path / "events"
    with Writers(MetricsWriter(metrics), TensorBoardWriter(folder)) as both:
        for step in (1, 2, 3, 4):
            both.write(run="a", step=step, kind="train", loss=float(step))
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:2]))  # what a checkpoint at step 2 knows of
    for _ in range(2):  # the second time nothing is left to do
        writers = Writers(MetricsWriter(metrics), TensorBoardWriter(folder, history=metrics))
        with writers as both:
            for step in range(len(read_metrics(metrics)) + 1, 5):
                both.write(run="a", step=step, kind="train", loss=10.0 * step)
        found = scalars(folder / "a")
        assert [(step, value) for step, _, value in found] == [(1, 1), (2, 2), (3, 30), (4, 40)]
        assert [r["loss"] for r in read_metrics(metrics)] == [value for *_, value in found]


def test_event_files_made_afterwards_equal_those_made_meanwhile(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    with Writers(MetricsWriter(metrics), TensorBoardWriter(tmp_path / "live")) as both:
        both.write(run="lora r/8", step=1, kind="train", loss=0.25, bad=float("inf"))
        both.write(run="../base", step=0, kind="result", bleu=np.float64(33.25))
    replay(metrics, tmp_path / "later")
    names = {path.name for path in (tmp_path / "later").iterdir()}
    assert names == {"lora_r_8", "_base"} == {p.name for p in (tmp_path / "live").iterdir()}
    for name in names:
        assert scalars(tmp_path / "live" / name) == scalars(tmp_path / "later" / name) != []


def test_files_of_others_stay(tmp_path):
    stranger = tmp_path / "events.out.tfevents.1.host"
    stranger.write_text("precious")
    for value in (1.0, 2.0):
        with TensorBoardWriter(tmp_path) as writer:
            writer.write(step=1, kind="train", loss=value)
    assert stranger.read_text() == "precious"
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with TensorBoardWriter(tmp_path / "events") as writer:
        writer.write(step=1, kind="train", loss=1.0)
    assert not (tmp_path / "events").exists()


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with TensorBoardWriter(tmp_path / "file") as writer:
        with pytest.raises(LoraxError, match="cannot write event files in .*file"):
            writer.write(step=1, kind="train", loss=1.0)
    with pytest.raises(LoraxError, match="is closed"):
        writer.write(step=1, kind="train", loss=1.0)
    with pytest.raises(LoraxError, match="cannot read metrics"):
        replay(tmp_path / "none.jsonl", tmp_path / "events")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[log\]'"):
        TensorBoardWriter(tmp_path)


def test_all_writers_are_closed_though_one_fails():
    class Toy:
        def __init__(self, error=None):
            self.error, self.records, self.closed = error, [], False

        def write(self, **record):
            self.records.append(record)

        def close(self):
            self.closed = True
            if self.error:
                raise self.error

    first, second = Toy(OSError("full")), Toy()
    with pytest.raises(OSError, match="full"):
        with Writers(first, second) as both:
            both.write(step=1)
    assert second.closed and first.records == second.records == [{"step": 1}]
