"""One of two processes that save and restore together; its arguments are port, number, folder."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils as hosts

from lorax import LoraxError
from lorax.io.fingerprint import fingerprint
from lorax.io.run_checkpoint import Checkpoints


def everywhere(spec, local):
    """An array of all processes; `local` is this one's part."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.make_array_from_process_local_data(jax.NamedSharding(mesh, spec), local)


def tree(step):
    """A replicated array and key, and an array of this process alone."""
    x = everywhere(jax.P(), np.arange(6.0, dtype=np.float32) + step)
    keys = jax.jit(jax.random.key, out_shardings=x.sharding)
    return {"x": x, "key": keys(step), "local": jnp.full(3, step)}


def damage(file, process):
    """Process 0 empties a file between two meetings of both."""
    hosts.sync_global_devices("before damage")
    if process == 0:
        file.write_text("")
    hosts.sync_global_devices("after damage")


def restore_together(checkpoints, process):
    """The newest sound one in both, though only process 0 looks for it."""
    for step in (1, 2, 3):
        checkpoints.save(step, tree(step), {"step": step})
    checkpoints.wait()
    damage(checkpoints.directory / "3" / "checkpoint.json", process)
    restored = checkpoints.latest(tree(0))
    assert restored.step == 2 and restored.info == {"step": 2}
    assert len(restored.skipped) == (process == 0)
    same = lambda x, y, key: (x == y).all() & (jax.random.key_data(key) == jnp.array([0, 2])).all()
    assert jax.jit(same)(tree(2)["x"], restored.tree["x"], restored.tree["key"])
    for step in (1, 2):
        damage(checkpoints.directory / str(step) / "checkpoint.json", process)
    with pytest.raises(LoraxError, match="every checkpoint in"):
        checkpoints.latest(tree(0))


def fingerprints_agree(whole, half):
    """A base has one fingerprint, whoever holds which part of it."""
    mine = fingerprint({"x": np.arange(6.0, dtype=np.float32)})
    assert fingerprint({"x": half}) == fingerprint({"x": whole}) == mine


if __name__ == "__main__":
    port, number, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", 2, number)
    half = everywhere(jax.P("d"), np.arange(3.0, dtype=np.float32) + 3 * number)
    fingerprints_agree(tree(0)["x"], half)
    with Checkpoints(folder, keep=3) as checkpoints:
        restore_together(checkpoints, number)
        with pytest.raises(LoraxError, match="'x' is spread over 2 processes"):
            checkpoints.save(4, {"x": half}, {})
        hosts.sync_global_devices("end")
