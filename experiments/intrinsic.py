"""Measures an intrinsic dimension: the smallest d at which a random subspace is good enough.

    python -m experiments.intrinsic --config=configs/intrinsic_digits.py --workdir=runs/digits
    python -m experiments.intrinsic --config=configs/intrinsic_mnist.py --workdir=runs/mnist
    ... --config.study.repeats=5 --config.study.resolution=10   # fields: configs/_study.py
    ... --dry_run                                       # D, leaves and the first units; no more

Every d of a grid is trained with several random projections, then the d at which their mean passes
the threshold (0.9 of direct training's, or of a global baseline) is bisected. A study that is run
again goes on, and trains no unit twice. report.md has d90 by the published rule and interpolated
with a bootstrap interval, the curve, and LoRA's ranks beside it where the page asks for them.
SIGTERM and SIGINT end it after the epoch; units that were not complete are trained again. The exit
code is then 143 or 130.
"""

from experiments import _cli, _memory

CONFIG = "configs/intrinsic_digits.py"

FLAGS = (
    _cli.Flag("pack", "", "units side by side in a program; chosen by default"),
    _cli.Flag("dry_run", False, "show D, leaves and the first units; do nothing"),
)


def verb(call: _cli.Call) -> None:
    """Studies, or shows what would be studied."""
    _memory.keep_freed()
    text = str(call.flags["pack"])
    if text and not (text.isdecimal() and int(text)):
        raise _cli.UsageError(f"--pack={text}: expected a positive integer, 8 say")
    from experiments._intrinsic import flow

    flow.tell(call, flow.Asked(int(text or 0), bool(call.flags["dry_run"])))


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    return _cli.run(verb, __doc__ or "", config=CONFIG, argv=argv, flags=FLAGS)


if __name__ == "__main__":
    _cli.enter(main)
