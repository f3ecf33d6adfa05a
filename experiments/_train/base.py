"""Which base does a run adapt? As read, as drawn, or trained whole first; then quantised."""

import dataclasses
import pathlib
from typing import Any

import jax

import lorax
from experiments import _workdir
from experiments._train import training
from experiments._train.job import make_job
from experiments._train.model import Subject, drawn, quantised
from experiments._train.placing import on
from experiments._train.setting import Setting
from lorax.io.checkpoint import load_adapter, save_adapter
from lorax.parallel.layout import Layout
from lorax.parallel.processes import meet, say
from lorax.train.stop import Stop


def with_base(setting: Setting, workdir: pathlib.Path, stop: Stop) -> Setting:
    """The setting with its base: as read, as drawn, or trained whole in <workdir>/base first;
    then quantised, if the config says so.

    Args:
      setting: from `make_setting`.
      workdir: of the run; its base/ is made, gone on with, or read.
      stop: asked while a base is trained.
    """
    layout = setting.layout
    subject = drawn(setting.subject, setting.config, setting.example, layout)
    base = subject.base
    if setting.pretrains:
        base = _pretrained(setting, subject, workdir / "base", stop)
    base = quantised(setting.config, base)
    subject = dataclasses.replace(subject, base=layout.place(base, layout.base(base)))
    return dataclasses.replace(setting, subject=subject)


def _pretrained(setting: Setting, subject: Subject, folder: pathlib.Path, stop: Stop) -> Any:
    """The base that is trained whole in `folder`, now or before, from that of `subject`."""
    layout, saved = setting.layout, folder / "adapter"
    if not (folder / "DONE").exists():
        folder.mkdir(exist_ok=True)
        part = dataclasses.replace(setting.before, subject=subject)
        job = dataclasses.replace(make_job(part, folder, "base", stop), evaluate=None)
        with on(layout), stop.deferred():
            trained = training.run(job, layout, stop, say)
        save(saved, part.adapter, trained.delta, layout)
        if jax.process_index() == 0:
            _workdir.finish(folder)
        meet("base")
    adapter, delta = load_adapter(saved)
    return adapter.merge(subject.base, layout.place(delta, layout.delta(delta, subject.base)))


def save(
    folder: pathlib.Path, adapter: lorax.Adapter, delta: Any, layout: Layout, base: Any = None
) -> None:
    """The adapter in `folder`, with the fingerprint of its base, when all processes are here."""
    save_adapter(folder, adapter, layout.whole(delta), base=base, overwrite=True)
    meet("adapter")
