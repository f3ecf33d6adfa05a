"""Scores a model, with or without an adapter, on tasks of lm-eval.

    python -m experiments.lm_eval_tasks --model=DIR [--adapter=DIR] --tasks=lambada_openai,piqa

A task is a name that lm-eval knows, whose data it downloads, or the YAML file of one of your own.
The adapter stays factored. --out=FILE also writes everything that lm-eval tells, as JSON.
"""

import argparse
import difflib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import _cli, _flags, _table


def verb(flags: argparse.Namespace) -> None:
    """Loads, evaluates, prints."""
    _check_out(flags)
    import lorax
    from lorax.core.errors import LoraxError
    from lorax.evaluation.lm_eval_model import make_lm_eval_model

    tasks = _tasks(flags.tasks)
    loaded = _flags.load_model(flags)
    if loaded.tokenizer is None:
        raise LoraxError(f"'{flags.model}' has no tokenizer beside it: put its files there")
    apply, delta = loaded.model.apply, None
    if flags.adapter is not None:
        adapter, delta = _flags.load_adapter(flags.adapter, loaded)
        apply = lorax.adapt(apply, adapter)
    model = make_lm_eval_model(
        apply, loaded.base, delta, loaded.tokenizer, batch_size=flags.batch_size
    )
    import lm_eval

    with _flags.working("evaluating"):
        found = lm_eval.simple_evaluate(
            model=model, tasks=tasks, limit=flags.limit, num_fewshot=flags.num_fewshot,
            model_args={"model": flags.model, "adapter": flags.adapter}, log_samples=False,
            task_manager=_manager(defaults=False),
        )  # fmt: skip
    print(table(found))
    if flags.out is not None:
        _write(pathlib.Path(flags.out), found)


def table(found: Mapping[str, Any]) -> str:
    """One row a task and metric of what `lm_eval.simple_evaluate` returns, with standard errors."""
    rows = [["task and metric", "value", "± error", "examples"]]
    for task, numbers in found["results"].items():
        counts = found.get("n-samples", {}).get(task, {})
        for key, value in numbers.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr"):
                continue
            name = f"{task} {metric}" + (f" ({kept})" if kept != "none" else "")
            error = numbers.get(f"{metric}_stderr,{kept}", "")
            rows.append([name, _short(value), _short(error), str(counts.get("effective", ""))])
    return _table.markdown(rows)


def _short(value: Any) -> str:
    return f"{value:.4f}" if hasattr(value, "__float__") else "" if value == "N/A" else str(value)


def _manager(*, defaults: bool) -> Any:
    from lorax.core.errors import LoraxError

    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise LoraxError("lm-eval is not installed: pip install 'lorax-flax[lm-eval]'") from None
    with _flags.working("reading the names of lm-eval's tasks"):
        return TaskManager(include_defaults=defaults)


def _tasks(text: str) -> list[Any]:
    """The tasks and groups of --tasks, with their data, before a model is read."""
    from lorax.core.errors import LoraxError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise _cli.UsageError("--tasks names none: give --tasks=NAME,NAME")
    # reading every task that lm-eval knows takes seconds, and a file needs none of them
    manager = _manager(defaults=not all(map(os.path.isfile, names)))
    found: list[Any] = []
    for name in names:
        if name not in manager.all_tasks and not os.path.isfile(name):
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise _cli.UsageError(
                f"--tasks: lm-eval knows no '{name}', and there is no such file{hint}"
            )
        with _flags.working(f"reading {name}"):
            try:
                loaded = manager.load(name)
            except Exception as error:  # of a task's own code, of its YAML, of the network
                reason = " ".join(str(error).split()) or type(error).__name__
                raise LoraxError(
                    f"lm-eval cannot load '{name}' ({reason}): check the task, and the network "
                    "or HF_HOME that its data come from"
                ) from None
        groups = list(loaded["groups"].values())  # the outermost first; it knows its tasks
        found += groups[:1] or loaded["tasks"].values()
    return found


def _check_out(flags: argparse.Namespace) -> None:
    if flags.out is None:
        return
    file = pathlib.Path(flags.out)
    if file.is_dir() or (file.exists() and not flags.overwrite):
        raise _cli.UsageError(
            f"--out='{file}' exists already: choose another file, or give --overwrite"
        )
    if not os.access(file.parent, os.W_OK):
        raise _cli.UsageError(f"--out='{file}': its folder is missing, or cannot be written")


def _write(file: pathlib.Path, found: Mapping[str, Any]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(found, indent=2, default=str) + "\n", "utf-8")
    partial.replace(file)


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"it is {text}: expected a whole number above 0")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("lm_eval_tasks", __doc__)
    _flags.model_flags(parser)
    _flags.adapter_flag(parser)
    add = parser.add_argument
    add("--tasks", required=True, metavar="NAMES", help="names or YAML files, with commas between")
    add("--limit", type=_whole, metavar="N", help="examples of each task (default: all)")
    add("--num_fewshot", type=int, metavar="N", help="examples in a prompt (default: the task's)")
    add("--batch_size", type=_whole, default=16, metavar="N", help="requests at once (default 16)")
    add("--out", type=_flags.place, metavar="FILE", help="also write all results there, as JSON")
    add("--overwrite", action="store_true", help="replace the file that is there")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
