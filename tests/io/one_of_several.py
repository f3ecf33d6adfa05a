"""One of several processes with two devices each; `scenarios` are what they do together.

Arguments: port, number, how many, folder, scenarios.
"""

import os
import pathlib
import sys
import time
import zlib

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.experimental import multihost_utils as hosts

import lorax
from lorax import LoraxError
from lorax.core.leaf import Factors, Roles
from lorax.io import arrays as store
from lorax.io.checkpoint import load_adapter, save_adapter
from lorax.io.fingerprint import fingerprint
from lorax.io.pretrained import load
from lorax.io.run_checkpoint import Checkpoints
from lorax.parallel.layout import Layout
from lorax.parallel.mesh import make_mesh
from lorax.parallel.tables import RULES
from tests.io.counting import counted

AUTO = jax.sharding.AxisType.Auto
SPECS = {"A": P("x", "y"), "B": P("y"), "m": P(("x", "y")), "count": P(), "half": P(None, "x")}


def numbers(step):
    """What a checkpoint of `step` holds, the same for everybody."""
    draw = np.random.default_rng(step)
    tree = {
        "A": draw.normal(size=(8, 4)).astype(np.float32),
        "B": draw.normal(size=(4, 3)).astype(jnp.bfloat16),
        "m": draw.normal(size=(8,)).astype(np.float32),
        "count": np.int32(step),
        "half": draw.integers(0, 9, size=(3, 8)).astype(np.int8),
    }
    return tree


def shardings(mesh):
    return {name: jax.NamedSharding(mesh, spec) for name, spec in SPECS.items()}


def placed(step, mesh):
    """`numbers` on the devices of `mesh`, and a key on all of them."""
    places = shardings(mesh)
    tree = {
        name: jax.make_array_from_callback(np.shape(x), places[name], lambda i, x=x: x[i])
        for name, x in numbers(step).items()
    }
    key = jax.jit(jax.random.key, out_shardings=jax.NamedSharding(mesh, P()))(step)
    return tree | {"key": key}


def same(tree, step):
    """Are the shards that are here bit for bit those of `numbers`?"""
    for name, x in numbers(step).items():
        for shard in tree[name].addressable_shards:
            assert np.asarray(shard.data).tobytes() == np.asarray(x[shard.index]).tobytes(), name
    data = jax.random.key_data(tree["key"]).addressable_data(0)
    assert (np.asarray(data) == np.asarray(jax.random.key_data(jax.random.key(step)))).all()
    return True


def mesh_of(*shape):
    return jax.make_mesh(shape, ("x", "y"), axis_types=(AUTO, AUTO))


def save_and_restore(folder):
    """Sharded state out and in again, on the same mesh and on another one."""
    count = jax.process_count()
    mesh = mesh_of(count, 2)
    donate = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    with Checkpoints(folder, keep=3, best="loss") as checkpoints:
        assert checkpoints.latest(placed(0, mesh)) is None
        for step in (1, 2, 3):
            tree = placed(step, mesh)
            checkpoints.save(step, tree, {"step": step}, metrics={"loss": -step})
            key = tree.pop("key")
            donate(tree)  # what was saved may go at once
            del key
        checkpoints.wait()
        assert checkpoints.best_step() == 3
        for other in (
            mesh,
            mesh_of(2 * jax.process_count(), 1),
            mesh_of(1, 2 * jax.process_count()),
        ):
            restored = checkpoints.latest(placed(0, other))
            assert (restored.step, restored.info) == (3, {"step": 3})
            assert same(restored.tree, 3)
            assert restored.tree["A"].sharding == jax.NamedSharding(other, SPECS["A"])
        assert same(checkpoints.restore(2, placed(0, mesh)).tree, 2)
        alone = checkpoints.latest({**numbers(0), "key": jax.random.key(0)}).tree
        assert all((alone[name] == x).all() for name, x in numbers(3).items())
        with pytest.raises(LoraxError, match="no checkpoint of step 7"):
            checkpoints.restore(7, placed(0, mesh))


def damage(file):
    """Process 0 empties a file between two meetings of all."""
    hosts.sync_global_devices("before damage")
    if jax.process_index() == 0:
        file.write_text("")
    hosts.sync_global_devices("after damage")


def the_same_one_is_picked(folder):
    """The newest sound one in all, though only process 0 looks; also of whole arrays alone."""
    whole = lambda step: {"x": placed(step, mesh_of(2, 2))["count"], "local": jnp.full(3, step)}
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, whole(step), {"step": step})
        checkpoints.wait()
        damage(folder / "3" / "checkpoint.json")
        restored = checkpoints.latest(whole(0))
        assert restored.step == 2 and restored.info == {"step": 2}
        assert len(restored.skipped) == (jax.process_index() == 0)
        assert jax.jit(lambda x, y: x == y)(restored.tree["x"], whole(2)["x"]).all()
        for step in (1, 2):
            damage(folder / str(step) / "checkpoint.json")
        with pytest.raises(LoraxError, match="every checkpoint in"):
            checkpoints.latest(whole(0))
        with Checkpoints(folder) as second, pytest.raises(LoraxError, match="by another run"):
            second.save(4, whole(4), {})


def a_failure_is_told_to_all(folder):
    """Whoever fails, all say the same, nothing is left, and the next save begins anew."""
    mesh, write = mesh_of(2, 2), store.save_part
    texts = []

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, placed(1, mesh), {}, wait=True)
        for step, culprit in ((2, 1), (3, 0)):
            store.save_part = refuse if jax.process_index() == culprit else write
            checkpoints.save(step, placed(step, mesh), {})
            with pytest.raises(LoraxError, match=f"step {step} was not saved: .*No space left"):
                try:
                    checkpoints.wait()
                except LoraxError as error:
                    texts.append(str(error))
                    raise
            store.save_part = write
        assert "process 1: No space left" in texts[0] and "process" not in texts[1]
        heard = hosts.process_allgather(np.uint32(zlib.crc32("".join(texts).encode())))
        assert len(set(heard.tolist())) == 1 and "\n" not in "".join(texts)
        checkpoints.save(4, placed(4, mesh), {}, wait=True)
        assert same(checkpoints.latest(placed(0, mesh)).tree, 4)
        hosts.sync_global_devices("seen")
        assert sorted(os.listdir(folder)) == ["1", "4"]


def nobody_waits_for_ever(folder):
    """One that does not come makes the save fail; on the way out of an error it takes seconds."""
    mesh = mesh_of(2, 2)
    with Checkpoints(folder, patience=1) as checkpoints:
        tree = placed(1, mesh)
        if jax.process_index() == 0:
            checkpoints.save(1, tree, {})
            with pytest.raises(LoraxError, match="process 1 wrote no part"):
                checkpoints.wait()
    hosts.sync_global_devices("next")
    with pytest.raises(KeyError) as caught, Checkpoints(folder) as checkpoints:
        if jax.process_index() == 0:
            checkpoints.save(2, tree, {})
        begun = time.monotonic()
        raise KeyError("mine")
    assert time.monotonic() - begun < 20
    assert bool(getattr(caught.value, "__notes__", ())) == (jax.process_index() == 0)


def another_number_of_processes(folder):
    """What two processes saved is there for any number of them."""
    mesh = mesh_of(jax.process_count(), 2)
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.latest(placed(0, mesh)).tree, checkpoints.steps()[-1])


def save_without_end(folder):
    """To be killed."""
    mesh = mesh_of(2, 2)
    with Checkpoints(folder) as checkpoints:
        for step in range(1, 1000):
            checkpoints.save(step, placed(step, mesh), {"step": step})
            if step == 4 and jax.process_index() == 0:
                print("saving", flush=True)


def fingerprints_agree(folder):
    """A base has one fingerprint, whoever holds which part of it."""
    mine = fingerprint(numbers(5))
    for shape in ((2, 2), (4, 1), (1, 4)):
        tree = placed(5, mesh_of(*shape))
        del tree["key"]
        assert fingerprint(tree) == mine != fingerprint(numbers(6))


def an_adapter_is_gathered(folder):
    """The delta is spread; what is on the disk is whole, and any process loads it."""
    mesh = mesh_of(jax.process_count(), 2)
    whole = placed(1, mesh)
    factors = Factors(whole["A"], whole["half"].astype(jnp.float32), Roles((), (0,), (1,)))
    save_adapter(folder, lorax.LoRA(rank=4), {"params/q/kernel": factors})
    hosts.sync_global_devices("saved")
    _, delta = load_adapter(folder)
    assert (delta["params/q/kernel"].A == numbers(1)["A"]).all()
    assert (delta["params/q/kernel"].B == numbers(1)["half"]).all()


def load_a_quarter(folder):
    """Each process reads what its devices need, and together they have the whole model."""
    for name in ("llama", "gpt2", "roberta"):
        plain = load(folder.parent / name, scan=True)
        layout = Layout(make_mesh(fsdp=jax.device_count()), RULES[name])
        place = lambda path, shape, layout=layout: layout.base(
            {path: jax.ShapeDtypeStruct(shape, jnp.float32)}
        )[path]
        with counted() as count:
            base = load(folder.parent / name, scan=True, sharding=place).base
        leaves = jax.tree.leaves(plain.base)
        vectors = sum(leaf.nbytes for leaf in leaves if leaf.ndim < 3)
        total = sum(leaf.nbytes for leaf in leaves)
        assert sum(count.values()) <= total / jax.process_count() + vectors
        assert fingerprint(base) == fingerprint(plain.base)


scenarios = {
    f.__name__: f
    for f in (
        save_and_restore, the_same_one_is_picked, a_failure_is_told_to_all, nobody_waits_for_ever,
        another_number_of_processes, save_without_end, fingerprints_agree, load_a_quarter,
        an_adapter_is_gathered,
    )
}  # fmt: skip

if __name__ == "__main__":
    port, number, count, folder, *names = sys.argv[1:]
    jax.distributed.initialize(
        f"127.0.0.1:{port}", int(count), int(number), heartbeat_timeout_seconds=10
    )
    for name in names:
        scenarios[name](pathlib.Path(folder) / name)
        hosts.sync_global_devices(name)
