"""A comparison of methods that nobody ran: rows, items and costs as a sweep leaves them."""

import json

import numpy as np

RATES = (0.01, 0.03)
METHODS = {"LoRA": (3.0, 0.10, 46_240), "Full": (2.9, 0.60, 260_032), "IA3": (3.4, -0.02, 640),
           "Same": (3.0, 0.10, 46_240)}  # fmt: skip
"""{name: (test loss, forgetting, numbers that learn)}, at the better of two rates."""

BASE = {"base/test/loss": 3.5, "base/retention/loss": 2.0}
CONFIG = {"data": {"task": "language"}}
COSTS = {
    "work": "a small model",
    "methods": {
        name: {
            "trainable": 1, "seconds": 0.1, "memory_mib": {"peak": 600.0 + 100 * place},
            "over_floor": {"median": 1.1 + place, "low": 1.0 + place, "high": 1.3 + place},
        }
        for place, name in enumerate(("LoRA", "Full"))
    },
}  # fmt: skip


def rows(number="loss", seeds=(0, 1, 2)):
    """One unit a method, rate and seed; the second rate is worse by 0.2."""
    return [
        {
            "unit": f"adapter={name},lr={lr},seed={seed}", "state": "done", "adapter": name,
            "point": {"adapter": name, "lr": lr, "seed": seed}, "learning_rate": lr, "steps": 9,
            "trainable": learns, **BASE, "validation/loss": loss + 0.2 * (lr > RATES[0]),
            f"test/{number}": value(number, loss) + seed / 100, "retention/loss": 2 + forgotten,
            "retention/forgetting": forgotten,
        }
        for name, (loss, forgotten, learns) in METHODS.items() for lr in RATES for seed in seeds
    ]  # fmt: skip


def value(number, loss):
    """A loss, or an accuracy that is better where the loss is lower."""
    return loss if number == "loss" else 1 - loss / 10


def lines(found, number="loss", items=40, noise=0.05):
    """items.jsonl of the best units; "Same" has LoRA's, item by item."""
    rng = np.random.default_rng(0)
    easy = rng.normal(size=items)
    told = []
    for row in found:
        name = row["point"]["adapter"]
        if row["point"]["lr"] != RATES[0]:
            continue
        own = np.random.default_rng(METHODS[name][2] + row["point"]["seed"]).normal(size=items)
        for of, mean in (("test", row[f"test/{number}"]), ("retention", row["retention/loss"])):
            sums = 10 * (mean + easy + noise * (own - own.mean()) - easy.mean())
            of_number = number if of == "test" else "loss"
            counts = np.full(items, 10)
            line = {"unit": row["unit"], "of": of, "number": of_number}
            told.append(line | {"sums": sums.tolist(), "counts": counts.tolist()})
    return "".join(json.dumps(line) + "\n" for line in told)
