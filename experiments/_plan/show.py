"""What does `experiments.inspect --plan` print? The plan of a config, part by part."""

import dataclasses
import math
import re
from typing import Any

import jax

import lorax
from experiments import _cli
from experiments._page_file import load_page
from experiments._plan import compiled, shapes, text
from experiments._preflight import Preflight
from experiments._train import preview
from lorax.analysis.memory import MemoryPlan
from lorax.parallel.mesh import AXES


def show(call: _cli.Call) -> None:
    """Prints the plan of `call.config`: bytes on a device of its mesh, and what a paper claims.

    Raises:
      LoraxError: whatever of the config cannot be, or a mesh that does not fit it.
    """
    config, flags = call.config, call.flags
    _set_mesh(config, str(flags["mesh"]))
    lengths = shapes.sizes(config)
    make = compiled.host_mesh if flags["compile"] else shapes.abstract_mesh
    mesh: Any = make(lengths)  # devices of the host before anything of JAX begins
    pre = preview.plan(config, call.overrides)
    own = shapes.planned(pre, mesh)
    plans = _plans(pre, mesh)
    print(f"Memory of a step of {_batch(pre)} on {text.mesh_line(lengths)}\n")
    print(text.plan_table(plans))
    if claims := getattr(load_page(call.config_name)[0], "claims", None):
        print("\nClaimed and derived\n\n" + text.claims_table(claims(_count(pre.base))))
    if flags["compile"]:
        _compile(own, lengths)


def _plans(pre: Preflight, mesh: Any) -> dict[str, MemoryPlan]:
    """The adapter and full fine-tuning, each with and without rematerialised layers."""
    name, found = type(pre.adapter).__name__, dict[str, MemoryPlan]()
    for label, adapter in ((name, None), ("Full", lorax.Full())):
        if adapter is None or name != "Full":
            for suffix, remat in ((", remat", True), ("", False)):
                if remat and not shapes.layered(pre.model):
                    continue
                found[label + suffix] = shapes.planned(pre, mesh, adapter, remat).memory()
    return found


def _compile(own: shapes.Planned, lengths: Any) -> None:
    native, wide = own.memory(), own.memory(wide=True)
    if not compiled.copies_ahead():
        wide = dataclasses.replace(wide, copies=0, converted=0)
    found = compiled.compiled(own)
    batch = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(own.batch)
    )
    count = math.prod(lengths.values())
    print(
        f"\nThe step as it is configured, compiled for {count} device{'s' * (count > 1)} of this "
        f"host in {found.seconds:.0f} s\n"
    )
    print(text.compiled_table(wide, found, batch))
    print("\n" + text.cpu_note(native, wide))
    counts = ", ".join(f"{number} {kind}" for kind, number in found.collectives.items() if number)
    print(f"\nBetween devices: {counts or 'nothing'}.", end=" ")
    if found.reduced:
        largest = max(found.reduced, key=math.prod)
        print(f"The largest array that is added up over devices is {_times(largest)}.", end=" ")
    wrong = compiled.of_base(found.reduced, own.base)
    print(f"Gradients of the base among them: {', '.join(map(_times, wrong)) or 'none'}.")


def _set_mesh(config: Any, given: str) -> None:
    if not given:
        return
    parts = [re.fullmatch(r"\s*(\w+)=(\d+)\s*", part) for part in given.split(",")]
    lengths = [(part[1], int(part[2])) for part in parts if part]
    right = all(axis in AXES and length for axis, length in lengths)
    if not right or len(lengths) < len(parts) or len(dict(lengths)) < len(lengths):
        raise _cli.UsageError(
            f"--mesh='{given}': expected lengths above 0 of some of {', '.join(AXES)}, each once, "
            "such as data=1,fsdp=64"
        )
    config.mesh.update(dict.fromkeys(AXES, 1) | dict(lengths))


def _batch(pre: Preflight) -> str:
    config, shape = pre.config, pre.batch.inputs.shape
    parts = "" if config.train.accumulate == 1 else f" in {config.train.accumulate} parts"
    length = f" of {shape[1]:,} tokens" if len(shape) == 2 else ""
    return f"{config.train.batch:,} rows{length}{parts}"


def _count(base: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(base))


def _times(shape: Any) -> str:
    return " × ".join(map(str, shape)) or "a number"
