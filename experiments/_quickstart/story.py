"""The quickstart from beginning to end: pre-train, adapt, compare, save, reload, check, draw."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

import lorax
from experiments import _fit, _workdir
from experiments._cli import Call
from experiments._fit import Method, Trained
from experiments._quickstart import table, training
from experiments._quickstart.sample import make_sampler
from experiments._quickstart.setting import Setting, make_setting
from experiments._table import label
from experiments.figures import curves
from lorax.core.errors import LoraxError
from lorax.io.checkpoint import load_adapter, save_adapter, size_on_disk
from lorax.train.metrics import MetricsWriter, read_metrics

TOLERANCE = 1e-3
"""Largest difference of a logit, merged against factored, that float32 rounding explains."""


def tell(call: Call) -> None:
    """Runs the quickstart in a workdir, or prints the report of the run that is there.

    Raises:
      LoraxError: the config or the workdir cannot be used, training became NaN, or the reloaded
        adapter does not do what the trained one did.
    """
    curves.require()
    methods = _fit.methods(call.config)
    setting = make_setting(call.config)
    training.check(call.config, setting, methods)
    with _workdir.entered(call) as needed:
        if not needed:
            return _workdir.show(call.workdir)
        start = time.perf_counter()
        report = _run(call, setting, methods)
        _workdir.finish(call.workdir, report)
        took = time.perf_counter() - start
    print(f"Done in {took / 60:.1f} minutes. Everything is in {call.workdir}")


def _run(call: Call, setting: Setting, methods: list[Method]) -> str:
    config, workdir = call.config, call.workdir
    print(f"English (old): {setting.english}.\nPython  (new): {setting.python}.")
    with MetricsWriter(workdir / "metrics.jsonl") as writer:
        base, pretrained = training.pretrain(config, setting, writer)
        before = setting.measure(base)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(base))
        seconds = pretrained.seconds_per_step
        writer.write(run="base", step=config.pretrain.steps, kind="result", **before,
                     parameters=parameters, seconds_per_step=seconds)  # fmt: skip
        everything = lorax.Full()
        start = everything.init(jax.random.key(0), base)
        save_adapter(workdir / "base", everything, start, base=base)
        kept: dict[str, Trained] = {}
        for method in methods:
            writer.write(run=method.name, step=0, kind="eval", **before)
            kept[method.name] = training.adapt(config, setting, method, base, writer)
        times = training.seconds_per_step(config, setting, base, kept)
        for method in methods:
            found = _result(workdir, setting, method, base, kept[method.name])
            writer.write(**found, seconds_per_step=times[method.name])
    results = [r for r in read_metrics(workdir / "metrics.jsonl") if r["kind"] == "result"]
    chosen = _chosen(methods)
    shown, merged = _reloaded(workdir, setting, chosen, base, kept[chosen.name])
    parts = [
        "# Quickstart: from English to Python source\n",
        f"A LLaMA of {parameters:,} parameters that reads bytes, pre-trained on English and "
        "adapted to Python.\nLower is better. In brackets: the change from the frozen base; on "
        "English that is forgetting.\n",
        table.table(results) + "\n",
        table.reading(results) + "\n",
        shown + "\n",
        _samples(config, setting, chosen, base, merged),
    ]
    figure = workdir / "plots" / "curves.png"
    curves.draw(workdir / "metrics.jsonl", figure)
    parts.append("Curves: plots/curves.png\n")
    report = "\n".join(parts)
    print("\n" + report)
    return report


def _result(
    workdir: pathlib.Path, setting: Setting, method: Method, base: Any, trained: Trained
) -> dict[str, Any]:
    """The method's row of the table; its adapter is on disk afterwards."""
    folder = workdir / "adapter" / method.name
    save_adapter(folder, method.adapter, trained.delta, base=base)
    return {
        "run": method.name,
        "step": int(trained.outcome.state.step),
        "kind": "result",
        **setting.measure(method.adapter.merge(base, trained.delta)),
        "trainable": trained.trainable,
        "optimizer_bytes": trained.optimizer_bytes,
        "adapter_bytes": size_on_disk(folder),
    }


def _chosen(methods: list[Method]) -> Method:
    """The method to look at closely: the last LoRA, of the highest rank; without any, the last."""
    factored = [method for method in methods if isinstance(method.adapter, lorax.LoRA)]
    return (factored or methods)[-1]


def _reloaded(
    workdir: pathlib.Path, setting: Setting, method: Method, base: Any, trained: Trained
) -> tuple[str, Any]:
    """Loads the adapter, checks it, and returns what to say and the merged parameters."""
    folder = workdir / "adapter" / method.name
    adapter, delta = load_adapter(folder)
    same = jax.tree.map(lambda x, y: bool((x == y).all()), delta, trained.delta)
    if adapter != method.adapter or not all(jax.tree.leaves(same)):
        raise LoraxError(f"'{folder}' came back different from what was saved: report this bug")
    inputs = setting.python.batches[0].inputs
    merged = adapter.merge(base, delta)
    plain = setting.model.apply(merged, inputs)
    factored = lorax.adapt(setting.model.apply, adapter)(base, delta, inputs)
    difference = float(jnp.abs(plain - factored).max())
    if not difference <= TOLERANCE:
        raise LoraxError(
            f"merged and factored logits of '{folder}' differ by {difference:.3g}: expected at "
            f"most {TOLERANCE:g}; report this bug"
        )
    return (
        f"Reloaded adapter/{method.name}: bit-identical. Logits merged against factored: largest "
        f"difference {difference:.1e}."
    ), merged


def _samples(config: Any, setting: Setting, method: Method, base: Any, merged: Any) -> str:
    part = config.sample
    sampler = make_sampler(setting.model, part, config.seed.sample)
    texts = (("frozen base", sampler(base)), (label(method.name), sampler(merged)))
    title = f"What each writes after {part.prompt!r} (temperature {part.temperature}):\n"
    return "\n".join([title, *(f"{name}\n```\n{text}\n```\n" for name, text in texts)])
