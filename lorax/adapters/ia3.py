"""Is it enough to rescale activations? IA3: keys, values and the feed-forward stream, times 1 + g.

Liu, Tam, Muqeeth, Mohta, Huang, Bansal and Raffel, "Few-Shot Parameter-Efficient Fine-Tuning is
Better and Cheaper than In-Context Learning", 2022, arXiv:2205.05638.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import lora_fields
from lorax.adapters.targets import check_learnt, matrix_roles
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Learnt, Rescaled, Roles
from lorax.core.packed import formed
from lorax.core.where import check_leaf, check_order, check_paths, check_patterns, check_used

KEYS_AND_VALUES = (r".*/(key|value)/kernel",)
FEEDFORWARD = (r".*/down/kernel",)


@dataclasses.dataclass(frozen=True)
class IA3(Adapter):
    """Trains one gain an output of some products and one an input of others: y = (x W0 + b)(1 + g).

    The delta is `{path: Learnt({"gain": g})}`, g (stack..., outputs...) or (stack..., inputs...),
    zero at the start: out or in numbers a matrix. Where outputs are rescaled, so is the leaf `bias`
    beside the kernel, which makes it the activations that are rescaled, as in PEFT.

    Attributes:
      where: regular expressions for kernels whose outputs are rescaled, each fully matched against
        "/"-joined paths: by default keys and values. A fused kernel is rescaled whole, as PEFT does
        GPT-2's.
      feedforward: expressions for kernels whose inputs are: by default the last of each MLP.
      exclude: expressions for leaves to leave out of both.
      dtype: of g; None means float32, float64 for float64 leaves.
    """

    where: tuple[str, ...] = KEYS_AND_VALUES
    feedforward: tuple[str, ...] = FEEDFORWARD
    exclude: tuple[str, ...] = ()
    dtype: str | None = None

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)
        for name in ("feedforward", "exclude"):
            set_field(name, check_patterns(name, getattr(self, name)))
        # none at all is right where inputs are rescaled alone
        bare = "feedforward" if self.feedforward and self.where in ((), []) else "where"
        set_field("where", check_patterns(bare, self.where))
        set_field("dtype", lora_fields.dtype(self.dtype))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """Gains of zeros; nothing is drawn.

        Raises:
          LoraxError: a pattern without a match, one leaf on both sides, or a leaf that has no
            activations of its own to rescale: experts that one product enumerates, a lookup, the
            inputs of a convolution.
          LoraxTypeError: a leaf without floating-point numbers.
        """
        stored = paths.flatten(unprepared(base)[0])
        delta = {}
        for path, side in self._sides(stored).items():
            leaf = stored[path]
            check_leaf(path, leaf, "IA3")
            check_used(path, roles)
            own = matrix_roles(path, leaf, roles, "IA3")
            _check_activations(path, own, side)
            dtype = self.dtype or jnp.promote_types(leaf.dtype, jnp.float32)
            delta[path] = Learnt({"gain": jnp.zeros(_shape(leaf, own, side), dtype)}, own)
        self.leaves(base, delta)
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """W0 (1 + g), and the biases beside, in float32, cast once."""
        return with_leaves(unprepared(base)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The rescaled kernels, and the rescaled biases themselves."""
        base, _ = unprepared(base)
        stored = paths.flatten(base)
        check_order(base, stored, delta)
        sides = self._sides(stored)
        check_paths(delta, sides, stored)
        found: dict[str, Any] = {}
        for path, learnt in delta.items():
            leaf, side = stored[path], sides[path]
            known = isinstance(learnt, Learnt)
            if known:
                learnt.roles.check(path, leaf.shape)
            shape = _shape(leaf, learnt.roles, side) if known else ()
            check_learnt(path, learnt, {"gain": shape}, "IA3")
            gain = learnt["gain"]
            gain = 1 + gain.astype(jnp.promote_types(gain.dtype, jnp.float32))
            found[path] = Rescaled(gain, side, learnt.roles)
            bias = path.rpartition("/")[0] + "/bias"
            if side == "outputs" and bias in stored and bias != path:
                found[bias] = _bias(bias, stored[bias], found[path])
        return found

    def _sides(self, stored: Mapping[str, Any]) -> dict[str, str]:
        """The side of every adapted leaf, in the order of the base."""
        left_out = paths.excluded(self.exclude, stored)
        outputs = _selected("where", self.where, stored)
        inputs = _selected("feedforward", self.feedforward, stored)
        for path in outputs:
            if path in inputs:
                raise LoraxError(
                    f"'{path}' is selected by where={outputs[path]!r} and by feedforward="
                    f"{inputs[path]!r}: expected one side a leaf; make them exclusive"
                )
        sides = dict.fromkeys(outputs, "outputs") | dict.fromkeys(inputs, "inputs")
        found = {path: sides[path] for path in stored if path in sides and path not in left_out}
        if not found:
            raise LoraxError(
                f"no leaf is adapted: exclude={self.exclude!r} leaves none of where={self.where!r} "
                f"and feedforward={self.feedforward!r}; widen them"
            )
        return found


def _selected(name: str, patterns: tuple[str, ...], stored: Mapping[str, Any]) -> dict[str, str]:
    try:
        return paths.select(patterns, stored)
    except LoraxError as error:
        raise LoraxError(
            f"{name} of IA3: {error}; its defaults are names of lorax.models, and {name}=() leaves "
            "this side out"
        ) from None


def _shape(leaf: Any, roles: Roles, side: str) -> tuple[int, ...]:
    return tuple(leaf.shape[axis] for axis in (*roles.stack, *getattr(roles, side)))


def _check_activations(path: str, roles: Roles, side: str) -> None:
    why = ""
    if roles.batched:
        why = "stacks experts, which one product enumerates"
    elif roles.kind == "gather":
        why = "is looked up"
    elif roles.kind == "conv" and side == "inputs":
        why = "is a convolution, whose inputs are seen through a window"
    if why:
        raise LoraxError(
            f"'{path}' {why}: expected a kernel of one product, whose {side} IA3 can rescale; "
            "leave it out with exclude=, or adapt it with LoRA"
        )


def _bias(path: str, bias: Any, kernel: Rescaled) -> jax.Array:
    """`bias` times the gain of the kernel beside it."""
    axes = kernel.axes
    order = sorted(range(len(axes)), key=axes.__getitem__)
    gain = jnp.transpose(kernel.gain, order)
    if tuple(bias.shape) != gain.shape:
        raise LoraxError(
            f"'{path}' has shape {tuple(bias.shape)} but the outputs of the kernel beside it "
            f"{gain.shape}: expected one bias an output, which IA3 rescales too; leave the kernel "
            "out with exclude="
        )
    bias = formed(bias)
    return (bias * gain).astype(bias.dtype)
