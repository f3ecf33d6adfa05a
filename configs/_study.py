"""What does a study of intrinsic dimension measure? The fields of `config.study`, and its pages.

A page for `experiments.intrinsic` begins with `defaults()` of configs/_page.py and goes on with

    config.study = study()
    config.adapter = subspace(750)
    authors(config)                     # trained as Li et al. did, if so

so that every field can be overridden: `--config.study.repeats=5`. Here d is how many numbers learn,
and a baseline is what direct training reaches, of all D numbers.
"""

from typing import Any

from ml_collections import ConfigDict

from lorax.core.errors import LoraxError, check_choice

PROJECTIONS = ("sparse", "fastfood", "dense")
SEEDS = ("projection", "base", "data")


def study(**fields: Any) -> ConfigDict:
    """Every field of a study with its value; `fields` are those of a page that differ."""
    found = ConfigDict(
        {
            "grid": (100, 300, 1000),  # d that are measured first, rising
            "resolution": 25,  # the search ends when d is known as closely as that
            "projection": "sparse",  # the one that is searched
            "also": (),  # others beside it: pairs of a projection and its d, ("fastfood", (750,))
            "repeats": 3,  # of every d, with other seeds
            "most_repeats": 5,  # where a mean is within a standard error of the threshold
            "also_repeats": 1,
            "direct_repeats": 3,
            "vary": ("projection",),  # seeds that a repeat changes: projection, base, data
            "metric": "validation/accuracy",
            "mode": "max",  # or min
            "when": "last",  # the number of the last epoch, or of the best
            "share": 0.9,  # of the baseline, that has to be exceeded
            "relative": "value",  # or gain: the share of what is gained over the frozen start
            "baseline": 0.0,  # one for all networks, beside the network's own; 0 for none
            "target": "own",  # the baseline that is searched for: own or global; both are told
            "rates": (1e-3,),  # learning rates of a subspace; the best mean of each d counts
            "direct_rates": (1e-3,),
            "l2": 0.0,  # of the kernels that the model sees, added to the loss
            "ranks": (),  # of LoRA on the same task
            "lora_rates": (1e-3,),
            "lora_where": ("all-linear",),
            "published": (),  # pairs to compare with: ("Li et al. 2018", 750)
        }
    )
    found.update(fields)
    return found


def subspace(dim: int, projection: str = "sparse", **fields: Any) -> ConfigDict:
    """The adapter of `dim` numbers that move all leaves through one frozen random projection."""
    common = {"adapter": "Subspace", "dim": dim, "projection": projection, "scope": "global"}
    places = {"layerwise": False, "where": (".*",), "exclude": (), "seed": 0}
    return ConfigDict(common | places | fields)


def authors(config: ConfigDict) -> None:
    """The training of Li et al.: Adam at 1e-3 with a beta2 of 0.99, in batches of 128 images."""
    config.train.update({"batch": 128, "epochs": 100, "log_every": 100})
    config.optimizer.update({"learning_rate": 1e-3, "schedule": "constant", "b2": 0.99})
    config.optimizer.update({"clip": 0.0, "weight_decay": 0.0})
    config.model.fields.kernel_init = "he_normal"


def shorten(part: ConfigDict) -> None:
    """Makes of `config.study` the least that is still one: for `smoke`."""
    part.update({"grid": (20, 40), "resolution": 20, "also": (), "repeats": 1, "most_repeats": 1})
    part.update({"direct_repeats": 1, "share": 0.1, "baseline": 0.0, "target": "own"})
    for field in ("rates", "direct_rates", "ranks", "lora_rates"):
        part[field] = part[field][:1]


_LEAST = {
    "resolution": 1, "repeats": 1, "most_repeats": 1, "also_repeats": 1, "direct_repeats": 1,
    "l2": 0,
}  # fmt: skip
_CHOICES = {
    "projection": PROJECTIONS,
    "mode": ("max", "min"),
    "when": ("last", "best"),
    "relative": ("value", "gain"),
    "target": ("own", "global"),
}


def check(part: ConfigDict) -> None:
    """Finds values of `config.study` that make no study.

    Raises:
      LoraxError: naming the field, what it is, and what was expected.
    """
    for name, least in _LEAST.items():
        if part[name] < least:
            raise _wrong(part, name, f"{least} or more")
    if not 0 < part.share <= 1:
        raise _wrong(part, "share", "above 0 and at most 1, 0.9 for 90 %")
    for name, choices in _CHOICES.items():
        check_choice(f"config.study.{name}", part[name], choices)
    for seed in part.vary:
        check_choice("a seed in config.study.vary", seed, SEEDS)
    if not _dimensions(part.grid):
        raise _wrong(part, "grid", "numbers d of 1 or more, rising, (100, 300, 1000) say")
    pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in part.also)
    if not pairs or not all(p in PROJECTIONS and _dimensions(grid) for p, grid in part.also):
        raise _wrong(part, "also", "pairs of a projection and its d, (('fastfood', (300, 750)),)")
    for name in ("rates", "direct_rates", "lora_rates"):
        if not part[name] or min(part[name]) <= 0:
            raise _wrong(part, name, "one learning rate or more, each above 0")
    if part.ranks and not _dimensions(tuple(sorted(part.ranks))):
        raise _wrong(part, "ranks", "different ranks of 1 or more")
    if part.most_repeats < part.repeats:
        raise _wrong(part, "most_repeats", f"config.study.repeats={part.repeats} or more")
    if part.target == "global" and not part.baseline:
        raise _wrong(part, "target", "own, or a baseline in config.study.baseline")


def _dimensions(grid: Any) -> bool:
    """Is this one whole number or more, each above the one before it?"""
    whole = isinstance(grid, tuple) and bool(grid) and all(isinstance(d, int) for d in grid)
    return whole and list(grid) == sorted(set(grid)) and grid[0] >= 1


def _wrong(part: ConfigDict, name: str, expected: str) -> LoraxError:
    return LoraxError(f"config.study.{name} is {part[name]!r}: expected {expected}")
