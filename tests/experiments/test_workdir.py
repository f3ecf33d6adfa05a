"""Entering a workdir: new, finished, unfinished, another config's, somebody else's, in use."""

import json
import os

import pytest
from ml_collections import ConfigDict

from experiments import _workdir
from experiments._cli import Call
from lorax.core.errors import LoraxError


def call(path, **fields):
    config = ConfigDict({"steps": 3, "names": ("a",), "inner": {"rate": 0.5}})
    with config.unlocked():
        config.update(fields)
    return Call(config, {}, path, "configs/toy.py")


def test_a_new_one_is_made_with_its_papers(tmp_path):
    path = tmp_path / "deep" / "run"
    with _workdir.entered(call(path)) as needed:
        assert needed
    assert json.loads((path / "config.json").read_text())["names"] == ["a"]
    environment = json.loads((path / "env.json").read_text())
    assert {"python", "packages", "devices", "git", "command"} <= set(environment)
    assert json.loads((path / "overrides.json").read_text()) == {}


def test_a_finished_one_is_left_alone(tmp_path):
    with _workdir.entered(call(tmp_path)):
        _workdir.finish(tmp_path, "# Report\n")
    before = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    with _workdir.entered(call(tmp_path)) as needed:
        assert not needed
    assert {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before


def test_looking_at_one_changes_nothing(tmp_path):
    path = tmp_path / "run"
    assert not _workdir.finished(call(path)) and not path.exists()
    with _workdir.entered(call(path)):
        assert not _workdir.finished(call(path))
        _workdir.finish(path, "# Report\n")
    before = {f.name: f.stat().st_mtime_ns for f in path.iterdir()}
    assert _workdir.finished(call(path))
    with pytest.raises(LoraxError, match="config.steps: 3 there, 4 here"):
        _workdir.finished(call(path, steps=4))
    assert {f.name: f.stat().st_mtime_ns for f in path.iterdir()} == before


def test_an_unfinished_one_starts_over_and_loses_nothing(tmp_path, capsys):
    for number in (1, 2, 3):
        with _workdir.entered(call(tmp_path)) as needed:
            assert needed and not (tmp_path / "metrics.jsonl").exists()
            (tmp_path / "metrics.jsonl").write_text(f"run {number}")
    for number in (1, 2):
        kept = tmp_path / f"unfinished-{number}"
        assert (kept / "metrics.jsonl").read_text() == f"run {number}"
    said = capsys.readouterr().out
    assert "cannot be resumed" in said and str(tmp_path / "unfinished-2") in said


def test_another_config_is_refused_with_a_diff(tmp_path):
    with _workdir.entered(call(tmp_path)):
        pass
    with pytest.raises(LoraxError) as caught, _workdir.entered(call(tmp_path, steps=4, new=True)):
        pass
    message = str(caught.value)
    assert "config.steps: 3 there, 4 here" in message
    assert 'config.new: "absent" there, true here' in message
    assert "names" not in message and "rate" not in message


def test_another_mesh_goes_on_with_what_is_there(tmp_path):
    with _workdir.entered(call(tmp_path, mesh={"fsdp": 4})):
        pass
    for mesh in ({"fsdp": 2}, {"fsdp": 1, "tensor": 2}):
        with _workdir.entered(call(tmp_path, mesh=mesh), resume=True) as needed:
            assert needed
        assert json.loads((tmp_path / "config.json").read_text())["mesh"] == mesh


def test_differences_sees_removed_and_nested_fields():
    old, new = {"a": 1, "b": {"c": [1, 2], "d": 0}}, {"a": 1, "b": {"c": [1, 3]}}
    assert _workdir.differences(old, new) == [
        "config.b.c: [1, 2] there, [1, 3] here",
        'config.b.d: 0 there, "absent" here',
    ]


def test_somebody_elses_folder_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LoraxError, match="holds 'thesis.tex' but no config.json"):
        with _workdir.entered(call(tmp_path)):
            pass
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("thesis.tex", "precious")]


def test_broken_config_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoraxError, match="is not JSON"), _workdir.entered(call(tmp_path)):
        pass


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(LoraxError, match="is a file"), _workdir.entered(call(tmp_path / "run")):
        pass
    with pytest.raises(LoraxError, match="cannot write workdir"):
        with _workdir.entered(call(tmp_path / "run" / "deeper")):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_one(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(LoraxError, match="cannot write workdir"), _workdir.entered(call(tmp_path)):
        pass


def test_two_runs_at_once(tmp_path):
    with _workdir.entered(call(tmp_path)):
        with pytest.raises(LoraxError, match="in use by another run"):
            with _workdir.entered(call(tmp_path)):
                pass
