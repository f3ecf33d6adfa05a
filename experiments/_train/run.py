"""What happens in a run? Base, training, held-out numbers, adapter, report, in this order."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import lorax
from experiments import _workdir
from experiments._cli import Call, Ended
from experiments._report.write import write_report
from experiments._train import method, scoring, training
from experiments._train.answers import answer, continue_prompt
from experiments._train.model import drawn
from experiments._train.setting import Setting, make_setting
from lorax.core.errors import LoraxError
from lorax.io.checkpoint import load_adapter, save_adapter
from lorax.parallel.replicas import Replicas, meet, replicas
from lorax.train.metrics import MetricsWriter, read_metrics
from lorax.train.stop import Stop, Stopped, catch
from lorax.train.tensorboard import TensorBoardWriter, Writers, replay

FROM_CONFIG = ("learning_rate", "schedule", "warmup", "weight_decay", "clip")
"""Fields of `config.pretrain` that are the optimizer's."""


def tell(call: Call) -> None:
    """Runs `call.config` in `call.workdir`, or goes on with the run that is there.

    Raises:
      LoraxError: a user's mistake, NaN, or a disk that refuses; everything saved stays.
      Ended: a signal came; the state was saved.
    """
    if call.config.get("plan_only"):
        raise LoraxError(f"'{call.config_name}' is a plan, too large to be run: add --dry_run")
    try:
        with catch() as stop, _workdir.entered(call, resume=True) as needed:
            if not needed:
                return _workdir.show(call.workdir)
            setting = make_setting(call.config)
            for note in setting.data.notes:
                print(note)
            run(setting, call.workdir, stop)
    except Stopped as reason:
        raise Ended(
            f"{reason}; what was saved is in {call.workdir}: run the same command again to go on",
            128 + reason.signum,
        ) from None


def run(setting: Setting, workdir: pathlib.Path, stop: Stop, label: str = "train") -> None:
    """One run in a workdir that is held: trains what is left to train, then measures and reports.

    Args:
      setting: from `make_setting`.
      workdir: with config.json; may hold checkpoints of this run.
      stop: asked between pieces of work.
      label: of the records.
    """
    setting = with_base(setting, workdir, stop)
    job = make_job(setting, workdir, label, stop)
    with stop.deferred():
        trained = training.run(job, _devices(job.config), stop, print)
    wait = trained.outcome.wait_share
    if wait == wait:
        print(f"Waiting for data took {wait:.1%} of the time of training.")
    _finish(setting, job, trained, workdir, stop)


def make_job(setting: Setting, workdir: pathlib.Path, label: str, stop: Stop) -> training.Job:
    """What `training.run` needs of a setting whose base is drawn."""
    config, base = setting.config, setting.subject.base
    example = jnp.zeros(setting.example.shape, setting.example.dtype)
    delta = method.first_delta(config, setting.fn, setting.adapter, base, example)
    apply = lorax.adapt(setting.fn, setting.adapter)
    measure = scoring.make_measure(config.data.task, apply, setting.metrics, stop.check)
    watched = [held for name, held in setting.data.held.items() if name != "test"]

    def evaluate(prepared: Any, delta: Any) -> Mapping[str, float]:
        return {k: v for held in watched for k, v in measure(held, prepared, delta).items()}

    return training.Job(
        workdir, config, label, setting.adapter, base, delta, setting.loss,
        setting.data.pipeline, setting.steps, evaluate, _sink(config, workdir), measure,
    )  # fmt: skip


def _sink(config: Any, workdir: pathlib.Path) -> Callable[[MetricsWriter], Any] | None:
    if not config.tensorboard:
        return None
    return lambda metrics: Writers(
        metrics, TensorBoardWriter(workdir / "tensorboard", history=metrics.path)
    )


def with_base(setting: Setting, workdir: pathlib.Path, stop: Stop) -> Setting:
    """The setting with its base: as read, as drawn, or trained whole in <workdir>/base first.

    Args:
      setting: from `make_setting`.
      workdir: of the run; its base/ is made, gone on with, or read.
      stop: asked while a base is trained.
    """
    config = setting.config
    subject = drawn(setting.subject, config, setting.example)
    setting = dataclasses.replace(setting, subject=subject)
    if not config.pretrain.steps or subject.loaded is not None:
        return setting
    folder = workdir / "base"
    folder.mkdir(exist_ok=True)
    saved = folder / "adapter"
    if not (folder / "DONE").exists():
        part = make_setting(pretraining(config))
        part = dataclasses.replace(part, subject=subject)
        job = dataclasses.replace(make_job(part, folder, "base", stop), evaluate=None)
        with stop.deferred():
            trained = training.run(job, _devices(job.config), stop, print)
        _save(saved, part.adapter, trained.delta)
        _workdir.finish(folder)
    adapter, delta = load_adapter(saved)
    base = adapter.merge(subject.base, delta)
    return dataclasses.replace(setting, subject=dataclasses.replace(subject, base=base))


def _devices(config: Any) -> Replicas:
    """Those that share a step; says so where some are left out."""
    found = replicas(config.train.batch)
    used = 1 if found.mesh is None else found.mesh.size
    if used < jax.device_count():
        print(
            f"Using {used} of {jax.device_count()} devices: a batch of {config.train.batch} cannot "
            "be dealt evenly to more."
        )
    return found


def pretraining(config: Any) -> Any:
    """The config of the run that makes the base: everything learns, on another text."""
    part, made = config.pretrain, ConfigDict(config.to_dict())
    made.adapter = ConfigDict({"adapter": "Full"})
    made.also_train, made.adapter_from = (), ""
    made.data.update({"format": part.format, "train": part.train, "limit": 0})
    made.data.update({"validation": "", "test": "", "retention": ""})
    made.train.update({"steps": part.steps, "batch": part.batch, "accumulate": 1})
    made.optimizer.update({name: part[name] for name in FROM_CONFIG})
    made.optimizer.update({"warmup_ratio": 0.0, "loraplus": 1.0, "label_smoothing": 0.0})
    made.checkpoint.best = ""
    made.pretrain.steps = 0
    return made


def _finish(
    setting: Setting,
    job: training.Job,
    trained: training.Trained,
    workdir: pathlib.Path,
    stop: Stop,
) -> None:
    """Held-out numbers, answers, the adapter, the result record, the report, DONE."""
    config, held = setting.config, setting.data.held
    result: dict[str, Any] = {"best_step": trained.step} if config.checkpoint.best else {}
    for name, one in held.items():
        result |= {f"base/{k}": v for k, v in job.measure(one, trained.prepared, job.delta).items()}
        result |= job.measure(one, trained.prepared, trained.delta)
        if config.data.task == "classification" and name != "retention":
            pipeline = setting.data.pipeline
            result |= scoring.majority(pipeline.examples, one, setting.metrics)
    frozen = {k.removeprefix("base/"): v for k, v in result.items() if k.startswith("base/")}
    result |= scoring.forgotten(result, frozen)
    result |= _texts(setting, job, trained, workdir, stop)
    if jax.process_index() == 0:
        _save(workdir / "adapter", setting.adapter, trained.delta)
        sizes = jax.tree.leaves(trained.delta)
        with MetricsWriter(workdir / training.METRICS) as writer:
            writer.write(
                run=job.label, step=setting.steps, kind="result",
                trainable=sum(leaf.size for leaf in sizes),
                total=sum(leaf.size for leaf in jax.tree.leaves(setting.subject.base)),
                adapter_bytes=sum(leaf.nbytes for leaf in sizes),
                optimizer_bytes=trained.optimizer_bytes, **result,
                seconds_per_step=trained.outcome.seconds_per_step,
                wait_share=trained.outcome.wait_share,
            )  # fmt: skip
        if config.tensorboard:
            replay(workdir / training.METRICS, workdir / "tensorboard")
        write_report([workdir], workdir)
        _workdir.finish(workdir)
        _tell_result(workdir)
    meet("finished")


def _texts(
    setting: Setting,
    job: training.Job,
    trained: training.Trained,
    workdir: pathlib.Path,
    stop: Stop,
) -> dict[str, Any]:
    """Scores of the answers to held-out prompts; or, of a language model, only a sample to read."""
    config, data = setting.config, setting.data
    apply = lorax.adapt(setting.fn, setting.adapter)
    tokenizer = setting.subject.tokenizer
    if jax.process_count() > 1:  # decoding in step with each other is not built
        return {}
    if config.data.task == "completion" and config.eval.generate:
        split = "test" if "test" in data.held else "validation"
        return answer(
            config, workdir, apply, trained.prepared, trained.delta, tokenizer,
            data.held[split].records, split, stop.check,
        )  # fmt: skip
    if config.data.task == "language" and config.eval.prompt:
        deltas = {"frozen base": job.delta, "trained": trained.delta}
        continue_prompt(config, workdir, apply, trained.prepared, deltas, tokenizer)
    return {}


def _save(folder: pathlib.Path, adapter: lorax.Adapter, delta: Any) -> None:
    if jax.process_index() == 0:
        save_adapter(folder, adapter, jax.device_get(delta), overwrite=True)
    meet("adapter")


def _tell_result(workdir: pathlib.Path) -> None:
    result = read_metrics(workdir / training.METRICS)[-1]
    shown = {k: v for k, v in result.items() if "/" in k and isinstance(v, int | float)}
    for name, value in shown.items():
        print(f"{name:<32} {value:.4f}")
    print(f"Done: {workdir / 'report.md'}, report.html, adapter/")
