"""Small runs of experiments.train in this process: what they said and wrote, and signals on cue."""

import contextlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import train
from lorax.parallel.layout import single
from lorax.train.metrics import MetricsWriter, read_metrics

TOY = (
    "--config=configs/mnist_mlp.py:lora,smoke",
    "--config.adapter.dropout=0.1",
    "--config.train.steps=8",
    "--config.eval.every=4",
    "--config.eval.batch=1",
    "--config.checkpoint.keep=2",
    "--config.checkpoint.best=validation/loss",
)
"""Eight steps of LoRA on an MLP: images, dropout, evaluations, checkpoints, the best one kept."""

LANGUAGE = (
    "--config=configs/quickstart.py:smoke",
    "--config.pretrain.steps=0",
    "--config.eval.prompt=",
    "--config.train.steps=4",
    "--config.train.batch=4",
)
"""A LLaMA whose batches have rows of different lengths."""


class Said(NamedTuple):
    """How a run ended, and its lines."""

    code: int
    out: list[str]
    err: list[str]


def run(workdir: pathlib.Path, *flags: str, report: bool = False) -> Said:
    """`python -m experiments.train` with `flags` in `workdir`, on one device of this process.

    The report, whose figures take longer than such a run, is left out unless it is asked for.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments._train.run.make_layout", lambda *_: single())
        patch.setattr("experiments._memory.keep_freed", lambda: True)  # other tests follow
        if not report:
            patch.setattr("experiments._train.run.write_report", lambda *_: None)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = train.main([*flags, f"--workdir={workdir}"])
    lines = [line for line in out.getvalue().splitlines() if not line.startswith("Using 1 of ")]
    return Said(code, lines, err.getvalue().splitlines())


def refused(workdir: pathlib.Path, *flags: str) -> str:
    """The one line of standard error of a run that must fail before it has begun anything."""
    before = listing(workdir)
    said = run(workdir, *flags)
    assert said.code in (1, 2) and not said.out, said
    assert len(said.err) == 1 and said.err[0].startswith("error: "), said.err
    assert listing(workdir) == before
    return said.err[0]


def listing(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder below `folder`; the lock, which is empty, left out."""
    found = folder.rglob("*") if folder.is_dir() else ()
    kept = [path for path in found if path.name != ".lock"]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(kept)}


@contextlib.contextmanager
def cue(act: Callable[[], Any], **wanted: Any) -> Iterator[None]:
    """A context in which `act` is called after the record with these fields is written."""
    plain = MetricsWriter.write

    def write(self: MetricsWriter, **record: Any) -> None:
        plain(self, **record)
        if wanted.items() <= record.items():
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsWriter, "write", write)
        yield


def send(signum: int) -> Callable[[], None]:
    """Sends this process a signal."""
    return lambda: os.kill(os.getpid(), signum)


def losses(workdir: pathlib.Path) -> list[float]:
    """Those of training, step by step."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == "train"]


@contextlib.contextmanager
def compiled_once(folder: pathlib.Path) -> Iterator[None]:
    """A context in which a program that was compiled before is read back: it takes half as long."""
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
