"""Measures a finished run again on its held-out sets, or another adapter in its place.

    python -m experiments.evaluate --workdir=runs/q
    python -m experiments.evaluate --workdir=runs/q --adapter=runs/other/adapter --out=numbers.json

Model, data and settings are those of the run's config.json. Nothing in the workdir is changed.
"""

import argparse
import json
import pathlib
from typing import Any

from experiments import _cli, _flags, _memory


def verb(flags: argparse.Namespace) -> None:
    """Prints the numbers of each held-out set, and writes them where --out says."""
    _memory.keep_freed()
    numbers = _numbers(pathlib.Path(flags.workdir), flags.adapter)
    for name, value in numbers.items():
        print(f"{name:<32} {value:.4f}")
    if flags.out:
        pathlib.Path(flags.out).write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")


def _numbers(workdir: pathlib.Path, adapter: str | None) -> dict[str, Any]:
    import lorax
    from experiments import _workdir
    from experiments._train import scoring
    from experiments._train.base import with_base
    from experiments._train.setting import make_setting
    from lorax.core.errors import LoraxError
    from lorax.io.checkpoint import load_adapter
    from lorax.train.stop import Stop

    config = _workdir.stored(workdir)
    chosen = pathlib.Path(adapter or workdir / "adapter")
    if not chosen.is_dir():
        raise LoraxError(
            f"no adapter at '{chosen}': expected a finished run; run experiments.train again with "
            "this --workdir, or give --adapter"
        )
    learnt, delta = load_adapter(chosen)
    with _flags.working("reading model and data"):
        setting = make_setting(config)
        base = with_base(setting, workdir, Stop()).subject.base
    apply = lorax.adapt(setting.fn, learnt)
    measure = scoring.make_measure(config.data.task, apply, setting.metrics, lambda: None)
    prepared = learnt.prepare(base, delta)
    with _flags.working("measuring"):
        found = [measure(held, prepared, delta) for held in setting.data.held.values()]
    return {name: value for numbers in found for name, value in numbers.items()}


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("evaluate", __doc__)
    add = parser.add_argument
    add("--workdir", type=_flags.place, required=True, metavar="DIR", help="of a finished run")
    _flags.adapter_flag(parser, help="in place of the run's own: one that lorax saved")
    add("--out", type=_flags.place, metavar="FILE", help="also write the numbers as JSON")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
