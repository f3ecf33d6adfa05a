"""Data parallelism: on one device nothing changes; on several, the same numbers."""

import math
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from lorax.parallel.replicas import Replicas, from_first, here, meet, replicas


def test_one_device_gets_its_arrays_as_they_are():
    devices, tree = Replicas(None), {"a": np.arange(3)}
    assert devices.batch(tree) is tree and devices.everywhere(tree) is tree
    assert replicas(7 * 11).mesh is None  # no number of devices divides it but one
    meet("test")
    assert here(tree) is tree and from_first(7) == 7


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 8])
def test_a_single_process_leaves_out_devices_that_would_get_fewer_rows(rows):
    mesh, wanted = replicas(rows).mesh, math.gcd(rows, jax.device_count())
    assert (1 if mesh is None else mesh.size) == wanted


PROGRAM = textwrap.dedent("""
    import jax, jax.numpy as jnp, numpy as np
    from lorax.core.errors import LoraxError
    from lorax.parallel.replicas import replicas

    devices = replicas(8)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    weight = devices.everywhere({"w": np.full((3, 2), 0.5, np.float32)})["w"]
    batch = devices.batch({"x": x, "none": None})
    assert len(batch["x"].sharding.device_set) == 4 == len(weight.sharding.device_set)
    assert weight.is_fully_replicated and not batch["x"].is_fully_replicated
    assert (np.asarray(batch["x"]) == x).all()
    loss = lambda w, x: ((x @ w) ** 2).mean()
    value, grad = jax.jit(jax.value_and_grad(loss))(weight, batch["x"])
    want, slope = jax.value_and_grad(loss)(jnp.full((3, 2), 0.5), x)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(grad), slope, rtol=1e-6)
    try:
        devices.batch(x[:6])
    except LoraxError as error:
        assert "a batch of 6 rows on 4 devices: expected a multiple of 4" in str(error)
    else:
        raise AssertionError("six rows on four devices")
    print("held")
""")


def test_four_devices_give_the_numbers_of_one():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr
