"""How long does peft's LoRA take for a training step in torch, eager and compiled?

    python experiments/benchmarks/_peers_torch.py FOLDER THREADS

Run by `experiments.benchmarks.peers` in an environment of its own that has torch, transformers and
peft, and kept alive, so that its steps take turns with those of the other process. FOLDER has
model/ and adapter/ in the forms of transformers and peft, batch.npz with inputs and targets (B, T),
and work.json. Reads one JSON object a line and answers each with one: {"start": NAME} makes the
model "eager" or "compiled", {"step": NAME, "count": N} trains it and tells the losses, {"peak": 1}
tells the most memory that was taken since then, in bytes (on the CPU, on Linux).
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

Step = Callable[[], Any]


def start(folder: pathlib.Path, work: dict[str, Any], compiled: bool) -> Step:
    """A training step of the adapter on the model of `folder`; it returns the loss."""
    import numpy as np
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    device = _device()
    with np.load(folder / "batch.npz") as arrays:
        inputs, targets = (
            torch.from_numpy(arrays[name]).long().to(device) for name in ("inputs", "targets")
        )
    base = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=getattr(torch, work["dtype"])
    )
    model = peft.PeftModel.from_pretrained(base, str(folder / "adapter"), is_trainable=True)
    model = model.to(device).train()
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=work["rate"], weight_decay=0.0, fused=True)

    def loss_of(inputs: Any, targets: Any) -> Any:
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits.float(), targets.flatten())

    run = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step() -> Any:
        loss = run(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def serve(folder: pathlib.Path, threads: int) -> None:
    """Answers the questions of stdin until it ends; the first line tells of versions."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(threads)
    work = json.loads((folder / "work.json").read_text("utf-8"))
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    _answer({"versions": versions, "device": _device(), "threads": torch.get_num_threads()})
    before = _peak()
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            name = question["start"]
            began = time.perf_counter()
            steps[name] = start(folder, work, name == "compiled")
            _answer({"seconds": time.perf_counter() - began})
        elif "step" in question:
            losses = [steps[question["step"]]() for _ in range(question["count"])]
            _answer({"losses": [float(loss) for loss in losses]})  # waits for the device too
        else:
            _answer({"bytes": _peak() - before})


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _peak() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # not getrusage, whose maximum begins at the size of the process that started this one
    status = pathlib.Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
