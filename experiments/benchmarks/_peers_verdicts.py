"""Which figures of the comparison with peers are held to a target, and which of them hold?"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _measure as measure

STEP = {
    "cpu": {"floor": 1.08, "torch_eager": 0.5, "qwix": 1 / 1.15},
    "gpu": {"floor": 1.05, "torch_eager": 1 / 1.5, "torch_compiled": 1 / 1.1, "qwix": 1 / 1.15},
}
"""What our step may be of others, by platform: at most."""

HEAD_OVER_PRODUCTS, HEAD_OVER_OPTAX, MFU = 1.10, 1.03, 0.5
HEAD_TEMP = {"cpu": 1 / 8, "gpu": 1 / 16}
MEMORY_OVER_FORMULA, FULL_OVER_OURS = {"cpu": 1.10, "gpu": 1.15}, 2.0


def verdicts(found: dict[str, Any], platform: str) -> list[dict[str, Any]]:
    """Every figure of a result that has a target: {"what", "found", "target", "held"}."""
    platform = "cpu" if platform == "cpu" else "gpu"
    checks: list[dict[str, Any]] = []
    for one in found.get("step", ()):
        checks += _of_step(one, platform)
    for one in found.get("head", ()):
        where = f"head, V {one['vocab']:,}"
        checks += [
            _check(
                f"{where}: over two products", one["over_floor"]["ours"], "<=", HEAD_OVER_PRODUCTS
            ),
            _check(f"{where}: over optax", one["over_optax"]["ours"], "<=", HEAD_OVER_OPTAX),
            _check(
                f"{where}: temporary bytes over all logits", one["temp_over_logits"]["ours"],
                "<=", HEAD_TEMP[platform],
            ),
        ]  # fmt: skip
    for one in found.get("memory", ()):
        checks += _of_memory(one, platform)
    return checks


def _of_step(one: dict[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    family = one["work"].split(" shape")[0]
    for ours in ("ours", "ours_blocks"):
        where = f"step, {family}, {ours}"
        yield _check(f"{where} over floor", one["over_floor"][ours], "<=", STEP[platform]["floor"])
        for name, most in STEP[platform].items():
            if name in one[f"over_{ours}"] and name != "floor":
                ratio = _inverse(one[f"over_{ours}"][name])
                yield _check(f"{where} over {name}", ratio, "<=", most)
        if platform == "gpu":
            yield _check(f"{where}: 4N-MFU of the ceiling", one["mfu_4n"][ours], ">=", MFU)


def _of_memory(one: dict[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    family, part = one["work"].split(" shape")[0], one["remat_full"]
    most, where = MEMORY_OVER_FORMULA[platform], f"memory, {family}, remat full"
    for formula in ("over_formula", "over_formula_with_a_layer"):
        what = f"{where}: {formula.replace('_', ' ')}"
        yield _check(what, part[formula]["ours_blocks"], "<=", most)
    for name in ("full_blocks", "full"):
        ratio = part["over_ours_blocks"][name]
        yield _check(f"{where}: {name} over ours_blocks", ratio, ">=", FULL_OVER_OURS)


def _inverse(ratio: dict[str, float]) -> dict[str, float]:
    """Of a ratio taken round by round."""
    turned = {"median": "median", "low": "high", "high": "low"}
    return {name: round(1 / ratio[other], 3) for name, other in turned.items()}


def _check(what: str, found: Any, relation: str, target: float) -> dict[str, Any]:
    value = found if isinstance(found, float) else found["median"]
    held = value >= target if relation == ">=" else value <= target
    return {"what": what, "found": found, "target": f"{relation} {target:.3g}", "held": held}


def table(found: dict[str, Any]) -> str:
    """Every step, and the checks, in Markdown."""
    lines: list[str] = []
    for one in found.get("step", ()):
        lines += [f"{one['work']}", "", "| step | seconds | tokens/s | 4N-MFU | over floor |"]
        lines += ["|---|---|---|---|---|"]
        for name, seconds in one["seconds"].items():
            ratio = one["over_floor"].get(name, {"median": 1.0})["median"]
            cells = name, seconds, one["tokens_a_second"][name], one["mfu_4n"][name], ratio
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    lines.append(measure.table(found["targets"]))
    return "\n".join(lines)
