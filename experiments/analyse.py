"""Compares what adapters have learnt: subspaces, amplification, spectra, intruder dimensions.

Of a sweep, the best learning rate of every rank is taken; ranks 8 and 64 (or the two largest, or
--ranks) are compared, and seeds. Any other adapters of one model, PEFT's too, are compared pair by
pair. Beside every similarity stand chance and initialisation.

    python -m experiments.analyse --sweep=runs/ranks --workdir=runs/ranks_analysed
    python -m experiments.analyse --model=DIR --adapter=A --adapter=B --workdir=runs/a_and_b

Writes analysis.json (all numbers), report.md, report.html and plots/ into --workdir.
"""

import argparse
import os
import pathlib
from typing import Any

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Loads, measures, compares, and writes."""
    if (flags.sweep is None) == (flags.model is None):
        raise _cli.UsageError("expected either --sweep=DIR or --model=DIR with --adapter=DIR")
    if (flags.model is None) != (not flags.adapter):
        raise _cli.UsageError("--model and --adapter go together: give both, or --sweep alone")
    if flags.model and flags.ranks:
        raise _cli.UsageError("--ranks is of a --sweep: leave it out")
    from experiments._analyse import numbers, report
    from experiments._report.page import require
    from experiments.figures import curves

    curves.require()
    require()
    out = pathlib.Path(flags.workdir)
    _check_out(out, report.JSON)
    with _flags.working("reading adapters"):
        study, model = _study(flags)
    with _flags.working(f"measuring {len(study.learnt)} adapters"):
        measured = [numbers.measure(one, model) for one in study.learnt]
    with _flags.working(f"comparing {sum(len(c.pairs) for c in study.comparisons)} pairs"):
        compare = numbers.Comparer().compare
        compared = [compare(c, factor) for c in study.comparisons for factor in ("A", "B")]
    print(report.write(out, study, measured, compared))
    print(out / report.JSON)


def _study(flags: argparse.Namespace) -> tuple[Any, Any]:
    """(what is analysed, the model where it is one that was named)."""
    from experiments._analyse import study

    if flags.sweep is not None:
        return study.of_sweep(pathlib.Path(flags.sweep), flags.ranks), None
    for place in flags.adapter:
        if not os.path.isdir(place):
            raise _cli.UsageError(f"no adapter at '{place}': expected a directory; check the path")
    places = flags.adapter
    if len(set(places)) < len(places):
        raise _cli.UsageError("--adapter names one directory twice: expected each once")
    flags.adapter = None  # of which load_model expects one
    loaded = _flags.load_model(flags)
    labels = _labels(places)
    learnt = [
        study.Learnt(label, place, loaded.base, *_flags.load_adapter(place, loaded))
        for label, place in zip(labels, places, strict=True)
    ]
    return study.of_adapters(f"Analysis of {', '.join(labels)}", learnt), loaded.model


def _labels(places: list[str]) -> list[str]:
    """Names of the folders; of the adapter of a run that of the run; whole where two are alike."""
    found = []
    for place in places:
        path = pathlib.Path(place).resolve()
        found.append(path.parent.name if path.name == "adapter" else path.name)
    return found if len(set(found)) == len(found) else places


def _check_out(out: pathlib.Path, mark: str) -> None:
    """A folder of anything else than an analysis is not written into."""
    from lorax.core.errors import LoraxError

    if out.is_file():
        raise LoraxError(f"--workdir='{out}' is a file: choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
        raise LoraxError(
            f"--workdir='{out}' holds something else than an analysis: choose another folder"
        )


def _ranks(text: str) -> tuple[int, int]:
    """8,64 as two numbers; for argparse's `type`."""
    try:
        low, high = sorted(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected two ranks, 8,64 say") from None
    if low == high:
        raise argparse.ArgumentTypeError(f"'{text}': expected two different ranks, 8,64 say")
    return low, high


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("analyse", __doc__)
    add = parser.add_argument
    add("--workdir", type=_flags.place, required=True, metavar="DIR", help="where the report goes")
    add("--sweep", type=_flags.place, metavar="DIR", help="the --workdir of experiments.sweep")
    add("--ranks", type=_ranks, metavar="R,R", help="the two ranks of a sweep that are compared")
    _flags.model_flags(parser, required=False)
    add("--adapter", type=_flags.place, action="append", metavar="DIR",
        help=f"{_flags.ADAPTER_HELP}; several times")  # fmt: skip
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
