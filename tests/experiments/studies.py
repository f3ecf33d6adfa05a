"""Small studies of intrinsic dimension in this process, and what they said."""

import contextlib
import io

import pytest

from experiments import intrinsic
from tests.experiments.runs import Said

SMOKE = "--config=configs/intrinsic_digits.py:smoke"
TINY = (
    SMOKE, "--config.train.epochs=2", "--config.train.batch=16", "--config.eval.limit=0",
    "--config.eval.batch=64", "--config.study.grid=(1,3)", "--config.study.share=0.01",
    "--config.study.repeats=2", "--config.study.most_repeats=2", "--config.study.rates=(1e-2,)",
    "--config.study.direct_rates=(1e-3,)", "--config.study.lora_rates=(1e-2,)",
    "--config.study.ranks=(1,)",
)  # fmt: skip
"""Direct training, two projections of d = 1, which is enough, and of d = 3, and a LoRA."""


def run(workdir, *flags, figures=False):
    """`python -m experiments.intrinsic`; figures, which take longest, if asked."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments._memory.keep_freed", lambda: True)  # other tests follow
        if not figures:
            patch.setattr("experiments.figures.dimension.figures", lambda *_: ([], {}))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = intrinsic.main([*flags, f"--workdir={workdir}"])
    return Said(code, out.getvalue().splitlines(), err.getvalue().splitlines())
