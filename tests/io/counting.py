"""Counts the bytes of tensors that are asked of safetensors files."""

import contextlib
import types
from unittest import mock

from lorax.io import tensors


class _Opened:
    """A handle that adds up what is read through it."""

    def __init__(self, inner, count):
        self._inner, self._count = inner, count

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def get_tensor(self, name):
        array = self._inner.get_tensor(name)
        self._count[name] = self._count.get(name, 0) + array.nbytes
        return array

    def get_slice(self, name):
        return _Slice(self._inner.get_slice(name), name, self._count)


class _Slice(_Opened):
    def __init__(self, inner, name, count):
        super().__init__(inner, count)
        self._name = name

    def __getitem__(self, index):
        array = self._inner[index]
        self._count[self._name] = self._count.get(self._name, 0) + array.nbytes
        return array


@contextlib.contextmanager
def counted():
    """The bytes that are read inside, by tensor."""
    import safetensors.numpy

    count: dict[str, int] = {}

    @contextlib.contextmanager
    def opened(*arguments, **options):
        with safetensors.safe_open(*arguments, **options) as file:
            yield _Opened(file, count)

    library = types.SimpleNamespace(
        safe_open=opened, SafetensorError=safetensors.SafetensorError, numpy=safetensors.numpy
    )
    with mock.patch.object(tensors, "safetensors_for", lambda path: library):
        yield count
