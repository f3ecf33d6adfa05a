"""`experiments.inspect --plan`: what it prints and refuses, and the compiled step beside it."""

import os
import re
import subprocess
import sys

import jax
import pytest

from configs import gpt3_175b
from experiments import inspect, train
from experiments._plan import compiled, shapes, text
from lorax.analysis.memory import MemoryPlan

PAGE = "--config=configs/gpt3_175b.py:smoke"
PARAMETERS = 174_604_259_328


def run(capsys, *flags):
    """(exit code, standard output, standard error) of the verb, in this process."""
    code = inspect.main(["--plan", PAGE, *flags])
    return code, *capsys.readouterr()


def cells(out, label):
    """The numbers of the first row of a table whose label begins so."""
    row = next(line for line in out.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_a_plan_has_a_column_for_every_way_of_training(capsys):
    code, out, _ = run(capsys, "--mesh=fsdp=2")
    assert code == 0 and "2 devices: data=1 × fsdp=2 × tensor=1" in out
    assert cells(out, "on each device") == ["LoRA, remat", "LoRA", "Full, remat", "Full"]
    assert cells(out, "base")[2:] == ["-", "-"]  # trained whole, none of it is frozen
    assert cells(out, "or, later")[0] != "-"
    checkpoint = cells(out, "each checkpoint")
    assert checkpoint[0] == checkpoint[1] != checkpoint[2]


def test_the_mesh_of_the_config_counts_too(capsys):
    _, out, _ = run(capsys, "--config.mesh.fsdp=1", "--config.mesh.data=0")
    assert "1 device: data=1 × fsdp=1 × tensor=1" in out
    assert "gathered" not in out


def test_a_dry_run_counts_a_device_of_the_mesh(capsys):
    flags = ["--dry_run", PAGE, "--config.mesh.fsdp=2", "--config.mesh.data=1"]
    assert train.main(flags) == 0
    out = capsys.readouterr().out
    assert "Memory on each of 2 devices (data=1 × fsdp=2 × tensor=1)" in out
    _, planned, _ = run(capsys, "--mesh=fsdp=2")
    without_remat = cells(planned, "in all")[1]
    assert cells(out, "in all") == [without_remat]


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--mesh=fsdp=3"], "data=1 × fsdp=3 does not divide"),
        (["--mesh=rows=3"], "expected lengths above 0 of some of data, fsdp, tensor"),
        (["--mesh=tensor=5"], "which tensor=5 does not divide"),
        (["--config.mesh.data=-1"], "config.mesh.data is -1"),
        (["--mesh=fsdp=16", "--compile"], "16 CPU devices are needed to compile and JAX has begun"),
        (["--compiled"], "unknown flag '--compiled'; did you mean '--compile'"),
    ],
)
def test_what_does_not_fit_is_one_line(capsys, flags, said):
    code, out, error = run(capsys, *flags)
    assert code != 0 and out == ""
    assert said in error and error.count("\n") == 1


def test_claims_are_told_beside_their_arithmetic():
    rows = gpt3_175b.claims(PARAMETERS)
    found = {what: derived for what, _, derived, _ in rows}
    assert found["trainable parameters, r = 4 on q and v"] == "18,874,368"
    assert found["its checkpoint in 16 bits"] == "37.7 MB"
    assert found["checkpoint of all weights"] == "349.2 GB"
    whole = next(line for what, _, _, line in rows if what.startswith("memory of full"))
    assert "6.87 B a parameter, which no standard account gives" in whole
    table = text.claims_table(rows)
    assert f"1. {gpt3_175b.LAYERS} layers x 2 matrices x 4 x (12,288 + 12,288)" in table


def test_a_plan_beside_the_compiled_step():
    found = compiled.Compiled(100, 60, 50, 1000, 1.0, [], {})
    plan = MemoryPlan(50, 0, 20, 20, 30, 700, 200, 0, 50, unread=10)
    assert found.total == 1110
    rows = text.compiled_table(plan, found, 10).splitlines()[2:]
    values = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert values[0] == ["arguments", "100 B", "100 B", "+0.0%"]
    assert values[-1] == ["in all", "1,020 B", "1.1 KiB", "-8.1%"]


def test_gradients_of_the_base_would_be_found():
    mesh = shapes.abstract_mesh({"data": 1, "fsdp": 4, "tensor": 1})
    lies = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    base = {"layers": {"kernel": jax.ShapeDtypeStruct((3, 16, 8), "float32", sharding=lies)}}
    found = compiled.of_base([(16, 8), (1, 4, 8), (8, 16), (4, 2), (16,)], base)
    assert found == [(16, 8), (1, 4, 8)]


@pytest.mark.runs
def test_gpt3_on_64_devices_of_this_host():
    """The real step, from shapes: the plan is within a tenth of what the compiler says."""
    call = [sys.executable, "-m", "experiments.inspect", "--plan", "--compile"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [*call, "--config=configs/gpt3_175b.py"],
        capture_output=True, text=True, env=environment, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = done.stdout.partition("compiled for 64 devices")[2]
    percent = [cells(out, label)[2] for label in ("arguments", "in all")]
    exact, total = (float(cell.rstrip("%")) for cell in percent)
    assert abs(exact) < 0.1 and abs(total) < 10
    assert re.search(r"Gradients of the base among them: none\.", out)
    assert "reduce-scatter" not in out
