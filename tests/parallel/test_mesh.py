"""A mesh from three numbers: one may be left open, and a wrong product says what mends it."""

import jax
import pytest
from jax.sharding import AxisType

from lorax.core.errors import LoraxError
from lorax.parallel.mesh import AXES, make_mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (4, 1, 1)),
        ({"fsdp": 2}, (2, 2, 1)),
        ({"data": 1, "fsdp": 0, "tensor": 2}, (1, 2, 2)),
        ({"data": 1, "fsdp": 4, "tensor": 0}, (1, 4, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 1}, (2, 2, 1)),
    ],
)
def test_what_is_left_is_filled_in(sizes, shape):
    mesh = make_mesh(**sizes, devices=jax.devices()[:4])
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_neighbours_are_of_one_tensor_group():
    mesh = make_mesh(2, 1, 2, devices=jax.devices()[:4])
    assert [d.id for d in mesh.devices.flat] == [d.id for d in jax.devices()[:4]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"data": 2, "fsdp": 3},
            "mesh data=2 × fsdp=3 × tensor=1 is 6 and there are 4 devices: expected 4; "
            "set fsdp=2, or use 6 devices",
        ),
        (
            {"data": 8, "fsdp": 1},
            "mesh data=8 × fsdp=1 × tensor=1 is 8 and there are 4 devices: expected 4; "
            "set data=4, or use 8 devices",
        ),
        (
            {"fsdp": 3},
            "mesh fsdp=3 × tensor=1 is 3 and there are 4 devices: expected a divisor of 4; "
            "set fsdp=4, or use 3 devices",
        ),
        (
            {"data": 3, "fsdp": 5, "tensor": 7},
            "mesh data=3 × fsdp=5 × tensor=7 is 105 and there are 4 devices: expected 4; "
            "set data=4, fsdp=1, tensor=1",
        ),
        (
            {"fsdp": 0},
            "mesh axes 'data' and 'fsdp' are both 0: expected 0, which means what is left, on one "
            "axis at most; give the other a number",
        ),
        (
            {"tensor": -1},
            "mesh axis 'tensor' is -1: expected a number of devices, or 0 for what is left",
        ),
        (
            {"data": True},
            "mesh axis 'data' is True: expected a number of devices, or 0 for what is left",
        ),
    ],
)
def test_a_mistake_says_which_change_mends_it(sizes, message):
    with pytest.raises(LoraxError) as error:
        make_mesh(**sizes, devices=jax.devices()[:4])
    assert str(error.value) == message
