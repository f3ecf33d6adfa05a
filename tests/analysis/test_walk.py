"""What devices hold: gathered weights, loops, recomputation, on meshes that no machine needs."""

import jax
import jax.numpy as jnp

from lorax.analysis.cuts import Value
from lorax.analysis.walk import Walk
from lorax.core import _jax

MESH = {"fsdp": 4, "tensor": 2}
ROWS, WHOLE = ("fsdp",), ()
L, D, F, B = 3, 16, 32, 8


def walked(fn, x, *weights, wide=False):
    """(walk, outputs) of `fn(x, *weights)`; weights are (shape, dtype, cut)."""
    values = [x, *(Value(*w, number, True) for number, w in enumerate(weights))]
    program, _ = _jax.trace(lambda a: fn(*a), [_shape(v) for v in values])
    walk = Walk(MESH, ("fsdp",), wide)
    return walk, walk.run(program, values)


def _shape(value):
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


X = Value((B, D), jnp.float32, (ROWS, WHOLE))


def test_a_weight_is_gathered_where_it_is_used_but_not_along_tensor():
    walk, (out,) = walked(jnp.dot, X, ((D, F), jnp.float32, (ROWS, ("tensor",))))
    (body,) = walk.bodies
    assert body.gathered == {0: D * F * 4 // 2}
    assert out.cut == (ROWS, ("tensor",)) and out.leaf is None
    assert walk.bytes(out) == B * F * 4 // 8


def test_a_view_of_a_weight_is_that_weight_and_takes_nothing():
    def fn(x, w):
        return x @ w.T.reshape(D, F)

    walk, _ = walked(fn, X, ((F, D), jnp.float32, (WHOLE, ROWS)))
    assert walk.bodies[0].gathered == {0: D * F * 4}


def test_a_table_is_looked_up_where_it_lies():
    rows = Value((B,), jnp.int32, (ROWS,))
    table = ((64, D), jnp.float32, (WHOLE, ROWS))
    walk, (out,) = walked(lambda i, t: t[i], rows, table)
    assert walk.bodies[0].gathered == {} and out.cut[0] == ROWS


def scanned(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)


def test_a_loop_gathers_a_slice_at_a_time_and_stacks_what_it_returns():
    stack = ((L, D, D), jnp.float32, (WHOLE, ROWS, WHOLE))
    walk, (carry, stacked) = walked(scanned, X, stack)
    top, loop = walk.bodies
    assert top.gathered == {} and loop.gathered == {0: D * D * 4}
    assert carry.cut == (ROWS, WHOLE) and stacked.cut == (WHOLE, ROWS, WHOLE)
    assert walk.widened == {0: 0}


def test_what_every_turn_reads_is_gathered_once_before_the_loop():
    def fn(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x)

    walk, _ = walked(fn, X, ((D, D), jnp.float32, (ROWS, WHOLE)))
    top, loop = walk.bodies
    assert top.gathered == {0: D * D * 4} and loop.gathered == {}


def test_without_16_bit_arithmetic_a_loop_has_copies_made():
    x = Value((B, D), jnp.bfloat16, (ROWS, WHOLE))
    stack = ((L, D, D), jnp.bfloat16, (WHOLE, ROWS, WHOLE))
    walk, (carry, _) = walked(scanned, x, stack, wide=True)
    assert walk.bodies[1].gathered == {0: D * D * 4}
    assert walk.widened == {0: L * D * D * 4 // 4}
    assert walk.bytes(carry) == 2 * walk.bytes(carry, stored=True) == B * D * 4 // 4


def test_codes_are_decoded_where_they_lie_and_gathered_in_16_bits():
    decoded = lambda x, codes: x @ (codes - 8).astype(jnp.float32)
    codes = ((D, F), jnp.dtype("int8"), (ROWS, WHOLE))
    assert walked(decoded, X, codes)[0].bodies[0].gathered == {0: D * F * 2}


def test_codes_of_4_bits_that_a_loop_reads_are_copied_to_8():
    def fn(x, w):
        turn = lambda x, w: (x @ w.astype(jnp.float32), None)
        return jax.lax.scan(turn, x, w)[0]

    stack = ((L, D, D), jnp.dtype("uint4"), (WHOLE, WHOLE, WHOLE))
    assert walked(fn, X, stack, wide=True)[0].widened == {0: L * D * D}
    assert walked(fn, X, stack)[0].widened == {0: 0}


def test_a_chain_of_numberwise_operations_is_stored_at_its_end_alone():
    def fn(x, w):
        return jax.checkpoint(lambda x, w: jnp.sin(jnp.sin(x)) @ w)(x, w)

    weight = ((D, D), jnp.float32, (WHOLE, WHOLE))
    walk, _ = walked(fn, X, weight)
    assert (
        walk.bodies[-1].rematerialised == 2 * B * D * 4 // 4
    )  # what is multiplied, and the result


def test_what_is_computed_again_is_alive_together():
    def fn(x, w):
        return jax.checkpoint(lambda x, w: x @ w @ w)(x, w)

    walk, _ = walked(fn, X, ((D, D), jnp.float32, (WHOLE, WHOLE)))
    again = walk.bodies[-1]  # apart from the rest, for XLA must not merge it
    assert len(walk.bodies) == 2
    assert again.rematerialised == 2 * B * D * 4 // 4  # each product and what it is of


def test_a_carry_is_cut_as_a_turn_leaves_it():
    def fn(x, w):
        turn = lambda total, w: (total + x @ w, None)
        return jax.lax.scan(turn, jnp.zeros((B, D)), w)[0]

    _, (total,) = walked(fn, X, ((L, D, D), jnp.float32, (WHOLE, WHOLE, WHOLE)))
    assert total.cut == (ROWS, WHOLE)


def test_what_depends_on_no_argument_takes_nothing():
    walk, (out,) = walked(lambda x: jnp.where(jnp.tri(D, dtype=bool), 1.0, 0.0), X)
    assert out.free and walk.bytes(out) == 0
