"""How does a page become a config? Its file is run, and what goes wrong there is one line."""

import importlib.util
import pathlib
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from experiments._cli import UsageError, nearest
from lorax.core.errors import LoraxError


def load_config(name: str) -> Any:
    """The ConfigDict of `path/to/file.py` or `path/to/file.py:argument`.

    Raises:
      UsageError: there is no such file, it is no config, or it fails.
      LoraxError: the page refuses its argument.
    """
    path = name.partition(":")[0]
    module, argument = load_page(name)
    if not hasattr(module, "get_config"):
        raise UsageError(f"config file '{path}' has no get_config(arg): see configs/quickstart.py")
    try:
        config = module.get_config(argument)
    except LoraxError:
        raise
    except Exception as error:
        raise broken(path, error) from None
    for field in _lists(config, "config"):
        raise UsageError(
            f"{field} in '{path}' is a list, which no flag can override: write a tuple, (...,)"
        )
    return config


def load_page(name: str) -> tuple[ModuleType, str]:
    """The module of a page, for what it has beside its config, and the words behind the colon.

    Raises:
      UsageError: there is no such file, or it fails.
    """
    path, _, argument = name.partition(":")
    return _run(path), argument


def broken(path: str, error: Exception) -> UsageError:
    """What is told of an error in the code of a page: which line of it fails, and how."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    place = f"{path}:{lines[-1]}" if lines else path
    return UsageError(f"config file {place} fails: {type(error).__name__}: {error}")


def _run(path: str) -> ModuleType:
    file = pathlib.Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() and file.suffix else pathlib.Path("configs")
        pages = [str(p) for p in folder.glob("*.py") if not p.stem.startswith("_")]
        named = str(folder / f"{file.stem}.py")
        near = f"; did you mean '{named}'?" if named in pages else nearest(str(file), pages)
        raise UsageError(
            f"config file '{path}' does not exist{near}: give --config=path/to/file.py"
        )
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(
            f"config file '{path}' is not a Python file: expected a name ending in .py"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise broken(path, error) from None
    return module


def _lists(node: Any, name: str) -> Iterator[str]:
    for field, value in node.items():
        if isinstance(value, list):
            yield f"{name}.{field}"
        elif hasattr(value, "to_dict"):
            yield from _lists(value, f"{name}.{field}")
