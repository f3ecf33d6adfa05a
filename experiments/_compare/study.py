"""The comparison from beginning to end: every rate of every method, the best of each, a report."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from experiments import _fit, _workdir
from experiments._cli import Call
from experiments._compare.setting import Setting, make_setting
from experiments._fit import Method, Trained
from experiments._table import label, markdown
from lorax.io.checkpoint import save_adapter
from lorax.train.loop import NotFinite, Plan
from lorax.train.metrics import MetricsWriter, read_metrics

Record = Mapping[str, Any]


def tell(call: Call) -> None:
    """Runs the comparison in a workdir, or prints the report of the run that is there.

    Raises:
      LoraxError: the config or the workdir cannot be used, or training became NaN.
    """
    methods = _fit.methods(call.config)
    setting = make_setting(call.config)
    _fit.check(call.config, setting.fn, setting.base, methods)
    with _workdir.entered(call) as needed:
        if not needed:
            return _workdir.show(call.workdir)
        start = time.perf_counter()
        with MetricsWriter(call.workdir / "metrics.jsonl") as writer:
            _run(call, setting, methods, writer)
        report = summary(call.workdir / "metrics.jsonl")
        _workdir.finish(call.workdir, report)
        print("\n" + report)
        print(f"Done in {(time.perf_counter() - start) / 60:.1f} minutes: {call.workdir}")


def summary(metrics: pathlib.Path) -> str:
    """The report, from metrics.jsonl alone."""
    results = [r for r in read_metrics(metrics) if r["kind"] == "result"]
    base, tried = results[0], results[1:]
    names = list(dict.fromkeys(r["run"] for r in tried))
    best = {n: min((r for r in tried if r["run"] == n), key=_validation) for n in names}
    best = {n: record for n, record in best.items() if record["validation"] is not None}
    full = best.get("full")
    head = ("method", "rate", "new text", "gap closed", "old text", "trainable", "s/step")
    frozen = ("-", _shown(base, "test"), "-", _shown(base, "retention"), "0", "-")
    rows = [head, (label("base"), *frozen)]
    for name, record in best.items():
        closed = "-" if full is None else f"{_closed(base, record, full):.1%}"
        rows.append(
            (label(name), f"{record['learning_rate']:g}", _shown(record, "test"), closed,
             _shown(record, "retention"), f"{record['trainable']:,}",
             _shown(record, "seconds_per_step"))
        )  # fmt: skip
    tuning = [("method", "rate", "validation", "test")] + [
        (label(r["run"]), f"{r['learning_rate']:g}", _shown(r, "validation"), _shown(r, "test"))
        for r in tried
    ]
    return (
        "# Adaptation to a new text\n\n"
        "Held-out loss in nats a token, lower is better. Each method at the learning rate that is "
        "best\non the validation part; `gap closed` is the share of full fine-tuning's gain on the "
        "test part.\n\n"
        f"{markdown(rows)}\n\nEvery rate tried:\n\n{markdown(tuning)}\n"
    )


def _run(call: Call, setting: Setting, methods: list[Method], writer: MetricsWriter) -> None:
    before = setting.measure(setting.base)
    writer.write(run="base", step=0, kind="result", **before)
    for method in methods:
        best = float("inf")
        for rate in method.learning_rates:
            try:
                trained = _train(call.config, setting, method, rate, writer)
            except NotFinite as error:  # too high a rate is a finding, not the end of the study
                print(error)
                lost = dict.fromkeys(before, float("nan"))
                writer.write(run=method.name, kind="result", learning_rate=rate, **lost)
                continue
            found = setting.measure(method.adapter.merge(setting.base, trained.delta))
            writer.write(
                run=method.name, step=call.config.adapt.steps, kind="result", learning_rate=rate,
                trainable=trained.trainable, optimizer_bytes=trained.optimizer_bytes,
                seconds_per_step=trained.outcome.seconds_per_step, **found,
            )  # fmt: skip
            if found["validation"] < best:
                best = found["validation"]
                folder = call.workdir / "adapter" / method.name
                save_adapter(
                    folder, method.adapter, trained.delta, base=setting.base, overwrite=True
                )


def _train(
    config: Any, setting: Setting, method: Method, rate: float, writer: MetricsWriter
) -> Trained:
    part = config.adapt
    every = -(-part.steps // part.evaluations)
    return _fit.fit(
        setting.fn,
        method.adapter,
        setting.base,
        setting.batches(config),
        part,
        learning_rate=rate,
        key=jax.random.key(config.seed.init),
        plan=Plan(part.steps, f"{method.name}@{rate:g}", config.log_every, every),
        writer=writer,
        evaluate=setting.measure,
    )


def _closed(base: Record, record: Record, full: Record) -> float:
    """The share of full fine-tuning's gain on the test part."""
    gain = base["test"] - full["test"]
    return (base["test"] - record["test"]) / gain if gain > 0 else float("nan")


def _validation(record: Record) -> float:
    value = record["validation"]
    return float("inf") if value is None else value  # a NaN is null in the metrics


def _shown(record: Record, name: str) -> str:
    return "NaN" if record.get(name) is None else f"{record[name]:.3f}"
