"""Adds adapters of one model, each with a weight, and saves the sum as one adapter.

Whole updates are added, never A's and B's apart, and the table says by leaf how far the result is
from the weighted sum. A weight of -1 takes an adapter away. Adapters that say which base they
belong to must all say the same.

    python -m experiments.combine --adapters=a,b --weights=0.5,0.5 --method=svd --rank=8 --out=sum
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import _cli, _flags

METHODS = {
    "cat": "exact, of the sum of the ranks",
    "svd": "the best approximation of --rank",
    "ties": "trimmed to --density, signs elected, then svd",
    "dare": "entries dropped at --rate, the rest rescaled, then svd",
}


def verb(flags: argparse.Namespace) -> None:
    """Loads, compares the bases, adds, saves, and tells the errors."""
    from experiments._table import markdown
    from lorax.io.checkpoint import JSON_NAME, save_adapter

    _check(flags)
    _flags.check_out(flags, JSON_NAME)
    loaded = _flags.load_model(flags) if flags.model else None
    parts, mark = _parts(flags, loaded)
    with _flags.working("combining"):
        sum_of = _combined(flags, parts, None if loaded is None else loaded.base)
    save_adapter(flags.out, sum_of.adapter, sum_of.delta, base=mark, overwrite=flags.overwrite)
    print(markdown([("leaf", "rank", "error", "by the cut"), *_rows(sum_of)]))
    print("\nerror: ‖ΔW - Σ weight · ΔW‖ / ‖Σ weight · ΔW‖; by the cut: what the rank took of it")
    print(f"Adapter: {flags.out}")


def _check(flags: argparse.Namespace) -> None:
    if len(flags.weights) != len(flags.adapters):
        raise _cli.UsageError(
            f"--weights has {len(flags.weights)} numbers and --adapters {len(flags.adapters)} "
            "directories: expected one each"
        )
    if flags.method == "cat" and flags.rank is not None:
        raise _cli.UsageError("--method=cat keeps all ranks: drop --rank, or use --method=svd")
    if flags.method != "cat" and flags.rank is None:
        raise _cli.UsageError(f"--method={flags.method} cuts to a rank: give --rank, such as 8")
    for flag, method in (("density", "ties"), ("rate", "dare")):
        if getattr(flags, flag) is not None and flags.method != method:
            raise _cli.UsageError(f"--{flag} is of --method={method} alone: drop it")


def _parts(flags: argparse.Namespace, loaded: Any) -> tuple[list[Any], str | None]:
    """(adapter, delta, weight) of each directory, and the fingerprint of their base if known."""
    from lorax.core.errors import LoraxError
    from lorax.io import checkpoint, peft
    from lorax.io.fingerprint import fingerprint

    own = [d for d in flags.adapters if (pathlib.Path(d) / checkpoint.JSON_NAME).is_file()]
    mark = None if loaded is None else fingerprint(loaded.base)
    marks = {directory: checkpoint.base_of(directory) for directory in own}
    found = dict(zip(own, checkpoint.load_adapters(own, mark), strict=True))
    for directory in flags.adapters:
        if directory in found:
            continue
        if not pathlib.Path(directory).is_dir():
            raise LoraxError(f"no adapter at '{directory}': expected a directory; check the path")
        if loaded is None:
            raise LoraxError(
                f"'{directory}' holds no {checkpoint.JSON_NAME}: expected a directory that lorax "
                "saved, or one of PEFT and its model with --model"
            )
        found[directory] = peft.load(directory, loaded)
    silent = [directory for directory in own if marks[directory] is None]
    if silent:
        print(f"Not checked, for they do not say their base: {', '.join(silent)}\n")
    known = mark or next((one for one in marks.values() if one), None)
    parts = [(*found[d], w) for d, w in zip(flags.adapters, flags.weights, strict=True)]
    return parts, known


def _combined(flags: argparse.Namespace, parts: Sequence[Any], base: Any) -> Any:
    import jax

    from lorax.adapters.combine import combine
    from lorax.adapters.dare import dare
    from lorax.adapters.ties import ties

    fields = {"rank": flags.rank, "base": base, "leave_out": flags.leave_out}
    if flags.method == "ties":
        return ties(parts, **fields, density=0.2 if flags.density is None else flags.density)
    if flags.method == "dare":
        key = jax.random.key(flags.seed)
        return dare(parts, **fields, key=key, rate=0.9 if flags.rate is None else flags.rate)
    return combine(parts, **fields)


def _rows(sum_of: Any) -> list[tuple[str, ...]]:
    """One a leaf; a leaf without a rank is one that all adapters share, and is kept whole."""
    delta, cut = sum_of.delta, sum_of.truncation
    factors = delta[0] if isinstance(delta, tuple) else delta
    ranks = {path: str(leaf.rank) for path, leaf in factors.items()}
    return [
        (path, ranks.get(path, "whole"), f"{error:.3g}", f"{cut[path]:.3g}")
        for path, error in sum_of.error.items()
    ]


def _list(kind: Any) -> Any:
    return lambda text: [kind(one) for one in text.split(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number: write 0.5,0.5") from None


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("combine", __doc__)
    add = parser.add_argument
    add(
        "--adapters", type=_list(_flags.place), required=True, metavar="DIR,DIR",
        help="directories that lorax saved, or with --model of PEFT",
    )  # fmt: skip
    add("--weights", type=_list(_number), required=True, metavar="W,W", help="one an adapter")
    add(
        "--method", choices=METHODS, default="cat",
        help="; ".join(f"{name}: {what}" for name, what in METHODS.items()),
    )  # fmt: skip
    add("--rank", type=int, help="the most a leaf of the sum may have")
    add("--density", type=float, help="share of each update that ties keeps (default 0.2)")
    add("--rate", type=float, help="share of each update that dare drops (default 0.9)")
    add("--seed", type=int, default=0, help="of what dare drops")
    add("--leave_out", action="store_true", help="go without heads and prompts that differ")
    _flags.model_flags(parser, required=False)
    _flags.out_flags(parser, "adapter")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
