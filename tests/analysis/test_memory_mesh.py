"""A plan for one device of a mesh: exact lines, and what XLA says of the compiled step."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

import lorax
from lorax.analysis.memory import memory_plan
from lorax.data.batch import Batch
from lorax.models import GPT2, GPT2Config
from lorax.parallel.layout import Layout
from lorax.parallel.mesh import AXES, make_mesh
from lorax.parallel.tables import RULES
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.step import init_state, make_step

pytestmark = pytest.mark.runs

# so wide that weights outweigh the numbers between them
WIDE = GPT2Config(300, 256, 4, 4, max_length=32, scan=True, remat=True)
GPT3 = GPT2Config(
    50257, 12288, 96, 96, max_length=2048, scan=True, remat=True,
    dtype="bfloat16", param_dtype="bfloat16",
)  # fmt: skip
LORA = lorax.LoRA(rank=4, where=(".*/qkv/kernel",))
ROWS, LENGTH = 8, 16


def abstract(*lengths):
    return AbstractMesh(lengths, AXES, axis_types=(AxisType.Auto,) * 3)


def setting(mesh, config=WIDE, rows=ROWS):
    """(loss, tx, state, base, batch, shardings): shapes that say where they lie."""
    model, tokens = GPT2(config), jax.ShapeDtypeStruct((rows, LENGTH), jnp.int32)
    base = jax.eval_shape(model.init, jax.random.key(0), tokens)
    first = lambda base: lorax.adapt(model.apply, LORA).init(jax.random.key(0), base, tokens)
    tx, delta = adamw(1e-3), jax.eval_shape(first, base)
    state = jax.eval_shape(lambda d: init_state(d, tx, jax.random.key(0)), delta)
    layout = Layout(mesh, RULES["gpt2"], replicate_below=0)
    shardings = layout.shardings(state, base)
    put = lambda tree, at: jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, at
    )
    batch = Batch(tokens, tokens, jax.ShapeDtypeStruct(tokens.shape, jnp.bool_))
    rows = jax.tree.map(lambda _: shardings[2], batch)
    loss = next_token_loss(model.apply, LORA)
    return (
        loss, tx, put(state, shardings[0]), put(base, shardings[1]), put(batch, rows), shardings
    )  # fmt: skip


@functools.cache
def plan(mesh, config=WIDE, rows=ROWS, **options):
    loss, tx, state, base, batch, _ = setting(mesh, config, rows)
    logits = jax.ShapeDtypeStruct((rows * LENGTH, config.vocab_size), jnp.float32)
    return memory_plan(
        loss, LORA, base, state.delta, batch, tx, logits=logits, opt_state=state.opt_state,
        **options,
    )  # fmt: skip


def matrices(config):
    """Numbers of one layer's kernels, by their cut: qkv, out, up, down."""
    return 12 * config.dim**2


@pytest.mark.parametrize("lengths", [(4, 1, 1), (1, 4, 1), (1, 2, 2)])
def test_what_is_stored_is_cut_as_the_rules_say(lengths):
    data, fsdp, tensor = lengths
    found, whole = plan(abstract(*lengths)), plan(abstract(1, 1, 1))
    d = WIDE.dim
    kernels, tables = WIDE.layers * matrices(WIDE), (300 + 32) * d
    biases = WIDE.layers * (3 * d + 4 * d)  # of qkv and up, which tensor cuts
    rest = whole.base // 4 - kernels - tables - biases  # norms, and biases of out and down
    cut = kernels // (fsdp * tensor) + tables // fsdp + biases // tensor
    assert found.base == 4 * (cut + rest)
    a, b = WIDE.layers * d * 4, WIDE.layers * 4 * 3 * d
    assert found.delta == found.gradients == 4 * (a // fsdp + b // tensor)
    assert found.optimizer == 2 * found.delta + 4
    assert found.checkpoint == whole.checkpoint == 3 * 4 * (a + b) + 4


def test_one_layer_is_gathered_at_a_time_and_not_along_tensor():
    d = WIDE.dim
    factor = 4 * d * 4  # A of one layer, cut along the inputs
    assert plan(abstract(4, 1, 1)).gathered == 0
    assert plan(abstract(1, 4, 1)).gathered == 4 * matrices(WIDE) + factor
    assert plan(abstract(1, 2, 2)).gathered == 4 * matrices(WIDE) // 2 + factor
    assert plan(abstract(1, 4, 1)).head == 4 * 300 * d


def test_activations_and_logits_go_with_the_rows():
    whole, rows = plan(abstract(1, 1, 1)), plan(abstract(2, 2, 1))
    kept = WIDE.layers * ROWS * LENGTH * WIDE.dim * 4  # the stream before each layer
    assert rows.activations == pytest.approx(whole.activations / 4, rel=0.02)
    assert kept < whole.activations < 1.2 * kept + 4 * ROWS * LENGTH * 300 * 4
    assert rows.logits == whole.logits // 4 == ROWS * LENGTH * 300 * 4 // 4


def test_tensor_leaves_the_stream_whole_and_cuts_what_is_within_a_layer():
    one, four = plan(abstract(1, 1, 1)), plan(abstract(1, 1, 4))
    assert four.activations == pytest.approx(one.activations, rel=0.02)
    assert four.recomputed < 0.6 * one.recomputed


def test_a_mesh_of_one_device_changes_nothing():
    loss, tx, state, base, batch, _ = setting(abstract(1, 1, 1))
    bare = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    found = memory_plan(loss, LORA, bare(base), bare(state.delta), bare(batch), tx)
    assert found == memory_plan(loss, LORA, base, state.delta, batch, tx)


def test_the_optimizer_of_a_gpt3_holds_a_and_b_alone():
    tx, trained = adamw(1e-3), 96 * 2 * 4 * (12288 + 12288)
    assert trained == 18_874_368
    state, base = setting(abstract(1, 64, 1), GPT3, rows=64)[2:4]
    leaves = jax.tree.leaves(jax.eval_shape(tx.init, state.delta))
    assert sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves) == 2 * 4 * trained + 4
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(base)) == 174_604_259_328


def test_a_layer_of_gpt3_is_gathered_in_16_bits():
    found = plan(abstract(1, 64, 1), GPT3, rows=64)
    assert found.gathered == 2 * matrices(GPT3) + 2 * 12288 * 4  # and A, cast to 16 bits
    wide = plan(abstract(1, 64, 1), GPT3, rows=64, wide=True)
    assert wide.copies == pytest.approx(2 * 96 * 2 * matrices(GPT3) // 64, rel=0.01)
    assert wide.converted == 2 * 96 * LENGTH * 12288 * 2


@pytest.mark.parametrize("lengths", [(1, 4, 1), (1, 2, 2)])
def test_against_the_compiled_step(lengths):
    mesh = make_mesh(*lengths, devices=jax.devices()[:4])
    loss, tx, state, base, batch, shardings = setting(mesh)
    step = make_step(loss, tx, shardings=shardings)
    found = step.lower(state, base, batch).compile().memory_analysis()
    planned = plan(mesh, wide=True)
    stored = planned.base + planned.delta + planned.optimizer
    of_batch = ROWS * LENGTH * (4 + 4 + 1) // math.prod(lengths[:2])
    assert found.argument_size_in_bytes == pytest.approx(stored + of_batch, abs=64)
    total = (
        found.argument_size_in_bytes + found.output_size_in_bytes
        - found.alias_size_in_bytes + found.temp_size_in_bytes
    )  # fmt: skip
    assert planned.total + of_batch == pytest.approx(total, rel=0.15)
