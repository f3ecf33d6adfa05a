"""Is LoRA training as fast and as small as it can be, and how do peers do on the same work?

    python -m experiments.benchmarks.peers [--parts=step,head,memory] [--families=llama,gpt2]
        [--torch_python=ENV/bin/python] [--dtype=bfloat16] [--rounds=9] [--output=peers.json]

step: a training step of our LoRA beside the least it could take, our full fine-tuning, qwix (pip
install 'lorax-flax[quant]'), the plain formula, and peft in torch, eager and compiled, for which
--torch_python names the Python of an environment with torch, transformers and peft. Losses must
agree before anything is timed. head: the loss of a frozen head beside two products. memory: bytes
of the whole compiled step beside a formula. Prints JSON, then Markdown tables. On a GPU:

    --dtype=bfloat16 --dim=2048 --layers=16 --heads=16 --hidden=8192 --batch=8 --length=2048
        --chunk=1024 --head_tokens=16384 --head_chunk=512
"""

import importlib.util
import json
import os
import pathlib
import tempfile
from typing import Any

import jax
from absl import app, flags

from experiments import _memory
from experiments.benchmarks import _measure as measure
from experiments.benchmarks import _peers_head as head
from experiments.benchmarks import _peers_memory as memory
from experiments.benchmarks import _peers_step as step
from experiments.benchmarks._peers_verdicts import table, verdicts
from experiments.benchmarks._peers_work import FAMILIES, TARGETS, Work

PARTS = ("step", "head", "memory")
FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS), "what is measured")
flags.DEFINE_list("families", list(FAMILIES), "shapes of models")
flags.DEFINE_enum("targets", "all-linear", list(TARGETS), "what is adapted; qv is for llama alone")
flags.DEFINE_integer("rounds", 9, "timed rounds, each of one step of every program", 1)
flags.DEFINE_string("torch_python", "", "Python of an environment with torch and peft")
flags.DEFINE_string("output", None, "also write the JSON to this file")
flags.DEFINE_enum("dtype", "float32", list(step.GATES), "of weights and activations")
for name in ("dim", "layers", "heads", "hidden", "vocab", "batch", "length", "rank", "chunk"):
    flags.DEFINE_integer(name, getattr(Work, name), f"{name} of the model or its training", 1)
flags.DEFINE_integer("head_tokens", 1024, "tokens of the part head", 1)
flags.DEFINE_integer("head_chunk", 32, "tokens whose logits exist at once in the part head", 1)
flags.DEFINE_list("head_vocabs", ["32768", "50257"], "vocabularies of the part head")


def run(parts: list[str], folder: pathlib.Path) -> dict[str, Any]:
    """Those parts, as one JSON-ready result; files of the torch process are made in `folder`."""
    kept = _memory.keep_freed()
    missing = [] if importlib.util.find_spec("qwix") else ["qwix"]
    found: dict[str, Any] = {
        "benchmark": "peers",
        "setting": measure.setting(*(["qwix"] if not missing else []))
        | {"keeps_freed_memory": kept, "ends_with_load": None},
        "rounds": FLAGS.rounds,
        "not_measured": missing + ([] if FLAGS.torch_python else ["torch"]),
        "flop_convention": "4 N a token: forward, and backward to activations alone",
    }
    works = [_work(family) for family in FLAGS.families]
    chosen = lambda names: [name for name in names if name not in missing]
    for part in parts:
        folders = (_made(folder / part / work.family) for work in works)
        if part == "step":
            found[part] = [
                step.compared(work, FLAGS.rounds, chosen(step.JAX), FLAGS.torch_python, own)
                for work, own in zip(works, folders, strict=True)
            ]
        elif part == "head":
            found[part] = [
                head.compared(
                    FLAGS.head_tokens, FLAGS.dim, int(vocab), FLAGS.head_chunk, FLAGS.dtype,
                    FLAGS.rounds,
                )
                for vocab in FLAGS.head_vocabs
            ]  # fmt: skip
        else:
            found[part] = [
                memory.compared(work, chosen(memory.PROGRAMS), FLAGS.torch_python, own)
                for work, own in zip(works, folders, strict=True)
            ]
    found["setting"]["ends_with_load"] = round(os.getloadavg()[0], 2)
    return found | {"targets": verdicts(found, jax.default_backend())}


def _work(family: str) -> Work:
    names = "dim", "layers", "heads", "hidden", "vocab", "batch", "length", "rank", "chunk"
    sizes = {name: getattr(FLAGS, name) for name in names}
    return Work(family=family, targets=FLAGS.targets, dtype=FLAGS.dtype, **sizes)


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True)
    return folder


def verb(argv: list[str]) -> None:
    """Runs the benchmark, prints its JSON and its tables."""
    del argv
    for name, choices in (("parts", PARTS), ("families", FAMILIES)):
        for one in set(getattr(FLAGS, name)) - {*choices}:
            raise app.UsageError(f"--{name}={one}: expected some of {', '.join(choices)}")
    if FLAGS.targets == "qv" and "gpt2" in FLAGS.families:
        raise app.UsageError("--targets=qv: GPT-2 has q, k, v in one matrix; add --families=llama")
    # memory of a GPU is shared with the process of torch
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with tempfile.TemporaryDirectory() as folder:
        found = run(FLAGS.parts, pathlib.Path(folder))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    print("\n" + table(found))
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    app.run(verb)
