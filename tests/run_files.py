"""Workdirs as training leaves them, for tests that read them; and what a report shows."""

import html.parser
import json
import math
import re

CONFIG = {
    "seed": {"init": 0, "data": 1},
    "model": {"source": "someone/roberta-base", "family": "llama"},
    "adapter": {"adapter": "LoRA", "rank": 8, "alpha": 16.0, "where": ["all-linear"]},
    "data": {"task": "classification", "name": "mrpc", "train": "glue/MRPC"},
    "checkpoint": {"best": "validation/accuracy", "mode": "max"},
}
TRAIN = {"run": "train", "kind": "train"}


def make_run(folder, *, rank=8, seed=0, steps=200, finished=True, nan=None, prefix=()):
    """A workdir as training leaves it; its accuracies are (80 + rank / 10 + seed) %."""
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(CONFIG))
    config["adapter"]["rank"], config["seed"]["init"] = rank, seed
    env = {
        "python": "3.11.9", "packages": {"jax": "0.10.2", "flax": "0.12.8"}, "git": "abc+",
        "devices": ["cpu cpu"] * 2, "command": ["train.py", f"--workdir={folder.name}"],
        "started": ["2026-01-01"],
    }  # fmt: skip
    for name, paper in (("config", config), ("overrides", {"adapter.rank": rank}), ("env", env)):
        (folder / f"{name}.json").write_text(json.dumps(paper))
    records = list(prefix)
    for step in range(10, steps + 1, 10):
        loss = None if step == nan else 0.2 + math.exp(-step / 50) + 0.01 * math.sin(step)
        records.append({
            **TRAIN, "step": step, "loss": loss, "l2_grads": 1.0 + step % 3, "step_time_sec": 0.04,
            "learning_rate": 1e-3 * (1 - step / steps),
        })  # fmt: skip
        if step % 50 == 0:
            best = 0.9 if step == 100 else 0.8 + rank / 1000 + seed / 100
            held_out = {"validation/accuracy": best, "validation/loss": 0.5}
            records.append({"run": "train", "kind": "eval", "step": step, **held_out})
    if finished:
        records.append({
            "run": "train", "kind": "result", "step": steps, "trainable": 1000 * rank,
            "total": 1_234_567, "optimizer_bytes": 8008, "adapter_bytes": 4100,
            "seconds_per_step": 0.0413, "wait_share": 0.003, "test/bleu": 66.5,
            "test/bleu_signature": "nrefs:1|case:mixed", "majority/validation/accuracy": 0.6838,
            "base/validation/accuracy": 0.7, "seconds": 12.0,
        })  # fmt: skip
    write_records(folder, records)
    return folder


def write_records(folder, records):
    """metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def rows(text, title):
    """{first cell: other cells} of the first table below a heading, blanks and bold taken away."""
    lines = text[text.index(title) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip(" *`") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        found[first] = rest
    return found


class Page(html.parser.HTMLParser):
    """Tags, links and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name.endswith(("src", "href"))]

    def handle_data(self, data):
        self.words.append(data)
