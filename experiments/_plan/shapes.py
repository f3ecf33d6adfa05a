"""What is planned? The step of a config as shapes that know where they lie on a mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

import lorax
from experiments._preflight import Preflight
from experiments._train.method import make_loss
from experiments._train.model import IMAGES, TRANSFORMERS, program
from lorax.analysis.memory import MemoryPlan, memory_plan
from lorax.core.errors import LoraxError
from lorax.io.assemble import with_fields
from lorax.parallel.layout import Layout
from lorax.parallel.mesh import AXES, ROWS
from lorax.parallel.rules import ways
from lorax.parallel.tables import RULES
from lorax.train.step import State, Step, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Planned:
    """One step of training; every leaf is a `jax.ShapeDtypeStruct` with its sharding.

    Attributes:
      preflight: of the config, with the model, the optimizer and the whole rows.
      adapter, loss: of this step.
      state, base, batch: the arguments of the step; `part` is what is computed at once.
      shardings: of state, base and batch, as `make_step` takes them.
    """

    preflight: Preflight
    adapter: lorax.Adapter
    loss: Callable[..., Any]
    state: State
    base: Any
    batch: Any
    part: Any
    shardings: tuple[Any, Any, Any]

    def memory(self, wide: bool = False) -> MemoryPlan:
        """Bytes on one device; `wide` as `lorax.analysis.memory.memory_plan` takes it."""
        pre, state = self.preflight, self.state
        return memory_plan(
            self.loss, self.adapter, self.base, state.delta, self.part, pre.tx,
            logits=pre.logits, accumulate=pre.config.train.accumulate,
            opt_state=state.opt_state, wide=wide,
        )  # fmt: skip

    def step(self) -> Step:
        """The real step, jitted for these shardings."""
        accumulate = self.preflight.config.train.accumulate
        return make_step(
            self.loss, self.preflight.tx, accumulate=accumulate, shardings=self.shardings
        )


def sizes(config: Any) -> Mapping[str, int]:
    """The axes of `config.mesh`; an axis of 0, what is left, counts 1: a plan has no devices.

    Raises:
      LoraxError: a length below 0.
    """
    for axis in AXES:
        if config.mesh[axis] < 0:
            raise LoraxError(
                f"config.mesh.{axis} is {config.mesh[axis]}: expected a number of devices"
            )
    return {axis: config.mesh[axis] or 1 for axis in AXES}


def abstract_mesh(lengths: Mapping[str, int]) -> AbstractMesh:
    """A mesh of devices that nobody needs to have."""
    kinds = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(tuple(lengths.values()), tuple(lengths), axis_types=kinds)


def planned(
    pre: Preflight, mesh: Any, adapter: lorax.Adapter | None = None, remat: bool | None = None
) -> Planned:
    """The step of a config on a mesh, or that of another adapter, or with and without remat.

    Args:
      pre: its preflight.
      mesh: of `abstract_mesh`, or of devices.
      adapter: in place of its own; a quantised base is then the matrices that it stands for.
      remat: in place of what the config says.

    Raises:
      LoraxError: rows that the mesh does not divide; what does not divide of the base.
    """
    config, fn, base = pre.config, pre.fn, pre.base
    if remat is not None and layered(pre.model):
        fn = program(with_fields(pre.model, remat=remat))
    if adapter is not None:
        base = jax.eval_shape(lorax.dequantize, base)
    adapter = adapter or pre.adapter
    _check_rows(pre, mesh)
    apply = lorax.adapt(fn, adapter, on_fallback="allow")
    delta = jax.eval_shape(lambda b: apply.init(jax.random.key(0), b, *pre.args), base)
    base = jax.eval_shape(adapter.prepare, base, delta)
    state = jax.eval_shape(lambda d: init_state(d, pre.tx, jax.random.key(0)), delta)
    layout = Layout(mesh, RULES[_family(pre.model)], config.mesh.replicate_below)
    found = layout.shardings(state, base)
    assert found is not None
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((config.train.batch, *x.shape[1:]), x.dtype), pre.batch
    )
    return Planned(
        pre, adapter, make_loss(config, fn, adapter), _put(state, found[0]), _put(base, found[1]),
        _put(batch, found[2]), _put(pre.batch, found[2]), found,
    )  # fmt: skip


def layered(model: Any) -> bool:
    """Whether a model has layers that can be computed again."""
    return _family(model) not in IMAGES


def _family(model: Any) -> str:
    kinds = {name: kind for name, (kind, _) in TRANSFORMERS.items()} | IMAGES
    return next(name for name, kind in kinds.items() if isinstance(model, kind))


def _check_rows(pre: Preflight, mesh: Any) -> None:
    rows, parts = pre.batch.inputs.shape[0], ways(ROWS, mesh)
    if rows % parts:
        named = " × ".join(f"{axis}={mesh.shape[axis]}" for axis in ROWS)
        accumulate = pre.config.train.accumulate
        what = f"{rows} rows" if accumulate == 1 else f"{rows} rows of each of {accumulate} parts"
        raise LoraxError(
            f"a batch has {what}, which {named} does not divide: expected a multiple of {parts}; "
            f"set --config.train.batch={-(-rows // parts) * parts * accumulate}, or another mesh"
        )


def _put(tree: Any, shardings: Any) -> Any:
    one = lambda x, s: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=s)
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda x: one(x, shardings), tree)
    return jax.tree.map(one, tree, shardings)
