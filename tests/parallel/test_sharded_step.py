"""Eight devices make the steps that one makes, and exchange what they must."""

import json
import os
import subprocess
import sys

import jax
import pytest

from lorax.parallel.layout import Layout
from lorax.parallel.mesh import AXES
from lorax.parallel.tables import RULES
from tests.parallel.compiled import Exchange
from tests.parallel.expected import SUMS, complaints, gathered
from tests.parallel.models import DIM, ROWS, TOKENS, trained

pytestmark = pytest.mark.runs

MESHES = ("8x1x1", "1x8x1", "2x2x2")
CHUNKS = {"llama": 64, "gpt2": 0}


@pytest.fixture(scope="module", params=CHUNKS)
def told(request):
    """What eight devices tell of a family of models."""
    command = [sys.executable, "-m", "tests.parallel.eight", request.param]
    done = subprocess.run(
        [*command, str(CHUNKS[request.param])], capture_output=True, text=True, timeout=600,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _flags()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "full rematerialization" not in done.stderr
    return request.param, json.loads(done.stdout)


def _flags():
    flags = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(flag for flag in flags if "device_count" not in flag)


def _layout(family, mesh):
    """On devices that need not be there."""
    sizes = tuple(map(int, mesh.split("x")))
    return Layout(jax.sharding.AbstractMesh(sizes, AXES), RULES[family], 0)


def _exchanges(found, mesh):
    shapes = lambda one: tuple(map(tuple, one))
    return [
        Exchange(k, shapes(s), looped, n) for k, s, looped, n in found["meshes"][mesh]["exchanges"]
    ]


@pytest.mark.parametrize("mesh", MESHES)
def test_loss_and_delta_are_those_of_one_device(told, mesh):
    _, found = told
    assert found["moved"] > 1e-3
    assert found["meshes"][mesh]["loss"] < 1e-5
    assert found["meshes"][mesh]["delta"] < 1e-5


@pytest.mark.parametrize("mesh", MESHES)
def test_nothing_of_the_bases_shape_is_summed_and_no_stack_is_gathered(told, mesh):
    family, found = told
    _, base = trained(family).shapes()
    assert complaints(_exchanges(found, mesh), base, _layout(family, mesh)) == []


@pytest.mark.parametrize("mesh", ["1x8x1", "2x2x2"])
def test_every_weight_is_gathered_within_the_loop_as_one_layer(told, mesh):
    family, found = told
    _, base = trained(family).shapes()
    gathers = [e.shapes for e in _exchanges(found, mesh) if e.looped and e.kind == "all-gather"]
    seen = {shape for shapes in gathers for shape in shapes}
    assert set(gathered(base, _layout(family, mesh)).values()) <= seen


def test_data_parallelism_sums_factors_and_losses_alone(told):
    _, found = told
    exchanges = _exchanges(found, "8x1x1")
    assert {exchange.kind for exchange in exchanges} == {"all-reduce"}
    assert all(4 in shape or not shape for exchange in exchanges for shape in exchange.shapes)


def test_fsdp_sums_no_activations(told):
    _, found = told
    summed = [e for e in _exchanges(found, "1x8x1") if e.kind in SUMS]
    assert all(4 in shape or not shape for exchange in summed for shape in exchange.shapes)


def test_tensor_parallelism_sums_twice_a_layer(told):
    family, found = told
    stream = (ROWS // 4, TOKENS, DIM)
    forward = [
        exchange
        for exchange in _exchanges(found, "2x2x2")
        if exchange.looped and "transpose" not in exchange.name and stream in exchange.shapes
    ]
    sums = [exchange for exchange in forward if exchange.kind in SUMS]
    assert len(sums) == 2, forward
    assert "/out/" in sums[0].name and "/down/" in sums[1].name
    # the columns of a fused product lie otherwise than heads do
    assert len(forward) == (2 if family == "llama" else 4)
