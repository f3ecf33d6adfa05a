"""metrics.jsonl: whole lines, appended, on disk at once; torn ends forgiven, nonsense is not."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.train.metrics import MetricsWriter, read_metrics


def test_round_trip_and_append(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:
        writer.write(step=1, loss=jnp.float32(0.5), name="a", vector=np.arange(2))
        assert read_metrics(file) == [{"step": 1, "loss": 0.5, "name": "a", "vector": [0, 1]}]
    with MetricsWriter(file) as writer:
        writer.write(step=2)
    assert [record["step"] for record in read_metrics(file)] == [1, 2]


def test_non_finite_numbers_are_null_so_that_every_line_is_json(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:
        writer.write(loss=float("nan"), deep={"x": [np.inf, jnp.nan, 1.0]})
    assert json.loads(file.read_text()) == {"loss": None, "deep": {"x": [None, None, 1.0]}}


def test_a_torn_last_line_is_left_out_and_then_removed(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(file) == [{"step": 1}]
    with MetricsWriter(file) as writer:
        writer.write(step=3)
    assert read_metrics(file) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("line", ["{not json}", "[1, 2]", ""])
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(LoraxError, match="line 2 is not a JSON object"):
        read_metrics(file)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(LoraxError, match="cannot read metrics .*none.jsonl"):
        read_metrics(tmp_path / "none.jsonl")
    with pytest.raises(LoraxError, match="cannot write .*gone"):
        MetricsWriter(tmp_path / "gone" / "metrics.jsonl")


def test_a_full_disk_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    writer = MetricsWriter.__new__(MetricsWriter)
    writer.path, writer._file = "/dev/full", open("/dev/full", "a")
    with pytest.raises(LoraxError, match="No space left"):
        writer.write(step=1)
    with pytest.raises(OSError):
        writer.close()


def test_closed_writer_says_so(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.close()
    writer.close()
    with pytest.raises(LoraxError, match="is closed"):
        writer.write(step=1)


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(step=1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_what_was_written_after_a_checkpoint_is_cut_off(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:
        writer.write(step=1)
        offset = writer.sync()
        writer.write(step=2)
        assert writer.sync() > offset == file.read_text().index("\n") + 1
    with MetricsWriter(file, offset) as writer:
        assert writer.sync() == offset
        writer.write(step=3)
    assert [r["step"] for r in read_metrics(file)] == [1, 3]
    with MetricsWriter(file, 0):
        assert file.read_text() == ""
    with pytest.raises(LoraxError, match="has 0 bytes where a checkpoint knows of 11"):
        MetricsWriter(file, 11)
