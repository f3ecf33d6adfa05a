"""How do a model and an adapter look in a terminal? Tables of sizes, ranks and spectra."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments._table import markdown
from lorax.adapters.bitfit import BitFit
from lorax.adapters.full import Full
from lorax.adapters.lora import LoRA
from lorax.analysis.spectra import Spectrum, spectra
from lorax.core import paths
from lorax.core.adapter import Adapter, Chain, Delta, low_rank_leaves
from lorax.core.leaf import Factors
from lorax.io.form import named_arrays

HEAD = ("leaf", "rank", "scale", "‖ΔW‖", "‖ΔW‖/‖W‖", "stable", "effective", "numerical")


def model_table(loaded: Any) -> str:
    """Configuration and parameters of a `Pretrained`, one row a kind of leaf."""
    leaves = paths.flatten(loaded.base)
    kinds: dict[str, list[Any]] = {}
    for path, leaf in leaves.items():
        kinds.setdefault(_without_layer(path), []).append(leaf)
    rows = [("leaf", "count", "shape", "dtype", "parameters")]
    for kind, found in kinds.items():
        shape = " × ".join(map(str, found[0].shape))
        count = sum(leaf.size for leaf in found)
        rows.append((kind, str(len(found)), shape, str(found[0].dtype), f"{count:,}"))
    total = sum(leaf.size for leaf in leaves.values())
    size = sum(leaf.nbytes for leaf in leaves.values())
    fields = dataclasses.asdict(loaded.model.config)
    config = ", ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    name = type(loaded.model).__name__
    where = f" at commit {loaded.commit}" if getattr(loaded, "commit", None) else ""
    return (
        f"{name}{where}: {total:,} parameters, {size / 2**20:,.1f} MiB\n{config}\n\n"
        f"{markdown(rows)}"
    )


def adapter_table(adapter: Adapter, delta: Delta, base: Any = None) -> str:
    """What an adapter is and what it learnt, one row a leaf; with a base, relative to it too."""
    trained = sum(leaf.size for leaf in jax.tree.leaves(delta))
    lines = [str(adapter), f"{trained:,} trained numbers\n"]
    stored = {} if base is None else paths.flatten(base)
    members = adapter.members if isinstance(adapter, Chain) else (adapter,)
    factored = any(isinstance(member, LoRA) for member in members)
    if base is not None:
        factored = bool(low_rank_leaves(adapter.leaves(base, delta)))
    found = spectra(adapter, delta, base) if factored else {}
    rows = [HEAD, *(_row(p, s, stored.get(p), n) for p, s in found.items() for n in _layers(s))]
    rest = [
        (f"{name} ({' × '.join(map(str, array.shape))})", rank, "", "", "", "", "", "")
        for name, rank, array in _others(adapter, delta)
        if name.rpartition("/")[0] not in found
    ]
    lines.append(markdown([*rows, *rest]))
    return "\n".join(lines)


def _layers(spectrum: Spectrum) -> range:
    return range(len(spectrum.values))


def _row(path: str, spectrum: Spectrum, leaf: Any, layer: int) -> tuple[str, ...]:
    stacked = len(spectrum.values) > 1
    share = "-"
    if leaf is not None:
        weights = np.asarray(leaf[layer] if stacked else leaf, np.float32)
        share = f"{spectrum.frobenius[layer] / max(float(np.linalg.norm(weights)), 1e-30):.4f}"
    return (
        f"{path}[{layer}]" if stacked else path,
        str(spectrum.rank),
        f"{spectrum.scale:g}",
        f"{spectrum.frobenius[layer]:.4g}",
        share,
        f"{spectrum.stable_rank[layer]:.2f}",
        f"{spectrum.effective_rank[layer]:.2f}",
        str(int(spectrum.numerical_rank[layer])),
    )


def _others(adapter: Adapter, delta: Delta) -> list[tuple[str, str, Any]]:
    """What learnt beside LoRA's factors: name, "full" for a whole leaf or "", and the array."""
    if isinstance(adapter, Chain):
        parts = zip(adapter.members, delta, strict=True)
        return [row for member, part in parts for row in _others(member, part)]
    rest = {path: leaf for path, leaf in delta.items() if not isinstance(leaf, Factors)}
    whole = isinstance(adapter, Full | BitFit)
    return [(name, "full" if whole else "", x) for name, x in named_arrays(rest).items()]


def _without_layer(path: str) -> str:
    """`params/layer_3/mlp/up/kernel` as `params/layer_*/mlp/up/kernel`."""
    parts = path.split("/")
    return "/".join("layer_*" if part.startswith("layer_") else part for part in parts)
