"""What does an adapter say of a leaf? Roles of its axes, its factors, or an update of the whole."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lorax.core.errors import LoraxError


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which axes of a leaf are stack, input and output, learnt from how a program uses it.

    Attributes:
      stack: axes that only enumerate independent matrices: scanned layers, experts.
      inputs: axes that a product contracts with the activations, or that a lookup indexes.
      outputs: axes that appear in the result.
      kind: "dot", "conv", "gather" (a lookup), "other" (no product), "unused" or "ambiguous".
      why: for an ambiguous leaf, the uses that disagree.
      batched: those of `stack` that one product enumerates (experts); the layers of a scan are not.
      tied: whether a leaf that is looked up is also contracted the other way round.

    `kind` and what follows it say where the roles come from; equality and hash ignore them.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kind: str = dataclasses.field(default="dot", compare=False)
    why: str = dataclasses.field(default="", compare=False)
    batched: tuple[int, ...] = dataclasses.field(default=(), compare=False)
    tied: bool = dataclasses.field(default=False, compare=False)

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Raises LoraxError unless the three groups are a partition of the axes of `shape`."""
        axes = sorted((*self.stack, *self.inputs, *self.outputs))
        if axes != list(range(len(shape))) or not self.inputs or not self.outputs:
            raise LoraxError(
                f"roles of '{path}' are stack={self.stack}, inputs={self.inputs}, "
                f"outputs={self.outputs}: expected each of its {len(shape)} axes once, with at "
                "least one input and one output; correct the entry in roles="
            )

    def shapes(self, shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A, (stack..., inputs..., rank), and of B, (stack..., rank, outputs...)."""
        stack, inputs, outputs = (
            tuple(shape[axis] for axis in group)
            for group in (self.stack, self.inputs, self.outputs)
        )
        return (*stack, *inputs, rank), (*stack, rank, *outputs)

    def matrix(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The leaf as a batch of matrices: (number of stacked, fan-in, fan-out)."""
        sizes = (
            math.prod(shape[axis] for axis in group)
            for group in (self.stack, self.inputs, self.outputs)
        )
        return tuple(sizes)  # type: ignore[return-value]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """A and B of one leaf: the part of a delta that learns. A pytree of exactly two arrays.

    Attributes:
      A: (stack..., inputs..., rank).
      B: (stack..., rank, outputs...).
      roles: how the axes of A and B lie in the leaf; static, so it is part of the tree structure
        and travels through `jax.tree.map`, gradients and optimizer state.
    """

    A: jax.Array
    B: jax.Array
    roles: Roles = dataclasses.field(metadata={"static": True})

    @property
    def rank(self) -> int:
        """The length of the axis that A and B share."""
        return self.A.shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learnt:
    """What learns of one leaf where that is not a pair A, B: arrays by name. A pytree.

    Attributes:
      arrays: by the name that the adapter gives them.
      roles: of the leaf, static as those of `Factors`.
    """

    arrays: Mapping[str, jax.Array]
    roles: Roles = dataclasses.field(metadata={"static": True})

    def __getitem__(self, name: str) -> jax.Array:
        return self.arrays[name]


@dataclasses.dataclass(frozen=True)
class LowRank:
    """What an adapter says of one leaf: W0 + scale · ((A0 + A) (B0 + B) - A0 B0).

    Attributes:
      factors: A and B.
      scale: a number, or a traced scalar when many adapters run at once.
      offset: A0 and B0, for initialisations that start from a part of W0; None means zero, and
        the update is scale · A B.
      dropout: rate on the input of A; traced where the scale is.
    """

    factors: Factors
    scale: Any
    offset: Factors | None = None
    dropout: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """What an adapter says of a leaf whose whole ΔW is formed: W0 + update.

    Attributes:
      update: ΔW in the shape of the leaf, in float32 or wider.
      why: what keeps it from a factored form, which makes it a fallback that reports name. Empty
        where the numbers that learn are shared by several leaves, so that none is a leaf's own.
    """

    update: jax.Array
    why: str = ""


SIDES = ("inputs", "outputs")


@dataclasses.dataclass(frozen=True)
class Rescaled:
    """What an adapter says of a leaf whose rows or columns it rescales: (W0 + update) · gain.

    Attributes:
      gain: (stack..., inputs...) or (stack..., outputs...), by `side`; in float32 or wider.
      side: of `SIDES`.
      roles: of the leaf.
      update: low-rank, or None for none.
    """

    gain: jax.Array
    side: str
    roles: Roles
    update: LowRank | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the leaf that `gain` has, in its order."""
        return (*self.roles.stack, *getattr(self.roles, self.side))
