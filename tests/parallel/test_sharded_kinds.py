"""Quantised bases, parts of a batch and dropout: on a mesh the numbers are those of one device."""

import dataclasses

import jax
import pytest

import lorax
from lorax.parallel.layout import Layout, single
from lorax.parallel.mesh import make_mesh
from lorax.parallel.tables import RULES
from lorax.train.losses import next_token_loss
from lorax.train.step import make_step
from tests.parallel.eight import apart
from tests.parallel.models import batch, trained

pytestmark = pytest.mark.runs


def _run(model, base, layout, accumulate):
    """(loss, delta) after three steps."""
    state = model.state(model.base())
    lie = layout.shardings(state, base)
    if lie:
        state, base = layout.place(state, lie[0]), layout.place(base, lie[1])
    step = make_step(model.loss, model.tx, accumulate=accumulate, shardings=lie)
    for number in range(3):
        state, metrics = step(state, base, layout.batch(batch(number)))
    return float(metrics["loss"]), layout.whole(state.delta)


def _same(model, base, accumulate=1):
    mesh = make_mesh(1, 2, 2, devices=jax.devices()[:4])
    alone = _run(model, base, single(), accumulate)
    assert apart(_run(model, base, Layout(mesh, RULES["llama"], 0), accumulate), alone) < 1e-5


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base(kind):
    pytest.importorskip("qwix")
    model = trained("llama", layers=2, hidden_dim=192)
    _same(model, lorax.quantize(model.base(), kind))


def test_dropout_and_a_batch_in_parts():
    model = trained("llama", layers=2)
    adapter = dataclasses.replace(model.adapter, dropout=0.3)
    loss = next_token_loss(model.fn, adapter, chunk=48)
    _same(dataclasses.replace(model, adapter=adapter, loss=loss), model.base(), accumulate=2)
