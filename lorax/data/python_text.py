"""Text that ships with Python: English prose and Python source, with no download.

What is there differs a little between Python versions and distributions; a missing piece is left
out. The two sets share no file, and no docstring of the source is part of the English.
"""

import builtins
import importlib
import os
import pathlib
import types
from collections.abc import Iterator

C_MODULES = (
    "_collections", "_functools", "_io", "_operator", "_random", "_sre", "_struct", "array",
    "atexit", "binascii", "builtins", "errno", "faulthandler", "gc", "itertools", "marshal", "math",
    "cmath", "posix", "pwd", "resource", "select", "signal", "sys", "termios", "time", "zlib",
)  # fmt: skip
"""Modules written in C: their docstrings stand in no .py file."""

LONG = 80
"""Characters from which a docstring is prose and not a remark."""

LEFT_OUT = ("_py", "_sysconfigdata", "__phello__", "this.py")
"""Beginnings of names: twins of C modules, whose docstrings are the same; untypical source."""


def english() -> dict[str, bytes]:
    """English prose about Python: the language reference, docstrings of C code, text files.

    By name: the topics of `pydoc` (`topics/...`, 460 kB, of which a fifth is there twice, in a
    chapter of the language reference and as a part of its own), long docstrings of modules written
    in C (`docstrings/...`), text files of the standard library (`files/...`).
    """
    return {**_topics(), **_docstrings(), **_text_files()}


def python_source() -> dict[str, bytes]:
    """The single-file modules of the standard library, `argparse.py` and so on, by file name.

    Packages (and with them tests, tables of encodings, installed packages and the English of
    `pydoc_data`) are left out, and so are files that are not typical source.
    """
    files = sorted(_library().glob("*.py"))
    return {file.name: file.read_bytes() for file in files if not file.name.startswith(LEFT_OUT)}


def _library() -> pathlib.Path:
    return pathlib.Path(os.path.dirname(os.__file__))


def _topics() -> dict[str, bytes]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        return {}
    return {f"topics/{name}": text.encode() for name, text in topics.items()}


def _docstrings() -> dict[str, bytes]:
    """One document a module."""
    found = {}
    for name in C_MODULES:
        try:
            module = builtins if name == "builtins" else importlib.import_module(name)
        except ImportError:
            continue
        if getattr(module, "__file__", None) and str(module.__file__).endswith(".py"):
            continue
        texts = sorted({text for text in _docs_of(module) if len(text) >= LONG})
        if texts:
            found[f"docstrings/{name}"] = "\n\n".join(texts).encode()
    return found


def _docs_of(module: types.ModuleType) -> Iterator[str]:
    """Docstrings of a module, of what is in it, and of what is in its classes."""
    for thing in [module, *vars(module).values()]:
        yield from _doc(thing)
        if isinstance(thing, type):
            for member in vars(thing).values():
                yield from _doc(member)


def _doc(thing: object) -> Iterator[str]:
    kinds = (type, types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType)
    text = getattr(thing, "__doc__", None)
    # an instance would answer with the docstring of its class
    if isinstance(thing, kinds) and isinstance(text, str):
        yield text


def _text_files() -> dict[str, bytes]:
    library, found = _library(), {}
    for place in (library, library / "idlelib", library / "turtledemo"):
        for file in sorted(place.glob("*.txt")) + sorted(place.glob("README*")):
            try:
                found[f"files/{place.name}/{file.name}"] = file.read_bytes()
            except OSError:
                continue
    return found
