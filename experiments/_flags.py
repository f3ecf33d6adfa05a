"""How does a verb without a config meet its user? Flags of its own, checked by argparse.

A mistake is one line on standard error and a non-zero exit code, as in `experiments/_cli.py`.
"""

import argparse
import contextlib
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from experiments import _cli

MODEL_HELP = (
    "a Hugging Face directory, a repository id such as openai-community/gpt2 (needs a network), a "
    "llama2.c .bin file, or a --workdir of experiments.train, whose adapter is in DIR/adapter"
)
ADAPTER_HELP = "an adapter: a PEFT directory, or one that lorax saved"
SPELLINGS = (
    (r"\btied=False", "--untied"),
    (r"\boverwrite=True", "--overwrite"),
    (r"\bdtype=(['\"])(\w+)\1", r"--dtype=\2"),
    (r"\bpass base=.*", "give --model"),
    (r"\bbase= and rank=", "--model and --rank"),
    (r"\bleave_out=True", "--leave_out"),
    (r"(?<!-)\bdensity is ", "--density is "),
    (
        r"(?<!-)\b(max_new_tokens|temperature|top_[kp]|beams|length_penalty|no_repeat_ngram)"
        r"(?==| is | out\b)",
        r"--\1",
    ),
    (r" and a key\b", ""),
)
"""What lorax says of its arguments, and how that is typed."""

QUIET = 2.0
"""Seconds before a long piece of work shows that it goes on."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print the usage and exit."""

    def __init__(self, verb: str, doc: str | None):
        super().__init__(
            prog=f"python -m experiments.{verb}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """One line, and where to read on."""
        raise _cli.UsageError(f"{message}; see --help")


def run(
    verb: Callable[[argparse.Namespace], None], parser: Parser, argv: Sequence[str] | None
) -> int:
    """Parses `argv` (None means the process's own), runs `verb`, and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(arg in ("-h", "--help") for arg in argv):
        return _cli.guarded(lambda: print(parser.format_help().rstrip()))
    return _cli.guarded(lambda: verb(parser.parse_args(argv)), typed)


def typed(message: str) -> str:
    """`message` with the arguments of functions spelt as flags."""
    for pattern, flag in SPELLINGS:
        message = re.sub(pattern, flag, message)
    return message


def place(text: str) -> str:
    """A path or name of the command line, `~` expanded; for argparse's `type`."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: expected a path")
    return os.path.expanduser(text)


def model_flags(parser: Parser, *, required: bool = True) -> None:
    """--model, --revision, --dtype and --untied, for `load_model`."""
    add = parser.add_argument
    add("--model", type=place, required=required, metavar="SOURCE", help=MODEL_HELP)
    add("--revision", help="branch, tag or commit of a repository id")
    add("--dtype", help="of the weights, such as bfloat16 (default: as stored)")
    add("--untied", action="store_true", help="give the head a copy of the embedding of its own")


def adapter_flag(parser: Parser, *, required: bool = False, help: str = ADAPTER_HELP) -> None:
    """--adapter, for `load_adapter`."""
    parser.add_argument("--adapter", type=place, required=required, metavar="DIR", help=help)


def out_flags(parser: Parser, what: str) -> None:
    """--out and --overwrite, for `check_out`."""
    add = parser.add_argument
    add("--out", type=place, required=True, metavar="DIR", help=f"where the {what} goes")
    add("--overwrite", action="store_true", help=f"replace the {what} that is there")


def check_out(flags: argparse.Namespace, mark: str, *, safetensors: bool = False) -> None:
    """Finds out before the work whether its result can be written.

    Args:
      flags: with those of `out_flags`, and what is read: --model, --adapter, --adapters.
      mark: the file that tells what such a directory holds, "config.json" say.
      safetensors: whether it takes that library.

    Raises:
      LoraxError: --out is taken, cannot be made, or holds what is read; or the library is missing.
    """
    from lorax.core.errors import LoraxError
    from lorax.io.atomic import check_free
    from lorax.io.tensors import safetensors_for

    out = pathlib.Path(flags.out).resolve()
    read = [(flag, getattr(flags, flag, None)) for flag in ("model", "adapter")]
    read += [("adapters", directory) for directory in getattr(flags, "adapters", ())]
    for flag, text in read:
        if text is None:
            continue
        source = pathlib.Path(text).resolve()
        if source.exists() and source.is_relative_to(out):
            raise LoraxError(
                f"--out='{flags.out}' is where --{flag} lies: choose another directory"
            )
    check_free(pathlib.Path(flags.out), mark, flags.overwrite)
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise LoraxError(
            f"cannot write into '{parent}', where --out lies: choose another directory"
        )
    if safetensors:
        safetensors_for(flags.out)


def load_model(flags: argparse.Namespace) -> Any:
    """The `Pretrained` of `model_flags`; says what is going on if it takes long.

    Raises:
      LoraxError: as `lorax.io.pretrained.load`; an adapter is there instead; or --adapter names
        nothing, which is told before the model is read.
    """
    from lorax.core.errors import LoraxError
    from lorax.io import checkpoint, peft_config, pretrained
    from lorax.io.hf_files import CONFIG

    if getattr(flags, "adapter", None) and not os.path.isdir(flags.adapter):
        raise LoraxError(f"no adapter at '{flags.adapter}': expected a directory; check the path")
    folder = pathlib.Path(flags.model)
    if (folder / "config.json").is_file():
        from experiments._train.loading import is_run, load_run

        if is_run(folder):
            with working(f"reading the run in {flags.model}"):
                return load_run(folder)
    for name in (checkpoint.JSON_NAME, peft_config.CONFIG_NAME):
        if (folder / name).is_file() and not (folder / CONFIG).is_file():
            raise LoraxError(
                f"--model='{folder}' is an adapter (it holds {name}): give it as --adapter, and "
                "the model that it belongs to as --model"
            )
    with working(f"reading {flags.model}"):
        return pretrained.load(
            flags.model, dtype=flags.dtype, revision=flags.revision,
            tied=False if flags.untied else None,
        )  # fmt: skip


def load_adapter(directory: str, loaded: Any) -> tuple[Any, Any]:
    """(adapter, delta) of a directory in either format, told apart by its files.

    Raises:
      LoraxError: it holds neither, is damaged, or does not fit the model `loaded`.
    """
    from lorax.io import checkpoint, peft

    folder = pathlib.Path(directory)
    if (folder / checkpoint.JSON_NAME).is_file():
        return checkpoint.load_adapter(folder)
    return peft.load(folder, loaded)


@contextlib.contextmanager
def working(label: str) -> Iterator[None]:
    """Shows on standard error that work goes on, once it has taken two seconds.

    A terminal gets a moving bar with the time taken, anything else one line.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(label, done, time.monotonic()), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(label: str, done: threading.Event, start: float) -> None:
    if done.wait(QUIET):
        return
    bar = _bar(label) if sys.stderr.isatty() else None
    if bar is None:
        print(f"{label} ...", file=sys.stderr, flush=True)
        done.wait()
        print(f"{label}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        return
    with bar:
        done.wait()


def _bar(label: str) -> Any:
    try:
        from rich import console, progress
    except ImportError:
        return None
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30, pulse_style="cyan"),
        progress.TimeElapsedColumn(),
    )
    bar = progress.Progress(*columns, console=console.Console(file=sys.stderr), transient=True)
    bar.add_task(label, total=None)
    return bar
