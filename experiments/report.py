"""Puts one or several runs side by side: a table, curves, what differs, where each was made.

Reads config.json, overrides.json, env.json, metrics.jsonl and samples.jsonl of each, and writes
report.md, report.html (one file that needs no other) and plots/*.png.

    python -m experiments.report --workdir=runs/a
    python -m experiments.report --workdir=runs/a --workdir=runs/b --out=runs/a-against-b
    python -m experiments.report --workdir=runs/ranks

A --workdir may also be a folder that holds runs, or a glob in quotes. A report of one --workdir
goes into it, unless --out says otherwise. That of a sweep, or of a study of intrinsic dimension, is
written again from its rows; the units of a sweep are runs, DIR/units/NAME.
"""

import argparse
import glob
import os
import pathlib

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Writes the report and says where it is."""
    out = flags.out
    if out is None:
        (place, *more) = flags.workdir
        if more or (glob.has_magic(place) and not os.path.isdir(place)):
            raise _cli.UsageError("several runs: say where the report goes, --out=DIR")
        out = place if os.path.isdir(place) else os.path.dirname(place) or "."
    from experiments._intrinsic import report as studies
    from experiments._report.write import write_report
    from experiments._sweep import report as sweeps

    alone = flags.workdir[0] if len(flags.workdir) == 1 else ""
    for kind, has_rows in ((sweeps, sweeps.is_sweep), (studies, studies.is_study)):
        if alone and has_rows(alone):
            file = kind.write_report(pathlib.Path(alone), pathlib.Path(out))
            break
    else:
        file = write_report(flags.workdir, out)
    print(f"{file}\n{file.with_suffix('.html')}")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("report", __doc__)
    add = parser.add_argument
    add("--workdir", type=_flags.place, action="append", required=True, metavar="DIR",
        help="a run, a folder of runs, or a glob; may be given several times")  # fmt: skip
    add("--out", type=_flags.place, metavar="DIR", help="where the report goes")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
