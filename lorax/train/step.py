"""What is one training step? A pure function of (state, base, batch), compiled once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from lorax.train.gradients import Base as Base
from lorax.train.gradients import Delta as Delta
from lorax.train.gradients import Gradients, value_and_grad
from lorax.train.gradients import Loss as Loss
from lorax.train.gradients import Metrics as Metrics

Schedule = Callable[[jax.Array], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that changes in training, as one pytree; the base is not part of it.

    Attributes:
      delta: what learns.
      opt_state: the optimizer's state for `delta` alone.
      step: int32 scalar, updates made so far.
      key: typed PRNG key of the run; step n uses `fold_in(key, n)`, so that a run which is stopped
        and continued draws what an uninterrupted one would have drawn.
    """

    delta: Delta
    opt_state: Any
    step: jax.Array
    key: jax.Array


Step = Callable[[State, Base, Any], tuple[State, Metrics]]


def init_state(delta: Delta, tx: optax.GradientTransformation, key: jax.Array) -> State:
    """The state before the first step.

    `delta` and `key` are copied, because a step donates its state: the caller's own arrays, and
    any array they share with the base, stay valid.
    """
    delta = jax.tree.map(lambda x: jnp.array(x, copy=True), delta)
    return State(delta, tx.init(delta), jnp.zeros((), jnp.int32), jax.random.clone(key))


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    learning_rate: Schedule | None = None,
    *,
    accumulate: int = 1,
    shardings: tuple[Any, Any, Any] | None = None,
) -> Step:
    """One compiled update of A and B.

    Args:
      loss: `loss(delta, base, batch, key) -> (scalar, metrics)`; differentiated with respect to
        `delta` alone, so gradients of the base are never formed.
      tx: the optimizer of `delta`. Clipping and weight decay in it see the delta only.
      learning_rate: the schedule inside `tx`, where there is one, so that it can be reported.
      accumulate: equal parts in which a batch is computed one after the other, to the result of
        the whole; see `lorax.train.gradients.value_and_grad`.
      shardings: where state, base and batch lie on a mesh: a `State` of `NamedSharding`, for the
        others such trees or one for all arrays. `lorax.parallel.layout.Layout.shardings` makes
        them. Arguments must lie so, and so does the state that is returned.

    Returns:
      `step(state, base, batch) -> (state, metrics)`, jitted. The state is donated: use the returned
      one. The base is an argument that is neither donated nor returned, hence never copied and
      never a constant of the program. `metrics` holds those of `loss`, and as float32 scalars:
      `loss`; `l2_grads`, `l2_updates`, `l2_params`, the global norms of gradient, update and
      (before the update) delta; and `learning_rate` where it is known.

    Raises:
      LoraxError: as `lorax.train.gradients.value_and_grad`, also when the step is first called.
    """
    gradients = value_and_grad(loss, accumulate)
    if shardings is not None:
        gradients = _lying(gradients, shardings[0].delta)

    def step(state: State, base: Base, batch: Any) -> tuple[State, Metrics]:
        return updated(state, base, batch, gradients, tx, learning_rate)

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    mesh = jax.tree.leaves(shardings[0])[0].mesh
    results = shardings[0], NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, in_shardings=shardings, out_shardings=results)


def _lying(gradients: Gradients, shardings: Any) -> Gradients:
    """`gradients` computed under the mesh of `shardings`, where the result lies as they say.

    Models say under a mesh how the numbers between layers lie. And the gradient of a factor that is
    whole on every device has to be gathered once, before the optimizer makes several arrays of it.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh

    def on_mesh(delta: Delta, base: Base, batch: Any, key: jax.Array) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            found, grads = gradients(delta, base, batch, key)
        return found, jax.lax.with_sharding_constraint(grads, shardings)

    return on_mesh


def updated(
    state: State,
    base: Base,
    batch: Any,
    gradients: Gradients,
    tx: optax.GradientTransformation,
    learning_rate: Schedule | None = None,
) -> tuple[State, Metrics]:
    """One update, as `make_step` compiles it, for use inside another program.

    Args:
      state, base, batch, tx, learning_rate: as for `make_step` and its result.
      gradients: of `lorax.train.gradients.value_and_grad`.
    """
    key = jax.random.fold_in(state.key, state.step)
    (value, own), grads = gradients(state.delta, base, batch, key)
    updates, opt_state = tx.update(grads, state.opt_state, state.delta)
    norms = {"l2_grads": grads, "l2_updates": updates, "l2_params": state.delta}
    metrics = dict(own) | {"loss": value}
    metrics |= {name: optax.tree.norm(tree) for name, tree in norms.items()}
    if learning_rate is not None:
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.step), jnp.float32)
    delta = optax.apply_updates(state.delta, updates)
    return State(delta, opt_state, state.step + 1, state.key), metrics
