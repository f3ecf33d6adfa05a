"""Regions: what a device holds, read once each, wherever it goes."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import P

from lorax import LoraxError
from lorax.io.regions import extent, local_regions, place_regions, region, slices, whole

MESHES = {
    shape: jax.make_mesh(shape, ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    for shape in ((4, 1), (2, 2), (1, 4))
}
SPECS = [P(*axes) for axes in itertools.product((None, "x", "y"), repeat=2) if axes[0] != axes[1]]
ALL = [P(), P(("x", "y")), P(None, ("y", "x")), *SPECS]


@given(
    shape=st.sampled_from(list(MESHES)),
    spec=st.sampled_from(ALL),
    dtype=st.sampled_from(["float32", "bfloat16", "int8"]),
)
@settings(max_examples=30)
def test_an_array_read_by_regions_is_the_array_placed_whole(shape, spec, dtype):
    array = np.arange(8 * 12).reshape(8, 12).astype(jnp.dtype(dtype))
    sharding = jax.NamedSharding(MESHES[shape], spec)
    asked = []

    def read(area):
        asked.append(area)
        return array[slices(area)]

    placed = place_regions(array.shape, sharding, read)
    assert placed.sharding == sharding and placed.dtype == array.dtype
    assert np.asarray(placed).tobytes() == array.tobytes()
    assert len(set(asked)) == len(asked)  # each once, however many devices hold it
    assert sum(np.prod(extent(area)) for area in asked) == array.size


def test_a_region_says_what_slices_say():
    assert region((slice(None), slice(2, 4)), (3, 5)) == ((0, 3), (2, 4))
    assert whole((3, 5)) == ((0, 3), (0, 5)) and whole(()) == ()
    assert extent(((0, 3), (2, 4))) == (3, 2)
    assert slices(((0, 3), (2, 4))) == (slice(0, 3), slice(2, 4))


def test_copies_do_not_share_memory():
    sharding = jax.NamedSharding(MESHES[4, 1], P())
    array = np.arange(64.0, dtype=np.float32)
    placed = place_regions((64,), sharding, lambda area: array)
    kept = place_regions((64,), sharding, lambda area: array)
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(placed))
    assert all((np.asarray(s.data) == array).all() for s in kept.addressable_shards)
    assert (array == np.arange(64)).all()


def test_a_scalar_and_a_single_device():
    one = jax.sharding.SingleDeviceSharding(jax.devices()[2])
    placed = place_regions((), one, lambda area: np.float32(7).reshape(()))
    assert placed == 7 and placed.devices() == {jax.devices()[2]} and placed.committed


def test_an_axis_that_does_not_divide_is_one_line():
    with pytest.raises(LoraxError, match=r"'params/w' of shape \(6,\) cannot be cut") as caught:
        local_regions(jax.NamedSharding(MESHES[4, 1], P("x")), (6,), "params/w")
    assert "\n" not in str(caught.value) and "6" in str(caught.value)
