"""How are programs timed against each other on a shared, noisy machine?

In turn, A B C A B C ..., in one process, after a warm-up: what slows the machine down slows all of
them, and the ratio is taken within each round.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import jax


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, the runs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Median, lowest and highest of the ratio of two runs, taken round by round."""
    pairs = zip(seconds[above], seconds[below], strict=True)
    values = [a / b for a, b in pairs]
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def table(checks: list[dict[str, Any]]) -> str:
    """Figures held to a target, {"what", "found", "target", "held"} each, in Markdown."""
    lines = ["| what | median | lowest to highest | target | held |", "|---|---|---|---|---|"]
    for check in checks:
        value = check["found"]
        spread = "" if isinstance(value, float) else f"{value['low']} to {value['high']}"
        middle = value if isinstance(value, float) else value["median"]
        held = "yes" if check["held"] else "**no**"
        lines.append(f"| {check['what']} | {middle} | {spread} | {check['target']} | {held} |")
    return "\n".join(lines)


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory(compiled: Any) -> dict[str, float]:
    """MiB of a compiled program by kind; `peak` is argument + output - alias + temporary."""
    sizes = compiled.memory_analysis()
    mib = {
        kind: getattr(sizes, f"{kind}_size_in_bytes") / 2**20
        for kind in ("argument", "output", "alias", "temp")
    }
    mib["peak"] = mib["argument"] + mib["output"] - mib["alias"] + mib["temp"]
    return {kind: round(value, 1) for kind, value in mib.items()}


def setting(*others: str) -> dict[str, Any]:
    """Device, cores, load and versions, also of `others`, for the head of a result."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", *others)
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.devices()[0].platform,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }
