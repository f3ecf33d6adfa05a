"""What does the compiler say? The real step, compiled for devices that the host pretends to have.

Arguments are shapes: no weight is allocated.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments._plan.shapes import Planned
from lorax.core import paths
from lorax.core.adapter import unprepared
from lorax.core.errors import LoraxError
from lorax.core.packed import is_packed
from lorax.parallel.mesh import make_mesh

_REDUCED = re.compile(r"= \(?(.*?)\)? (all-reduce|reduce-scatter)(?:-start)?\(")
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """`memory_analysis()` of a step, in bytes on each device, and what crosses between devices.

    Attributes:
      arguments, outputs, aliases, temporaries: as the compiler counts them.
      seconds: that lowering and compiling took.
      reduced: shapes that are added up over devices, by all-reduce or reduce-scatter.
      collectives: how many of each kind stand in the compiled text.
    """

    arguments: int
    outputs: int
    aliases: int
    temporaries: int
    seconds: float
    reduced: Sequence[tuple[int, ...]]
    collectives: Mapping[str, int]

    @property
    def total(self) -> int:
        """Arguments + outputs - aliases + temporaries."""
        return self.arguments + self.outputs - self.aliases + self.temporaries


def host_mesh(lengths: Mapping[str, int]) -> jax.sharding.Mesh:
    """A mesh of CPU devices, as many as it takes.

    Raises:
      LoraxError: JAX has begun in this process, with fewer devices.
    """
    count = math.prod(lengths.values())
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # it has begun already: those there are have to do
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise LoraxError(
            f"{count} CPU devices are needed to compile and JAX has begun with {len(devices)}: "
            "expected a process of its own; run python -m experiments.inspect --plan --compile"
        )
    return make_mesh(**lengths, devices=devices[:count])


def compiled(planned: Planned) -> Compiled:
    """Lowers and compiles the step of a plan on a mesh of devices."""
    began = time.monotonic()
    step: Any = planned.step()  # jitted
    made = step.lower(planned.state, planned.base, planned.batch).compile()
    seconds, found, text = time.monotonic() - began, made.memory_analysis(), made.as_text()
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    counts = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds}
    return Compiled(
        found.argument_size_in_bytes, found.output_size_in_bytes, found.alias_size_in_bytes,
        found.temp_size_in_bytes, seconds, list(_reduced(text)), counts,
    )  # fmt: skip


def copies_ahead() -> bool:
    """Whether XLA copies weights in 16 bits to 32 before a loop that reads them one by one.

    It does for CPUs in jaxlib 0.10, and no more in 0.12: tried on a small loop.
    """
    weights = jax.ShapeDtypeStruct((16, 128, 128), jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 128), jnp.bfloat16)
    loop = jax.jit(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0])
    found = loop.lower(x, weights).compile().memory_analysis()
    return found.temp_size_in_bytes >= 4 * math.prod(weights.shape)


def of_base(reduced: Iterable[Sequence[int]], base: Any) -> list[tuple[int, ...]]:
    """The `reduced` that may be gradients of a frozen matrix: shaped as it is, or a layer of it,
    whole or as one device has it."""
    shapes = set()
    for leaf in paths.flatten(unprepared(base)[0]).values():
        stored = leaf.qvalue if is_packed(leaf) else leaf  # scales are no matrices
        for shape in (stored.shape, stored.sharding.shard_shape(stored.shape)):
            shapes |= {tuple(shape), tuple(shape[1:])}
    matrices = {_plain(shape) for shape in shapes if len(_plain(shape)) > 1}
    return [tuple(shape) for shape in reduced if _plain(shape) in matrices]


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(length for length in shape if length > 1)


def _reduced(text: str) -> Iterable[tuple[int, ...]]:
    for match in _REDUCED.finditer(text):
        for shape in _SHAPE.findall(match[1]):
            yield tuple(int(length) for length in shape.split(",") if length)
