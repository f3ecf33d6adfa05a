"""Trains a whole grid of runs over one frozen base, packed, and says which of them are best.

    python -m experiments.sweep --config=configs/rank_sweep.py --workdir=runs/ranks
    python -m experiments.sweep --config=configs/quickstart.py --workdir=runs/q --sweep=rank,lr,seed
    ... --dry_run                                       # units, programs and parameters; no more
    ... --search=lr:1e-4:1e-1 --trials=8                # by optuna, in place of a grid of rates
    ... --launcher=slurm --workers=8 --launcher_options=partition=gpu,timeout_min=60

Units are a page's sweep(), or the product of the sweeps that --sweep names: sweep_NAME() of the
page, or rank, alpha, lr, seed, scaling, initializer. Each is trained in DIR/units/NAME as if alone.
A sweep that is run again goes on, and skips what is done; new units of its page are added. Best
rates are chosen on validation. A unit that becomes NaN is told, and the others go on.
SIGTERM and SIGINT save first; the exit code is then 143 or 130.
"""

import functools
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from experiments import _cli, _memory

CONFIG = "configs/rank_sweep.py"
PAGE = "page"
"""The default of --best_of: as the page says."""

FLAGS = (
    _cli.Flag("sweep", "", "sweeps whose product is taken, rank,lr say; else the page's sweep()"),
    _cli.Flag("best_of", PAGE, "axes of which the best is kept; empty for none (default: lr)"),
    _cli.Flag("pack", "", "units of one program at a time; chosen by default"),
    _cli.Flag("memory", "", "GiB that a program may take"),
    _cli.Flag("launcher", "", "local, slurm or ray: processes that share the units"),
    _cli.Flag("workers", "", "of a launcher: processes at a time"),
    _cli.Flag("launcher_options", "", "of a launcher: name=value,..."),
    _cli.Flag("search", "", "lr:LOW:HIGH: rates are searched for by optuna, in place of a grid"),
    _cli.Flag(
        "trials", "", "of a search: rates that are tried, a point; the first 4 evenly spaced"
    ),
    _cli.Flag("only", "", "a JSON list of units to train: for the workers of a launcher"),
    _cli.Flag("dry_run", False, "show units, programs and parameters; do nothing"),
)
LAUNCHERS_OWN = ("launcher", "workers", "launcher_options")


def verb(call: _cli.Call, argv: Sequence[str]) -> None:
    """Sweeps, or shows what would be swept."""
    _memory.keep_freed()
    flags = {name: str(value) for name, value in call.flags.items()}
    for name in LAUNCHERS_OWN[1:]:
        if flags[name] and not flags["launcher"]:
            raise _cli.UsageError(f"--{name} is of a launcher: add --launcher=local, slurm or ray")
    for name in ("only", "search"):
        if flags[name] and flags["launcher"]:
            raise _cli.UsageError(f"--{name} trains in this process: leave --launcher out")
    pack, workers = (_number(n, flags[n], whole=True) for n in ("pack", "workers"))
    memory = _number("memory", flags["memory"])
    from experiments._sweep import flow

    asked = flow.Asked(
        sweep=flags["sweep"],
        best_of=None if flags["best_of"] == PAGE else flags["best_of"],
        pack=int(pack),
        memory=memory,
        launcher=flags["launcher"],
        workers=int(workers),
        options=_options(flags["launcher_options"]),
        search=_search(flags),
        trials=int(_number("trials", flags["trials"], whole=True)),
        only=flags["only"],
        dry_run=bool(call.flags["dry_run"]),
    )
    flow.tell(call, asked, workers_argv(call, argv))


def workers_argv(call: _cli.Call, argv: Sequence[str]) -> list[str]:
    """What a worker is given: `argv` without the launcher, with paths that hold anywhere."""
    left, queue = [], list(argv)
    own = "|".join((*LAUNCHERS_OWN, "config", "workdir"))
    while queue:
        arg = queue.pop(0)
        if not re.match(rf"--?({own})(=|$)", arg):
            left.append(arg)
        elif "=" not in arg and queue:
            queue.pop(0)  # its value
    path, colon, words = call.config_name.partition(":")
    page = f"{pathlib.Path(path).absolute()}{colon}{words}"
    return [f"--config={page}", f"--workdir={call.workdir}", *left]


def _number(name: str, text: str, *, whole: bool = False) -> float:
    """0 where it was not given."""
    if not text:
        return 0
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1e9:
        kind = "a positive integer, 8 say" if whole else "a positive number, 1.5 say"
        raise _cli.UsageError(f"--{name}={text}: expected {kind}")
    return value


def _search(flags: Mapping[str, str]) -> tuple[float, float] | None:
    """The lowest and the highest rate of --search; None where there is none."""
    if not flags["search"]:
        if flags["trials"]:
            raise _cli.UsageError("--trials is of a search: add --search=lr:1e-4:1e-1")
        return None
    given, form = f"--search={flags['search']}", "expected lr:LOW:HIGH, lr:1e-4:1e-1 say"
    axis, *bounds = flags["search"].split(":")
    if axis not in ("lr", "optimizer.learning_rate"):
        raise _cli.UsageError(f"{given}: the rate alone is searched for, not '{axis}': {form}")
    if len(bounds) != 2:
        raise _cli.UsageError(f"{given}: {len(bounds)} bounds: {form}")
    try:
        low, high = (_number("search", bound) if bound else 0 for bound in bounds)
    except _cli.UsageError:
        low = 0
    if not low or not high:
        raise _cli.UsageError(f"{given}: a bound is no positive number: {form}")
    if low >= high:
        raise _cli.UsageError(f"{given}: the lower rate comes first: {form}")
    if not flags["trials"]:
        raise _cli.UsageError(f"{given} takes --trials=N, 8 say: how many rates are tried, a point")
    if flags["best_of"] != PAGE:
        raise _cli.UsageError("--search chooses the rate: leave --best_of out")
    return low, high


def _options(text: str) -> Mapping[str, str]:
    """{name: value} of name=value,name=value."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    for name, equals, _ in pairs:
        if not name.strip() or not equals:
            raise _cli.UsageError(
                f"--launcher_options={text}: expected name=value,name=value such as "
                "partition=gpu,timeout_min=60"
            )
    return {name.strip(): value.strip() for name, _, value in pairs}


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    given = list(sys.argv[1:] if argv is None else argv)
    work = functools.partial(verb, argv=given)
    return _cli.run(work, __doc__ or "", config=CONFIG, argv=given, flags=FLAGS)


if __name__ == "__main__":
    _cli.enter(main)
