"""The program table: one small program a way of using a weight. Shared by the law tests.

Every program is a function of (base, x) with a plain parameter tree of its own making.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from lorax.models.lenet import LeNet
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from lorax.models.mlp import MLP
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)  # one is equal to itself alone, so it can be hashed
class Program:
    """A program, its base, an input, which leaves are adapted, and whether they stay factored."""

    fn: Callable[..., Any]
    base: Any
    x: Array
    where: Any
    factors: bool = True


def _key(seed: int) -> Array:
    return jax.random.key(seed)


def _x(*shape: int) -> Array:
    return jax.random.normal(_key(7), shape)


def _linen(module: nn.Module, x: Array, where: Any = (r".*/kernel",)) -> Program:
    variables = jax.jit(module.init)(_key(0), x)
    return Program(lambda base, x: module.apply(base, x), variables, x, where)


class _Dense(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Dense(6, dtype=self.dtype, name="first")(x))
        return nn.Dense(4, dtype=self.dtype, name="second")(x)


class _General(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        heads = nn.DenseGeneral((2, 3), name="heads")(x)
        return nn.DenseGeneral(5, axis=(-2, -1), name="out")(heads)


class _Einsum(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Einsum((4, 2, 3), "btd,dhk->bhtk", name="project")(x)


class _Tied(nn.Module):
    @nn.compact
    def __call__(self, ids: Array) -> Array:
        embed = nn.Embed(11, 6, name="embed")
        return embed.attend(nn.gelu(embed(ids)))


class _Conv(nn.Module):
    kwargs: Any = dataclasses.field(default_factory=dict)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Conv(6, (3, 2), name="conv", **self.kwargs)(x)


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x, x)
        return x + nn.Dense(6, name="down")(nn.silu(nn.Dense(8, name="up")(x))), None


class _Scanned(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        layer = nn.remat(_Layer, policy=policy, prevent_cse=False)
        layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return layers(name="layers")(x, None)[0]


class _FusedQKV(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("qkv", nn.initializers.lecun_normal(), (6, 3 * 6))
        query, key, value = jnp.split(kernel, 3, axis=1)
        scores = nn.softmax((x @ query) @ jnp.swapaxes(x @ key, -1, -2))
        heads = kernel.reshape(6, 3, 2, 3)[:, 2]
        return scores @ (x @ value) + jnp.einsum("btd,dhk->bthk", x, heads).reshape(x.shape)


class _NNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Array) -> Array:
        x = self.first(x)
        for block in self.blocks:
            x = x + nnx.relu(block(x))
        return x


def _nnx() -> Program:
    graph, state = nnx.split(_NNX(nnx.Rngs(0)))
    return Program(lambda s, x: nnx.merge(graph, s)(x), state, _x(3, 4), (r".*/kernel",))


def _equinox() -> Program:
    model = eqx.nn.MLP(4, 3, 6, depth=2, key=_key(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    fn = lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x)
    return Program(fn, arrays, _x(5, 4), (r".*/weight",))


def _llama(scan: bool) -> Program:
    config = LlamaConfig(
        vocab_size=11, dim=8, layers=2, heads=4, kv_heads=2, hidden_dim=12, max_length=8,
        tied=not scan, scan=scan, remat=scan,
    )  # fmt: skip
    tokens = jax.random.randint(_key(3), (2, 6), 0, 11)
    return _linen(Llama(config), tokens, (r".*/kernel",))


def _gpt2() -> Program:
    config = GPT2Config(11, 8, 2, 2, max_length=8, hidden_dim=12, scan=True, remat=True)
    return _linen(GPT2(config), jax.random.randint(_key(3), (2, 6), 0, 11))


def _roberta() -> Program:
    config = RobertaConfig(11, 8, 1, 2, 12, max_length=8, head="classification")
    tokens = jax.random.randint(_key(3), (2, 6), 2, 11).at[1, 4:].set(config.pad_id)
    return _linen(Roberta(config), tokens)


def _raw(fn: Callable[..., Any], shape: tuple[int, ...], x: Array, **kwargs: Any) -> Program:
    base = {"w": jax.random.normal(_key(0), shape)}
    return Program(lambda base, x: fn(base["w"], x), base, x, ("w",), **kwargs)


def _fori(w: Array, x: Array) -> Array:
    return lax.fori_loop(0, w.shape[0], lambda i, x: jnp.tanh(x @ w[i]), x)


def _shared_in_scan(w: Array, x: Array) -> Array:
    return lax.scan(lambda x, _: (jnp.tanh(x @ w), x.sum()), x, None, length=3)[0]


def _branches(w: Array, x: Array) -> Array:
    return lax.cond(x.sum() > 0, lambda w, x: x @ w, lambda w, x: 2.0 * (x @ w.T), w, x)


def _routed(w: Array, x: Array) -> Array:
    experts = w[jnp.array([2, 0, 1])]  # one expert's matrix a row
    return jnp.einsum("td,tdf->tf", x, experts)


def _ragged(w: Array, x: Array) -> Array:
    return lax.ragged_dot(x, w, jnp.array([2, 1, 2], jnp.int32))


@jax.custom_vjp
def _halved_gradient(x: Array, w: Array) -> Array:
    return x @ w


_halved_gradient.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T / 2, saved[0].T @ g / 2)
)


@jax.custom_jvp
def _custom_forward(x: Array, w: Array) -> Array:
    return x @ w


_custom_forward.defjvp(lambda p, t: (p[0] @ p[1], 3.0 * (t[0] @ p[1] + p[0] @ t[1])))


def _sharded(w: Array, x: Array) -> Array:
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows = jax.shard_map(
        lambda x, w: lax.psum(x @ w, "model"),
        mesh=mesh,
        in_specs=(P(None, "model"), P("model", None)),
        out_specs=P(),
    )
    return rows(x, w)


def _nested_jit(w: Array, x: Array) -> Array:
    bias = np.arange(4.0, dtype=np.float32)  # a constant of the inner program
    return jax.jit(lambda w: jnp.matmul(x, w) + bias)(w)


def _odd_shapes(w: Array, x: Array) -> Array:
    w = jnp.squeeze(w[None] * 2.0, 0) / 4.0
    w = -w.reshape(2, 2, 6).transpose(2, 0, 1).reshape(6, 4)
    return lax.dynamic_slice_in_dim(w, 1, 5, axis=0) @ x


PROGRAMS: dict[str, Callable[[], Program]] = {
    "dense": lambda: _linen(_Dense(), _x(3, 5)),
    "dense_general": lambda: _linen(_General(), _x(2, 3, 4)),
    "einsum": lambda: _linen(_Einsum(), _x(2, 3, 4)),
    "embed_tied": lambda: _linen(
        _Tied(), jax.random.randint(_key(3), (4, 8), 0, 11), (".*embedding",)
    ),
    "conv": lambda: _linen(_Conv(), _x(2, 6, 5, 3)),
    "conv_dilated": lambda: _linen(
        _Conv({"kernel_dilation": 2, "strides": (2, 1), "padding": "VALID"}), _x(2, 9, 8, 3)
    ),
    "conv_grouped": lambda: dataclasses.replace(
        _linen(_Conv({"feature_group_count": 2}), _x(2, 6, 5, 4)),
        factors=False,
    ),
    "attention": lambda: _linen(nn.MultiHeadDotProductAttention(2), _x(2, 3, 6)),
    "scan_remat": lambda: _linen(_Scanned(), _x(2, 3, 6)),
    "fused_qkv": lambda: _linen(_FusedQKV(), _x(2, 3, 6), ("params/qkv",)),
    "bf16_compute": lambda: _linen(_Dense(jnp.bfloat16), _x(3, 5)),
    "nnx": _nnx,
    "equinox": _equinox,
    "plain": lambda: _raw(lambda w, x: x @ w, (5, 4), _x(3, 5)),
    "transposed": lambda: _raw(lambda w, x: x @ w.T, (4, 5), _x(3, 5)),
    "weight_on_the_left": lambda: _raw(lambda w, x: w @ x, (4, 5), _x(5, 3)),
    "experts": lambda: _raw(lambda w, x: jnp.einsum("ecd,edf->ecf", x, w), (3, 5, 4), _x(3, 2, 5)),
    "experts_routed": lambda: _raw(_routed, (3, 5, 4), _x(3, 5)),
    "experts_ragged": lambda: _raw(_ragged, (3, 5, 4), _x(5, 5)),
    "fori_loop": lambda: _raw(_fori, (3, 5, 5), _x(2, 5)),
    "shared_in_scan": lambda: _raw(_shared_in_scan, (5, 5), _x(2, 5)),
    "cond": lambda: _raw(_branches, (5, 5), _x(2, 5)),
    "custom_vjp": lambda: _raw(lambda w, x: _halved_gradient(x, w), (5, 4), _x(3, 5)),
    "custom_jvp": lambda: _raw(lambda w, x: _custom_forward(x, w), (5, 4), _x(3, 5)),
    "shard_map": lambda: _raw(_sharded, (6, 4), _x(3, 6)),
    "model_mlp": lambda: _linen(MLP(features=(6, 3)), _x(2, 5)),
    "model_lenet": lambda: _linen(LeNet(classes=3), _x(1, 16, 16, 1)),
    "model_llama": lambda: _llama(scan=False),
    "model_llama_scan": lambda: _llama(scan=True),
    "model_gpt2_scan": _gpt2,
    "model_roberta": _roberta,
    "nested_jit": lambda: _raw(_nested_jit, (5, 4), _x(3, 5)),
    "odd_shapes": lambda: _raw(_odd_shapes, (4, 6), _x(4, 2)),
}


def cast(program: Program, dtype: Any) -> Program:
    """The same program with base and input in `dtype`."""
    change = lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    return dataclasses.replace(
        program, base=jax.tree.map(change, program.base), x=change(program.x)
    )
