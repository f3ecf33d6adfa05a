"""Trains on eight devices what one device trains, and tells as JSON how far they are apart.

Arguments: a family of models, and tokens of a chunk of logits. For each mesh: the greatest
distances of the losses and of the deltas, and the exchanges of the compiled step.
"""

import json
import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = " ".join(
        (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8")
    )

import jax
import numpy as np

from lorax.parallel.layout import Layout, single
from lorax.parallel.mesh import make_mesh
from lorax.parallel.tables import RULES
from lorax.train.step import make_step
from tests.parallel.compiled import exchanges
from tests.parallel.models import batch, trained

MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2))
STEPS = 20


def run(model, layout):
    """(losses, delta, exchanges) of `STEPS` steps."""
    base = model.base()
    state = model.state(base)
    lie = layout.shardings(state, base)
    if lie:
        state, base = layout.place(state, lie[0]), layout.place(base, lie[1])
    step = make_step(model.loss, model.tx, shardings=lie)
    compiled = step.lower(state, base, layout.batch(batch(0))).compile()
    losses = []
    for number in range(STEPS):
        state, metrics = compiled(state, base, layout.batch(batch(number)))
        losses.append(float(metrics["loss"]))
    return np.array(losses), layout.whole(state.delta), exchanges(compiled.as_text())


def apart(a, b):
    """The greatest distance of two numbers of the trees."""
    both = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in both)


def main(family, chunk):
    """All meshes against one device."""
    alone = trained(family, chunk=chunk)
    losses, delta, _ = run(alone, single())
    found = {"moved": apart(delta, alone.state(alone.base()).delta), "meshes": {}}
    for sizes in MESHES:
        model = trained(family, chunk=chunk, tensor=sizes[2])
        own_losses, own_delta, own = run(model, Layout(make_mesh(*sizes), RULES[family], 0))
        found["meshes"]["x".join(map(str, sizes))] = {
            "loss": apart(own_losses, losses), "delta": apart(own_delta, delta), "exchanges": own,
        }  # fmt: skip
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
