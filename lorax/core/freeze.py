"""How does someone with one tree keep the base frozen? An optax transformation around another."""

from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError, LoraxTypeError


def freeze_base(tx: Any) -> Any:
    """`tx` on `tree["delta"]`; zero updates and no state for `tree["base"]`.

    For those who keep `{"base": ..., "delta": ...}` in one tree; with two trees nothing is needed.
    Unlike `optax.masked`, which hands leaves outside its mask their raw gradient as the update,
    and unlike a mask after clipping, gradients of the base reach neither weights nor norms.

    Args:
      tx: an `optax.GradientTransformation`; clipping and weight decay belong inside it.

    Returns:
      A transformation of the same type, whose state is `tx`'s state for the delta alone.

    Raises:
      LoraxTypeError: `tx` has no init and update.
      LoraxError: from its functions, where the tree is not of that form.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise LoraxTypeError(
            f"tx is a {type(tx).__name__}: expected an optax.GradientTransformation, such as "
            "optax.adamw(1e-3)"
        )

    def init(params: Any) -> Any:
        return tx.init(_delta(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        own = None if params is None else _delta(params)
        new, state = tx.update(_delta(updates), state, own, **extra)
        # x + 0.0 turns -0.0 into 0.0, x + -0.0 leaves every bit
        still = jax.tree.map(lambda gradient: -jnp.zeros_like(gradient), updates["base"])
        return {"base": still, "delta": new}, state

    return type(tx)(init, update)


def _delta(tree: Any) -> Any:
    if not isinstance(tree, dict) or set(tree) != {"base", "delta"}:
        keys = sorted(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise LoraxError(
            f"freeze_base got a tree with {keys}: expected exactly the keys 'base' and 'delta'"
        )
    return tree["delta"]
