"""One of several processes with two devices each; `scenarios` are what they do together.

Arguments: port, number, how many, folder, scenarios.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = " ".join(
        (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2")
    )

import jax
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.parallel.layout import Layout, single
from lorax.parallel.mesh import make_mesh
from lorax.parallel.processes import everyones, from_first, meet
from lorax.parallel.tables import RULES
from lorax.train.step import make_step
from tests.parallel.models import ROWS, batch, trained


def layout_of(*sizes):
    return Layout(make_mesh(*sizes), RULES["llama"], 0)


def rows():
    """Each process gives the block of rows that its devices hold."""
    mine, numbers = jax.process_index(), np.arange(12 * 3).reshape(12, 3)
    blocks = {
        (4, 1, 1): (mine, 2), (1, 4, 1): (mine, 2), (2, 2, 1): (mine, 2),
        (2, 1, 2): (mine, 2), (1, 2, 2): (mine, 2), (1, 1, 4): (0, 1),
    }  # fmt: skip
    for sizes, (index, count) in blocks.items():
        layout = layout_of(*sizes)
        assert layout.rows == (index, count), sizes
        own = numbers.reshape(count, -1, 3)[index]
        found = layout.batch({"x": own, "none": None})["x"]
        assert found.shape == (12, 3) and (layout.whole(found) == numbers).all()
        for shard in found.addressable_shards:
            assert (np.asarray(shard.data) == numbers[shard.index]).all()
    with pytest.raises(LoraxError, match="a batch of 6 rows on a mesh that cuts it into 4"):
        layout_of(4).batch(numbers[:3])


def agreement():
    """A number of the first, a text of each, and a place to meet."""
    mine = jax.process_index()
    assert from_first(10 + mine) == 10
    assert everyones("é" * (1 + 3 * mine)) == ["é", "éééé"]
    meet("here")


def _steps(layout, model, base, count=20):
    """The loss and the delta after `count` steps."""
    state = model.state(base)
    lie = layout.shardings(state, base)
    if lie:
        state, base = layout.place(state, lie[0]), layout.place(base, lie[1])
    step, (index, blocks) = make_step(model.loss, model.tx, shardings=lie), layout.rows
    own = lambda x: x.reshape(blocks, ROWS // blocks, -1)[index]
    for number in range(count):
        state, metrics = step(state, base, layout.batch(jax.tree.map(own, batch(number))))
    return float(metrics["loss"]), layout.whole(state.delta)


def _same(*sizes):
    """Placed arrays come back whole, and steps are those of one device."""
    model, layout = trained("llama", layers=2), layout_of(*sizes)
    base = model.base()
    stored = layout.place(base, layout.base(base))
    everywhere = layout.place(stored, jax.NamedSharding(layout.mesh, jax.P()))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(everywhere))
    jax.tree.map(np.testing.assert_array_equal, layout.whole(stored), base)
    key = layout.whole(layout.place(jax.random.key(5), jax.NamedSharding(layout.mesh, jax.P())))
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(5))).all()
    loss, delta = _steps(layout, model, base)
    if jax.process_index():
        return
    alone, wanted = _steps(single(), model, base)
    np.testing.assert_allclose(loss, alone, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), delta, wanted)


def fsdp():
    """The base cut over both processes."""
    _same(1, 4, 1)


def tensor():
    """Rows cut over the processes, channels within each."""
    _same(1, 2, 2)


if __name__ == "__main__":
    port, number, count = sys.argv[1:4]
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(number))
    for scenario in sys.argv[5:]:
        globals()[scenario]()
