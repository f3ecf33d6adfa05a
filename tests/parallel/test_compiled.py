"""The exchanges of a compiled program are read right, and a small sharded step has those it may."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lorax.parallel.layout import Layout
from lorax.parallel.mesh import make_mesh
from lorax.parallel.tables import RULES
from lorax.train.step import make_step
from tests.parallel.compiled import Exchange, exchanges
from tests.parallel.expected import complaints, gathered
from tests.parallel.models import batch, trained

TEXT = """
HloModule jit_f, entry_computation_layout={(f32[2,8]{1,0})->f32[8,8]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%inner.1 (p: f32[2,8]) -> f32[8,8] {
  ROOT %ag = f32[8,8]{1,0} all-gather(f32[2,8]{1,0} %p), dimensions={0}, metadata={op_name="f/dot"}
}

%body (t: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %c = f32[8,8]{1,0} call(f32[2,8]{1,0} %p), to_apply=%inner.1
}

%cond (t: (s32[], f32[2,8])) -> pred[] {
  ROOT %lt = pred[] compare(s32[] %i, s32[] %n), direction=LT
}

ENTRY %main (x: f32[2,8]) -> f32[8,8] {
  %w = (s32[], f32[2,8]{1,0}) while((s32[], f32[2,8]{1,0}) %t), condition=%cond, body=%body
  %r = (bf16[4]{0}, f32[]) all-reduce-start(bf16[4]{0} %u, f32[] %v), to_apply=%add
  %d = (bf16[4]{0}, f32[]) all-reduce-done((bf16[4]{0}, f32[]) %r)
}
"""


def test_text_is_read():
    assert exchanges(TEXT) == [
        Exchange("all-gather", ((8, 8),), True, "f/dot"),
        Exchange("all-reduce", ((4,), ()), False, ""),
    ]


def test_a_program_is_read():
    mesh = make_mesh(1, 4, 1, devices=jax.devices()[:4])
    rows, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())

    def program(x, ws):
        y, _ = jax.lax.scan(lambda y, w: (y + (y @ w).sum(), None), x, ws)
        return y.sum()

    shapes = jnp.ones((8, 4)), jnp.ones((3, 4, 4))
    jitted = jax.jit(program, in_shardings=(rows, whole), out_shardings=whole)
    found = exchanges(jitted.lower(*shapes).compile().as_text())
    assert {(e.kind, e.shapes, e.looped) for e in found} == {
        ("all-reduce", ((),), True), ("all-reduce", ((),), False),
    }  # fmt: skip


def test_a_small_step_gathers_layer_by_layer_and_sums_factors_alone():
    model = trained("llama", tied=False, layers=2)
    layout = Layout(make_mesh(1, 2, 2, devices=jax.devices()[:4]), RULES["llama"], 0)
    state, base = model.shapes()
    step = make_step(model.loss, model.tx, shardings=layout.shardings(state, base))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch(0))
    found = exchanges(step.lower(state, base, shapes).compile().as_text())
    assert complaints(found, base, layout) == []
    seen = {s for e in found if e.looped and e.kind == "all-gather" for s in e.shapes}
    assert set(gathered(base, layout).values()) <= seen


def test_what_a_step_may_not_do_is_told():
    _, base = trained("llama", layers=2).shapes()
    layout = Layout(make_mesh(1, 2, 2, devices=jax.devices()[:4]), RULES["llama"], 0)
    fine = Exchange("all-gather", ((64, 80),), True, "")
    bad = [
        Exchange("all-reduce", ((4,), (64, 80)), True, "gradient"),
        Exchange("reduce-scatter", ((2, 32, 80),), False, "gradient"),
        Exchange("all-gather", ((2, 64, 80),), False, "stack"),
        Exchange("all-to-all", ((64, 80),), True, "weight"),
        Exchange("all-gather", ((112, 64),), True, "table"),
    ]
    assert complaints([fine], base, layout) == []
    for exchange in bad:
        assert any(exchange.name in text for text in complaints([exchange], base, layout))
