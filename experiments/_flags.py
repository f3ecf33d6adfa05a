"""How does a verb without a config meet its user? Flags of its own, checked by argparse.

A mistake is one line on standard error and a non-zero exit code, as in `experiments/_cli.py`.
"""

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from experiments import _cli

MODEL_HELP = (
    "a Hugging Face directory, a repository id such as openai-community/gpt2 (needs a network), or "
    "a llama2.c .bin file"
)
ADAPTER_HELP = "an adapter: a PEFT directory, or one that lorax saved"
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
        print(parser.format_help().rstrip())
        return 0
    return _cli.guarded(lambda: verb(parser.parse_args(argv)))


def model_flags(parser: Parser, *, required: bool = True) -> None:
    """--model, --revision and --dtype, for `load_model`."""
    parser.add_argument("--model", required=required, metavar="SOURCE", help=MODEL_HELP)
    parser.add_argument("--revision", help="branch, tag or commit of a repository id")
    parser.add_argument("--dtype", help="of the weights, such as bfloat16 (default: as stored)")


def load_model(flags: argparse.Namespace) -> Any:
    """The `Pretrained` of `model_flags`; says what is going on if it takes long.

    Raises:
      LoraxError: as `lorax.io.pretrained.load`.
    """
    from lorax.io import pretrained

    with working(f"reading {flags.model}"):
        return pretrained.load(flags.model, dtype=flags.dtype, revision=flags.revision)


def load_adapter(directory: str, loaded: Any) -> tuple[Any, Any]:
    """(adapter, delta) of a directory in either format, told apart by its files.

    Raises:
      LoraxError: it holds neither, is damaged, or does not fit the model `loaded`.
    """
    import pathlib

    from lorax.core.errors import LoraxError
    from lorax.io import checkpoint, peft

    folder = pathlib.Path(directory)
    if (folder / checkpoint.JSON_NAME).is_file():
        return checkpoint.load_adapter(folder)
    if not folder.is_dir():
        raise LoraxError(f"no adapter at '{folder}': expected a directory; check the path")
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
