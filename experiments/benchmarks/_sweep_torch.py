"""How long do torch and peft take for the units of a sweep, one after another in a warm process?

    python experiments/benchmarks/_sweep_torch.py FOLDER

Run by `experiments.benchmarks.sweep`, in an environment of its own that has torch, transformers and
peft. FOLDER has work.json; batches.npz with inputs and targets, each (steps, B, T); and model/, in
the form of transformers. Imports happen once, the model is read once. Prints JSON as the last line:
the loss of the bare model on the first batch, seconds of every unit, the last training loss.
"""

import json
import pathlib
import sys
import time
from importlib.metadata import version
from typing import Any

START = time.perf_counter()


def run(folder: pathlib.Path) -> dict[str, Any]:
    """The units of <folder>/work.json: {"units": [{"rank", "rate"}], "alpha", "clip", ...}."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    work = json.loads((folder / "work.json").read_text("utf-8"))
    torch.set_num_threads(work["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(folder / "batches.npz") as arrays:
        names = "inputs", "targets"
        inputs, targets = (torch.from_numpy(arrays[n]).long().to(device) for n in names)
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).to(device)
    with torch.no_grad():
        bare = float(_loss(base, inputs[0], targets[0]))
    ready = time.perf_counter() - START
    seconds, losses = [], []
    for unit in work["units"]:
        start = time.perf_counter()
        losses.append(_train(base, unit, work, inputs, targets))
        seconds.append(time.perf_counter() - start)
    return {
        "bare_loss": bare, "seconds_until_ready": ready, "unit_seconds": seconds, "losses": losses,
        "device": device,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }  # fmt: skip


def _loss(model: Any, inputs: Any, targets: Any) -> Any:
    import torch

    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _train(base: Any, unit: dict[str, Any], work: dict[str, Any], inputs: Any, targets: Any) -> Any:
    """Trains one unit on the base, leaves the base as it was, and returns the last loss."""
    import peft
    import torch

    config = peft.LoraConfig(
        r=unit["rank"], lora_alpha=work["alpha"], target_modules=work["targets"]
    )
    model = peft.get_peft_model(base, config).train()
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=unit["rate"], weight_decay=0.0, fused=True)
    for step, factor in enumerate(work["schedule"]):
        for group in optimizer.param_groups:
            group["lr"] = unit["rate"] * factor
        loss = _loss(model, inputs[step], targets[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, work["clip"])
        optimizer.step()
        optimizer.zero_grad()
    model.unload()
    return float(loss.detach())


if __name__ == "__main__":
    print(json.dumps(run(pathlib.Path(sys.argv[1]))))
