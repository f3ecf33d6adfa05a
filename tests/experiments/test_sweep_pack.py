"""A unit of a sweep leaves what `experiments.train` alone would, packed, killed or beside NaN."""

import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import pytest

from configs._sweeps import axis
from experiments._sweep import pack, tune
from experiments._train.loading import load_run
from lorax.core.errors import LoraxError
from lorax.io.checkpoint import load_adapter
from lorax.train.metrics import read_metrics
from lorax.train.stop import Stopped
from tests.experiments.packs import (
    DISTURBED,
    LANGUAGE,
    MLP,
    PRETRAINED,
    differences,
    flags_of,
    packed,
    place,
    three,
    units,
)
from tests.experiments.runs import compiled_once, cue, listing, run, send

pytestmark = pytest.mark.runs


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    pytest.importorskip("grain")
    folder = tmp_path_factory.getbasetemp() / "compiled"
    with compiled_once(folder):
        yield folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Twelve units, what was said of them, and every program that was compiled."""
    folder, compiled = tmp_path_factory.mktemp("grid"), []
    axes = axis("rank", (1, 3, 8)), axis("lr", (1e-3, 1e-2)), axis("seed", (0, 1))
    made = units(MLP, *axes)
    with pytest.MonkeyPatch.context() as patch:
        plain = tune.compiled
        patch.setattr(tune, "compiled", lambda *args: compiled.append(plain(*args)) or compiled[-1])
        said = packed(folder, made)
    return folder, made, said, compiled


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The three units that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    packed(folder, three())
    return folder


def alike(folder, other, made):
    """What of the units of two sweeps is not the same."""
    return [line for unit in made for line in differences(place(folder, unit), place(other, unit))]


@pytest.mark.parametrize("number", range(12))
def test_a_packed_unit_is_the_unit_alone(grid, tmp_path, number):
    folder, made, *_ = grid
    said = run(tmp_path, *flags_of(MLP, made[number]))
    assert said.code == 0, said
    assert differences(place(folder, made[number]), tmp_path) == []


def test_a_packed_unit_of_a_method_that_derives_something_is_the_unit_alone(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        "from ml_collections import ConfigDict\n"
        "from configs.mnist_mlp import get_config as one_run\n"
        "def get_config(arg=''):\n"
        "    config = one_run('lora,smoke')\n"
        "    config.adapter = ConfigDict({'adapter': 'VeRA', 'rank': 3, 'dropout': 0.1})\n"
        "    return config\n"
    )
    flags = (f"--config={page}", *MLP[1:])
    made = units(flags, axis("lr", (1e-2, 1e-1)), axis("seed", (0, 1)))
    packed(tmp_path / "sweep", made)
    said = run(tmp_path / "alone", *flags_of(flags, made[3]))
    assert said.code == 0, said
    assert differences(place(tmp_path / "sweep", made[3]), tmp_path / "alone") == []


def test_units_of_a_program_are_compiled_once_and_told_one_by_one(grid):
    _, made, said, compiled = grid
    assert [program.units for program in compiled] == [12]
    for i, (unit, line) in enumerate(zip(made, said, strict=True), 1):
        name = re.escape(unit.name)
        assert re.fullmatch(rf"\[{i}/12\] {name}, validation/loss \d\.\d{{4}}", line)


def test_what_is_finished_is_not_touched(grid):
    folder, made, *_ = grid
    before = listing(folder)
    assert packed(folder, made) == []
    assert listing(folder) == before


def test_units_that_are_new_join_those_that_are_finished(grid):
    folder, made, *_ = grid
    before = listing(folder / "units")
    more = [*made, *units(MLP, axis("rank", (2,)))]
    (line,) = packed(folder, more)
    assert line.startswith("[13/13] rank=2, ")
    assert before.items() <= listing(folder / "units").items()


def once(act):
    """`act` at its first call."""
    left = [act]
    return lambda: left and left.pop()()


CUES = {
    "step": {"kind": "train", "step": 1},
    "evaluation": {"kind": "eval", "step": 3},
    "result": {"kind": "result"},
}


@pytest.mark.parametrize("where", CUES)
def test_a_sweep_that_is_stopped_goes_on_as_if_it_had_not_been(whole, tmp_path, where):
    made = three()
    with cue(once(send(signal.SIGTERM)), **CUES[where]), pytest.raises(Stopped) as caught:
        packed(tmp_path, made)
    assert re.search("after (the last step|[0-9]+ steps) of units 1 to 3 of 3", str(caught.value))
    steps = [max(saved(tmp_path, unit)) for unit in made]
    assert len(set(steps)) == 1 and (steps[0] == 6) == (where == "result")
    told = [records(tmp_path, unit)[-1] for unit in made]
    assert all(record["step"] >= steps[0] for record in told)
    if where == "evaluation":  # that of the others is still to come
        assert [record["kind"] for record in told] == ["eval", "train", "train"]
    packed(tmp_path, made)
    assert alike(tmp_path, whole, made) == []


def saved(folder, unit):
    return [int(p.name) for p in (place(folder, unit) / "checkpoints").glob("[0-9]*")]


def records(folder, unit):
    return read_metrics(place(folder, unit) / "metrics.jsonl")


KILL = """
import pathlib, signal, sys
from tests.experiments import packs, runs
with runs.compiled_once(sys.argv[2]), runs.cue(runs.send(signal.SIGKILL), kind="train", step=5):
    packs.packed(pathlib.Path(sys.argv[1]), packs.three())
"""


def test_a_sweep_that_is_killed_goes_on_as_if_it_had_not_been(whole, tmp_path, cached):
    flags = re.sub(r"--xla_force_host\S+", "", os.environ.get("XLA_FLAGS", ""))
    process = subprocess.run(
        [sys.executable, "-c", KILL, tmp_path, cached],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    made = three()
    assert all(saved(tmp_path, unit) for unit in made)
    packed(tmp_path, made)
    assert alike(tmp_path, whole, made) == []


def test_a_unit_is_taken_on_alone_and_one_that_began_alone_is_packed(whole, tmp_path):
    made = three()
    with cue(once(send(signal.SIGTERM)), kind="train", step=1), pytest.raises(Stopped):
        packed(tmp_path, made[1:])
    step = max(saved(tmp_path, made[1]))
    said = run(place(tmp_path, made[1]), *flags_of(DISTURBED, made[1]))
    assert said.code == 0 and f"Resumed train after step {step} of 6." in said.out
    with cue(once(send(signal.SIGTERM)), kind="train", step=1):
        assert run(place(tmp_path, made[0]), *flags_of(DISTURBED, made[0])).code == 143
    assert max(saved(tmp_path, made[0])) != step  # units of a pack that are at different steps
    said = packed(tmp_path, made)
    assert [line.partition(",")[0] for line in said] == ["[2/3] rank=1", "[3/3] rank=8"]
    assert alike(tmp_path, whole, made) == []


def test_a_unit_that_becomes_nan_fails_alone_and_is_not_run_again(grid, tmp_path):
    made = units(MLP, axis("rank", (3,)), axis("lr", (1e-3, 1e30, 1e-2)), axis("seed", (0,)))
    said = packed(tmp_path / "sweep", made)
    bad = place(tmp_path / "sweep", made[1])
    text = (bad / "FAILED").read_text()
    assert re.fullmatch(r"train: training stopped at step \d, where loss is .*\n", text)
    assert not (bad / "DONE").exists() and not (bad / "adapter").exists()
    assert said[1] == f"[2/3] {made[1].name} failed: {text.strip()}"
    alone = run(tmp_path / "alone", *flags_of(MLP, made[1]))
    assert alone.code == 1 and alone.err[-1] == f"error: {text.strip()}"
    assert alike(tmp_path / "sweep", grid[0], made[::2]) == []
    before = listing(tmp_path / "sweep")
    assert packed(tmp_path / "sweep", made) == []
    assert listing(tmp_path / "sweep") == before


@pytest.fixture(scope="module")
def pair(whole, tmp_path_factory):
    """GiB of two units side by side."""
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        plain = tune.compiled
        patch.setattr(tune, "compiled", lambda *args: sizes.append(plain(*args)) or sizes[-1])
        folder = tmp_path_factory.mktemp("pair")
        said = packed(folder, three(), pack=2)
    assert [line[:5] for line in said] == ["[1/3]", "[2/3]", "[3/3]"] and len(sizes) == 1
    assert alike(folder, whole, three()) == []  # the last pack has a place without a unit
    return sizes[0].bytes / 2**30


def test_a_pack_that_does_not_fit_is_split_and_that_is_said(whole, pair, tmp_path):
    made = three()
    said = packed(tmp_path, made, memory=1.01 * pair)
    told = r"A pack of 3 units does not fit \(it needs .* of --memory\): split into packs of 2\."
    assert re.fullmatch(told, said[0]) and len(said) == 4
    assert alike(tmp_path, whole, made) == []


def test_a_pack_that_the_device_refuses_is_split_too(whole, tmp_path, monkeypatch):
    plain, made = pack.train_packed, three()

    def refused(step, states, *rest, **named):
        if len(states.step) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return plain(step, states, *rest, **named)

    monkeypatch.setattr(pack, "train_packed", refused)
    said = packed(tmp_path, made)
    assert said[0] == (
        "A pack of 3 units does not fit (the device is out of memory): split into packs of 2."
    )
    assert alike(tmp_path, whole, made) == []


def test_a_unit_that_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(LoraxError) as caught:
        packed(tmp_path, three()[:2], memory=1e-9)
    assert re.fullmatch(
        r"one unit does not fit \(it needs .* GiB of 9.31e-10 GiB of --memory\): raise --memory, "
        r"lower train.batch or .*",
        str(caught.value),
    )


@pytest.mark.parametrize("flags", [PRETRAINED, LANGUAGE], ids=["mlp", "llama"])
def test_units_share_the_base_that_is_trained_for_them(tmp_path, flags):
    folder, begun = tmp_path / "sweep", []
    made = units(flags, axis("rank", (1, 2)), axis("seed", (0, 1) if flags is PRETRAINED else (0,)))
    with cue(lambda: begun.append(1), run="base", step=1):
        if flags is PRETRAINED:
            packed(folder, made[:1])
        packed(folder, made)
    assert len(begun) == 1
    for unit in made:
        link = place(folder, unit) / "base"
        assert link.is_symlink() and not os.path.isabs(os.readlink(link))
        assert (link / "DONE").exists() and link.resolve().parents[1] == folder / "bases"
    base = place(folder, made[-1]) / "base"
    alone = tmp_path / "alone"
    assert run(alone, *flags_of(flags, made[-1])).code == 0
    assert differences(place(folder, made[-1]), alone) == []
    assert load_adapter(base / "adapter")[0] == load_adapter(alone / "base" / "adapter")[0]
    copied = shutil.copytree(place(folder, made[0]), tmp_path / "a" / "b" / "c", symlinks=True)
    with pytest.raises(LoraxError, match="is a link to what is not there.*: copy .* with cp -rL"):
        load_run(copied)
    if flags is LANGUAGE:  # for the verbs that take a model
        loaded = load_run(place(folder, made[1]))
        assert loaded.config.dim == 16 and loaded.tokenizer is not None
        adapter, delta = load_adapter(place(folder, made[1]) / "adapter")
        merged = adapter.merge(loaded.base, delta)
        assert jax.tree.structure(merged) == jax.tree.structure(loaded.base)
