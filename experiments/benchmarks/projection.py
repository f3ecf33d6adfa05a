"""What do the projections of an intrinsic-dimension study cost, and the transform under them?

    python -m experiments.benchmarks.projection [--parts=transform,factors,step,packed] [--rounds=9]
        [--torch_python=ENV/bin/python] [--output=projection.json]

transform: the fast Walsh-Hadamard transform and its adjoint beside butterflies, Kronecker einsums
and torch, for which --torch_python names the Python of an environment with torch. factors: the
transform with small matrices of each size. step: a training step in a subspace of 750 numbers over
one that trains all 199,210. packed: 8 projections in one program beside each alone. Prints JSON,
then a Markdown table of what is held to a target.
"""

import contextlib
import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags

from experiments import _memory
from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _projection_step as steps
from experiments.benchmarks import _projection_transform as transform

PARTS = ("transform", "factors", "step", "packed")
FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS), "what is measured")
flags.DEFINE_integer("rounds", 9, "timed rounds, each of one run of every program", 1)
flags.DEFINE_list("bits", ["16", "20", "24"], "log2 of the lengths that are compared")
flags.DEFINE_list("factor_bits", ["16", "18", "20", "24"], "log2 of the lengths for the factors")
flags.DEFINE_list("factors", ["8", "16", "32", "64", "128"], "sizes of the small matrices")
flags.DEFINE_string("torch_python", "", "Python of an environment with torch; empty: no torch")
flags.DEFINE_string("output", None, "also write the JSON to this file")

AT_LEAST = {"butterfly": 1.7, "kronecker_128": 3.5, "torch": 3.0}
"""Times of ours that the others should take."""

AT_MOST = {"sparse": 1.4, "fastfood": 2.5}
"""Steps over the direct step."""


def run(parts: list[str], folder: pathlib.Path) -> dict[str, Any]:
    """Those parts, as one JSON-ready result; files of the torch process are made in `folder`."""
    kept = _memory.keep_freed()
    found: dict[str, Any] = {
        "benchmark": "projection",
        "work": "f32; 784-200-200-10, batch 128, Adam, scans of 50 steps, random data",
        "setting": measure.setting() | {"keeps_freed_memory": kept},
        "rounds": FLAGS.rounds,
    }
    lengths, factor_lengths = (
        [2 ** int(x) for x in values] for values in (FLAGS.bits, FLAGS.factor_bits)
    )
    if "transform" in parts:
        with contextlib.ExitStack() as stack:
            torch = None
            if FLAGS.torch_python:
                torch = stack.enter_context(transform.Torch(FLAGS.torch_python))
            found["torch"] = torch.versions if torch else "not measured: no --torch_python"
            found["transform"] = [
                transform.compared(length, FLAGS.rounds, torch, folder) for length in lengths
            ]
    if "factors" in parts:
        sizes = [int(x) for x in FLAGS.factors]
        found["factors"] = transform.factors(factor_lengths, sizes, FLAGS.rounds)
    if "step" in parts:
        found["step"] = steps.compared(steps.Shape(), FLAGS.rounds)
    if "packed" in parts:
        found["packed"] = steps.packed(steps.Shape(), FLAGS.rounds)
    return found | {"targets": targets(found)}


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure of a result that has a target: {"what", "found", "target", "held"}."""
    checks = []
    for one in found.get("transform", ()):
        for direction in ("forward", "vjp"):
            part = one[direction]
            where = f"{direction}, L = 2^{one['length'].bit_length() - 1}"
            value = part["errors"]["ours"]
            checks.append(_check(f"{where}: error", value, "<=", transform.ERROR))
            for name, least in AT_LEAST.items():
                if name in part["over_ours"]:
                    ratio = part["over_ours"][name]
                    checks.append(_check(f"{where}: {name} over ours", ratio, ">=", least))
    if "step" in found:
        for name, most in AT_MOST.items():
            ratio = found["step"]["over_direct"][name]
            checks.append(_check(f"step: {name} over direct", ratio, "<=", most))
    return checks


def _check(what: str, found: Any, relation: str, target: float) -> dict[str, Any]:
    value = found if isinstance(found, float) else found["median"]
    held = value >= target if relation == ">=" else value <= target
    return {"what": what, "found": found, "target": f"{relation} {target}", "held": held}


def verb(argv: list[str]) -> None:
    """Runs the benchmark, prints its JSON and its table."""
    del argv
    for part in set(FLAGS.parts) - {*PARTS}:
        raise app.UsageError(f"--parts={part}: expected some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        found = run(FLAGS.parts, pathlib.Path(folder))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    print("\n" + measure.table(found["targets"]))
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    app.run(verb)
