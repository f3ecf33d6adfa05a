"""Where do the arrays of a run lie? On the mesh of `config.mesh`, by the rules of the family."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lorax.core.errors import LoraxError
from lorax.data import source
from lorax.io.hf_config import model_of
from lorax.io.json_file import read_json
from lorax.parallel.layout import Layout, single
from lorax.parallel.mesh import make_mesh
from lorax.parallel.processes import say
from lorax.parallel.rules import specs
from lorax.parallel.tables import RULES


def make_layout(config: Any) -> Layout:
    """The layout of a run over all devices of all processes.

    Where `config.mesh.data` is 0, a single process leaves out devices to which the rows of a batch
    cannot be dealt evenly.

    Args:
      config: of the run.

    Raises:
      LoraxError: a mesh that the devices do not make, or rows that it does not divide.
    """
    part, batches = config.mesh, _batches(config)
    rows = math.gcd(*batches.values())
    devices = jax.devices()
    if not part.data and jax.process_count() == 1:
        devices = devices[: _usable(part, rows, len(devices))]
    try:
        mesh = make_mesh(part.data, part.fsdp, part.tensor, devices)
    except LoraxError as error:
        raise LoraxError(f"config.mesh: {error}") from None
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    wrong = [f"{name}={batch}" for name, batch in batches.items() if batch % parts]
    if wrong:
        raise LoraxError(
            f"config.mesh cuts a batch into {parts}, and {' and '.join(wrong)}: expected multiples "
            f"of {parts}; change data or fsdp of the mesh, or the batch"
        )
    if mesh.size < jax.device_count():
        say(
            f"Using {mesh.size} of {jax.device_count()} devices: "
            f"{' and '.join(f'{name}={batch}' for name, batch in batches.items())} cannot be dealt "
            "evenly to more."
        )
    if mesh.size == 1:
        return single()
    return Layout(mesh, RULES[family(config)], part.replicate_below)


def _batches(config: Any) -> dict[str, int]:
    """Rows of an update, in training and in that of a base before it."""
    found = {"config.train.batch": config.train.batch}
    if config.pretrain.steps and not config.model.source:
        found["config.pretrain.batch"] = config.pretrain.batch
    return found


def _usable(part: Any, rows: int, devices: int) -> int:
    """How many devices a mesh may have whose data axis takes what is left."""
    fixed = part.fsdp * part.tensor
    if fixed < 1 or devices < fixed or rows % max(part.fsdp, 1):
        return devices  # the mesh itself says what is wrong
    return fixed * math.gcd(rows // part.fsdp, devices // fixed)


def family(config: Any) -> str:
    """Which family a model is of, before it is read: that of its files, or what the config says."""
    part = config.model
    place = source.find_or_name(part.source) if part.source else ""
    if not part.source or isinstance(place, str):  # a name on the hub
        return str(part.family)
    if place.is_file():
        return "llama"  # a llama2.c file
    return type(model_of(read_json(place / "config.json"))).__name__.lower()


def placement(layout: Layout) -> Callable[[str, tuple[int, ...]], Any] | None:
    """Where a leaf lies, from its path and shape, as `lorax.io.pretrained.load` asks for it."""
    mesh, rules = layout.mesh, layout.rules
    if mesh is None:
        return None

    def one(path: str, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        leaf = jax.ShapeDtypeStruct(shape, np.float32)
        return jax.sharding.NamedSharding(mesh, specs({path: leaf}, rules, mesh)[path])

    return one


def on(layout: Layout) -> contextlib.AbstractContextManager[Any]:
    """A context in which models know the mesh of a layout."""
    return contextlib.nullcontext() if layout.mesh is None else jax.set_mesh(layout.mesh)


def made(layout: Layout, make: Callable[..., Any], where: Callable[[Any], Any], *args: Any) -> Any:
    """`make(*args)` with every array made where it belongs.

    Args:
      layout: of the run.
      make: a function of arrays, pure.
      where: from the shapes of its result to their shardings.
    """
    if layout.mesh is None:
        return make(*args)
    return jax.jit(make, out_shardings=where(jax.eval_shape(make, *args)))(*args)
