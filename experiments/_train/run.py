"""What happens in a run? Base, training, held-out numbers, adapter, report, in this order."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from experiments import _workdir
from experiments._cli import Call, Ended
from experiments._report.write import write_report
from experiments._train import scoring, training
from experiments._train.answers import answer, continue_prompt
from experiments._train.base import save, with_base
from experiments._train.job import make_job
from experiments._train.placing import make_layout, on
from experiments._train.setting import Setting, make_setting
from lorax.core import paths
from lorax.core.errors import LoraxError
from lorax.parallel.processes import everyones, from_first, meet, say
from lorax.parallel.watch import watched
from lorax.train.metrics import MetricsWriter, read_metrics
from lorax.train.stop import Stop, Stopped, catch
from lorax.train.tensorboard import replay

_REFUSED = -1  # in place of whether a run is needed, as a number for all processes


def tell(call: Call) -> None:
    """Runs `call.config` in `call.workdir`, or goes on with the run that is there.

    Raises:
      LoraxError: a user's mistake, NaN, or a disk that refuses; everything saved stays.
      Ended: a signal came; the state was saved.
    """
    if call.config.get("plan_only"):
        raise LoraxError(f"'{call.config_name}' is a plan, too large to be run: add --dry_run")
    try:
        with watched(), catch() as stop:
            _check_same(call)
            done = _workdir.finished(call)
            setting = None if done else _setting(call)  # a mistake writes nothing
            with _entered(call) as needed:
                if setting is None or not needed:
                    say(f"This run was finished before, in {call.workdir}; nothing is done again.")
                    return _tell_result(call.workdir)
                for note in setting.data.notes:
                    say(note)
                run(setting, call.workdir, stop)
    except Stopped as reason:
        raise Ended(
            f"{reason}: run the same command again to go on from what is in {call.workdir}",
            128 + reason.signum,
        ) from None


def _setting(call: Call) -> Setting:
    """All that the run will need is read and checked."""
    setting = make_setting(call.config, make_layout(call.config))
    if setting.pretrains and not (call.workdir / "base" / "DONE").exists():
        _ = setting.before
    return setting


def _check_same(call: Call) -> None:
    """Every process was started with one config, or all of them say which was not.

    Raises:
      LoraxError: two differ, and in what.
    """
    own = {"workdir": str(call.workdir), "config": _workdir.plain(call.config)}
    first, *others = map(json.loads, everyones(json.dumps(own)))
    for index, other in enumerate(others, 1):
        ways = [f"in process {number}" for number in (0, index)]
        changed = _workdir.differences(first["config"], other["config"], ways=ways)
        changed += _workdir.differences(first["workdir"], other["workdir"], "workdir", ways)
        if changed:
            raise LoraxError(
                f"processes 0 and {index} were started apart ({'; '.join(changed)}): start all of "
                "them with the same flags, in one workdir that all of them see"
            )


@contextlib.contextmanager
def _entered(call: Call) -> Iterator[bool]:
    """`_workdir.entered`, by process 0 for all of them."""
    if jax.process_index() == 0:
        with contextlib.ExitStack() as held:
            try:
                needed = held.enter_context(_workdir.entered(call, resume=True))
            except BaseException:
                from_first(_REFUSED)
                raise
            from_first(needed)
            yield needed
        return
    needed = from_first(_REFUSED)
    if needed == _REFUSED:
        raise LoraxError("process 0 could not enter the workdir: see what it says")
    yield bool(needed)


def run(setting: Setting, workdir: pathlib.Path, stop: Stop, label: str = "train") -> None:
    """One run in a workdir that is held: trains what is left to train, then measures and reports.

    Args:
      setting: from `make_setting`.
      workdir: with config.json; may hold checkpoints of this run.
      stop: asked between pieces of work.
      label: of the records.
    """
    setting = with_base(setting, workdir, stop)
    with on(setting.layout):
        job = make_job(setting, workdir, label, stop)
        learns, total = _size(job.delta), _numbers(setting.subject.base)
        say(
            f"Trainable parameters: {learns:,}, of the model {total:,} ({learns / total:.3%}). "
            f"Updates: {setting.steps:,}, each of {setting.config.train.batch} examples."
        )
        with stop.deferred():
            trained = training.run(job, setting.layout, stop, say)
        where = setting.layout.delta(trained.delta, setting.subject.base)
        trained = dataclasses.replace(trained, delta=setting.layout.place(trained.delta, where))
        stop.where = "after the last step"
        wait = trained.outcome.wait_share
        if wait == wait:
            say(f"Waiting for data took {wait:.1%} of the time of training.")
        finish(setting, job, trained, stop)
    _report(workdir)


def finish(setting: Setting, job: training.Job, trained: training.Trained, stop: Stop) -> None:
    """Held-out numbers, answers, the adapter, the result record."""
    config, held = setting.config, setting.data.held
    result: dict[str, Any] = {"best_step": trained.step} if config.checkpoint.best else {}
    for name, one in held.items():
        result |= {f"base/{k}": v for k, v in job.frozen(one, trained.prepared).items()}
        items = config.eval.by_item and name in scoring.BY_ITEM
        known = {k: v for k, v in trained.numbers.items() if k.startswith(f"{name}/")}
        if items or not known:
            known = job.measure(one, trained.prepared, trained.delta, items=items)
        result |= known
        if config.data.task == "classification" and name != "retention":
            pipeline = setting.data.pipeline
            result |= scoring.majority(pipeline.examples, one, setting.metrics)
    frozen = {k.removeprefix("base/"): v for k, v in result.items() if k.startswith("base/")}
    result |= scoring.forgotten(result, frozen)
    result |= _texts(setting, job, trained, stop)
    by_item = {n: result.pop(n) for n in list(result) if n.endswith(f"/{scoring.ITEMS}")}
    save(
        job.workdir / "adapter", setting.adapter, trained.delta, setting.layout,
        setting.subject.base,
    )  # fmt: skip
    if jax.process_index() == 0:
        with MetricsWriter(job.workdir / training.METRICS) as writer:
            for name, found in by_item.items():
                writer.write(run=job.label, step=setting.steps, kind="items", of=name, **found)
            writer.write(
                run=job.label, step=setting.steps, kind="result",
                trainable=_size(trained.delta), total=_numbers(setting.subject.base),
                adapter_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(trained.delta)),
                optimizer_bytes=trained.optimizer_bytes, **result, notes=setting.data.notes,
                seconds_per_step=trained.outcome.seconds_per_step,
                wait_share=trained.outcome.wait_share,
            )  # fmt: skip
        if config.tensorboard:
            replay(job.workdir / training.METRICS, job.workdir / "tensorboard")


def _report(workdir: pathlib.Path) -> None:
    if jax.process_index() == 0:
        write_report([workdir], workdir)
        _workdir.finish(workdir)
        _tell_result(workdir)
    meet("finished")


def _texts(
    setting: Setting, job: training.Job, trained: training.Trained, stop: Stop
) -> dict[str, Any]:
    """Scores of the answers to held-out prompts; or, of a language model, only a sample to read."""
    config, data, workdir = setting.config, setting.data, job.workdir
    tokenizer, base = setting.subject.tokenizer, trained.prepared
    first, last = (job.given(delta) for delta in (job.delta, trained.delta))
    if config.data.task == "completion" and config.eval.generate:
        split = "test" if "test" in data.held else "validation"
        return answer(
            config, workdir, job.apply, base, last, tokenizer,
            data.held[split].records, split, stop.check,
        )  # fmt: skip
    if config.data.task == "language" and config.eval.prompt:
        frozen = job.apply, base, first
        if jax.eval_shape(setting.adapter.additions, base, job.delta):
            frozen = setting.fn, setting.subject.base, None  # a first prompt is not the base
        programs = {"frozen base": frozen, "trained": (job.apply, base, last)}
        continue_prompt(config, workdir, programs, tokenizer)
    return {}


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _numbers(base: Any) -> int:
    """Those of the matrices, whatever they are stored as."""
    return sum(math.prod(leaf.shape) for leaf in paths.flatten(base).values())


def _tell_result(workdir: pathlib.Path) -> None:
    result = read_metrics(workdir / training.METRICS)[-1]
    shown = {k: v for k, v in result.items() if "/" in k and isinstance(v, int | float)}
    for name, value in shown.items():
        say(f"{name:<32} {value:.4f}")
    say(f"Done: {workdir / 'report.md'}, report.html, adapter/")
