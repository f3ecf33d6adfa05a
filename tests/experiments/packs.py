"""Small sweeps that are trained: units of a page, packed, and how two folders are compared."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from configs._sweeps import axis, product
from experiments._cli import parse
from experiments._sweep.pack import run_units
from experiments._sweep.units import Unit, make_units
from lorax.io.checkpoint import load_adapter
from lorax.parallel.layout import single
from lorax.train.metrics import read_metrics
from lorax.train.stop import catch

STEPS = 6

MLP = (
    "--config=configs/mnist_mlp.py:lora,smoke",
    f"--config.train.steps={STEPS}",
    "--config.eval.every=3",
    "--config.eval.batch=4",
    "--config.checkpoint.every=2",
)
"""Six steps of an MLP, evaluated after three, saved after every second one."""

DISTURBED = (*MLP, "--config.checkpoint.keep=2", "--config.checkpoint.best=validation/loss",
             "--config.adapter.dropout=0.2")  # fmt: skip
"""The same with dropout, the best checkpoint kept."""

PRETRAINED = (*MLP, "--config.pretrain.steps=2", "--config.pretrain.format=toy")
"""The same on a base that is trained first, for two steps."""

LANGUAGE = (
    "--config=configs/quickstart.py:smoke",
    "--config.train.steps=4",
    "--config.data.packing=bucket",
    "--config.data.buckets=(16,128)",
    "--config.eval.prompt=",
    "--config.eval.limit=2",
)
"""Four steps of a LLaMA, rows of two lengths, whose base is trained first, for two steps."""

TIMES = {"step_time_sec", "seconds_per_step", "wait_share"}


def units(flags: Sequence[str], *axes: Any) -> list[Unit]:
    """One unit a point of the product of `axes`."""
    call = parse([*flags, "--workdir=unused"], flags[0].partition("=")[2])
    return make_units(call.config, list(product(*axes)), call.overrides)


def three() -> list[Unit]:
    """Those that are stopped and killed."""
    return units(DISTURBED, axis("rank", (1, 3, 8)))


def flags_of(flags: Sequence[str], unit: Unit) -> list[str]:
    """Those of `experiments.train` for the same run."""
    return [*flags, *(f"--config.{name}={value}" for name, value in unit.overrides.items())]


def packed(folder: pathlib.Path, made: Sequence[Unit], **options: Any) -> list[str]:
    """`run_units` on one device of this process; what it said of units and of splits."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch, catch() as stop:
        patch.setattr("experiments._train.run.make_layout", lambda *_: single())
        run_units(made, folder, stop, say=said.append, **options)
    return [line for line in said if line.startswith(("[", "A pack"))]


def place(folder: pathlib.Path, unit: Unit) -> pathlib.Path:
    """The workdir of a unit."""
    return folder / "units" / unit.name


def differences(workdir: pathlib.Path, other: pathlib.Path) -> list[str]:
    """What of two workdirs is not the same, but for times.

    Losses may differ by 1e-5, other numbers by 1e-4, relative, the delta by 1e-4 of its norm.
    """
    found = [name for name in _TEXTS if _text(workdir / name) != _text(other / name)]
    found += _of_records(workdir / "metrics.jsonl", other / "metrics.jsonl")
    (one, delta), (two, wanted) = (load_adapter(place / "adapter") for place in (workdir, other))
    if one != two or jax.tree.structure(delta) != jax.tree.structure(wanted):
        return [*found, f"adapter {one} and {two}"]
    pairs = list(zip(jax.tree.leaves(delta), jax.tree.leaves(wanted), strict=True))
    if any(np.shape(x) != np.shape(y) for x, y in pairs):
        return [*found, "shapes of the delta"]
    norm = lambda leaves: np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in leaves))
    away = norm([x - y for x, y in pairs]) / norm([y for _, y in pairs])
    return found if away <= 1e-4 else [*found, f"the delta, by {away:.1e} of its norm"]


_TEXTS = ("config.json", "adapter/adapter.json")


def _text(file: pathlib.Path) -> Any:
    """What a file says, but for the names and sums of the files of arrays."""
    return json.loads(file.read_text()) | {"files": None}


def _of_records(file: pathlib.Path, other: pathlib.Path) -> list[str]:
    found = []
    records, wanted = read_metrics(file), read_metrics(other)
    where = [(r["kind"], r["step"]) for r in records]
    if where != [(r["kind"], r["step"]) for r in wanted]:
        return [f"records of {where}"]
    for at, one, two in zip(where, records, wanted, strict=True):
        if one.keys() - TIMES != two.keys() - TIMES:
            found.append(f"keys {sorted(one.keys() ^ two.keys())} of {at}")
            continue
        for name in one.keys() - TIMES:
            tolerance = 1e-5 if name == "loss" or name.endswith("/loss") else 1e-4
            near = isinstance(two[name], float) and one[name] == pytest.approx(
                two[name], rel=tolerance, abs=1e-7
            )
            if not near and one[name] != two[name]:
                found.append(f"{name} of {at}: {one[name]}, {two[name]}")
    return found
