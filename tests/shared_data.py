"""Where is the shared data? Real weights and texts that tests use where they are at hand."""

import lzma
import os
import pathlib

import pytest

_DEFAULT = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> bytes:
    """The bytes of `name` below the data folder, decompressed if it ends in .xz; or a skip."""
    file = shared_path(name)
    return lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()


def shared_path(name: str) -> pathlib.Path:
    """The path of `name` below the data folder; skips the test where it is missing."""
    folder = pathlib.Path(os.environ.get("LORAX_DATA", _DEFAULT))
    file = folder / name
    if not file.exists():
        pytest.skip(f"'{name}' not found: set LORAX_DATA to the folder that holds it ({folder})")
    return file
