"""Safetensors files: against the reference implementation, and with every kind of damage."""

import json
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.tensors import Source, open_tensors, read_tensors, write_tensors


def arrays():
    rng = np.random.default_rng(0)
    return {
        "transposed": rng.normal(size=(3, 5)).astype(np.float32).T,
        "half": np.asarray(jnp.asarray(rng.normal(size=(4, 2)), jnp.bfloat16)),
        "fortran": np.asfortranarray(rng.normal(size=(2, 3, 4))),
        "scalar": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.int32),
        "flags": np.array([True, False, True]),
        "odd": np.arange(3, dtype=np.uint8),
    }


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def write_raw(path, header, data=b"", *, length=None):
    """A file with this header, which may be anything, and the bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def entry(start=0, stop=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def refused(path, *words):
    with pytest.raises(LoraxError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message
    return message


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    write_tensors(tmp_path / "x.safetensors", arrays(), {"format": "pt", "who": "us"})
    same(read_tensors(tmp_path / "x.safetensors"), arrays())
    assert open_tensors(tmp_path / "x.safetensors").metadata == {"format": "pt", "who": "us"}


def test_the_reference_implementation_reads_what_we_write(tmp_path):
    flax = pytest.importorskip("safetensors.flax")
    wanted = {k: v for k, v in arrays().items() if v.dtype != np.float64}
    write_tensors(tmp_path / "x.safetensors", wanted)
    same({k: np.asarray(v) for k, v in flax.load_file(tmp_path / "x.safetensors").items()}, wanted)


def test_we_read_what_the_reference_implementation_writes(tmp_path):
    flax = pytest.importorskip("safetensors.flax")
    wanted = {k: jnp.asarray(v) for k, v in arrays().items() if v.dtype != np.float64}
    flax.save_file(wanted, tmp_path / "x.safetensors")
    same(read_tensors(tmp_path / "x.safetensors"), {k: np.asarray(v) for k, v in wanted.items()})


def test_sources_are_read_in_their_turn_and_checked(tmp_path):
    asked = []

    def source(name, size):
        def read():
            asked.append(name)
            return np.full((size,), size, np.float32)

        return Source(np.float32, (size,), read)

    write_tensors(tmp_path / "x.safetensors", {"b": source("b", 2), "a": source("a", 3)})
    assert asked == ["b", "a"]
    assert read_tensors(tmp_path / "x.safetensors")["a"].tolist() == [3, 3, 3]

    lying = Source(np.float32, (4,), lambda: np.zeros(3, np.float32))
    with pytest.raises(LoraxError, match="tensor 'a' is float32 of shape"):
        write_tensors(tmp_path / "y.safetensors", {"a": lying})


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(LoraxError, match="'z' is complex64"):
        write_tensors(tmp_path / "x.safetensors", {"z": np.zeros(2, np.complex64)})


def test_shape_and_finiteness_are_checked_on_request(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.array([1, np.nan], np.float32), "n": np.arange(2)})
    file = open_tensors(path)
    assert np.isnan(file.read("a", (2,))[1])
    assert file.read("n", finite=True).tolist() == [0, 1]
    with pytest.raises(LoraxError, match=r"'a' holds NaN"):
        file.read("a", finite=True)
    with pytest.raises(LoraxError, match=r"'a' has shape \(2,\), expected \(2, 1\)"):
        file.read("a", (2, 1))
    with pytest.raises(LoraxError, match="lacks the tensor 'b'"):
        file.read("b")


def test_every_truncation_is_noticed(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": np.arange(4.0), "b": np.arange(3)})
    whole = (tmp_path / "x.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        refused(cut)
    cut.write_bytes(whole + b"\0")
    refused(cut, "damaged", "not fully covered")


def test_no_flipped_bit_of_the_header_is_a_crash(tmp_path):
    """Names and metadata may change unnoticed; anything else is refused, and nothing hangs."""
    write_tensors(tmp_path / "x.safetensors", {"a": np.arange(2.0), "b": np.arange(3)})
    whole = (tmp_path / "x.safetensors").read_bytes()
    length, flipped = int.from_bytes(whole[:8], "little"), tmp_path / "flipped.safetensors"
    silent = 0
    for bit in range(8 * (8 + length)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(data)
        try:
            read_tensors(flipped)
            silent += 1
        except LoraxError as error:
            assert "\n" not in str(error)
    assert silent < 8 * length / 2


@pytest.mark.parametrize(
    "header, words",
    [
        (b"{" + b"[" * 200_000, "invalid JSON"),
        (b'{"a":{"dtype":"F32"', "invalid JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "invalid JSON"),
        (b'{"\xff":1}', "invalid UTF-8"),
        ({"a": 3}, "invalid JSON"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "missing field"),
        ({"a": entry() | {"data_offsets": [0, 8, 9]}}, "invalid JSON"),
        ({"a": entry(shape=(-2,))}, "integer `-2`"),
        ({"a": entry() | {"shape": [2.0]}}, "floating point"),
        ({"a": entry() | {"shape": "2"}}, "invalid JSON"),
        ({"a": entry(shape=(2**62, 2**62))}, "verflow"),
        ({"a": entry(dtype="F7")}, "unknown variant `F7`"),
        ({"a": entry(dtype="F8_E4M3", shape=(8,))}, "has dtype 'F8_E4M3'"),
        ({"a": entry(0, 4)}, "invalid shape"),
        ({"a": entry(), "b": entry()}, "invalid offset"),
        ({"a": entry(4, 12)}, "invalid offset"),
        ({"a": entry(0, 8), "b": entry(8, 16)}, "not fully covered"),
        ({"__metadata__": ["pt"], "a": entry()}, "invalid JSON"),
        ({"__metadata__": {"format": 1}, "a": entry()}, "invalid JSON"),
    ],
)
def test_a_wrong_header_is_one_line(tmp_path, header, words):
    refused(write_raw(tmp_path / "x.safetensors", header, bytes(8)), words)


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path):
    for length, words in ((10**6, "invalid header length"), (2**63, "header too large")):
        refused(write_raw(tmp_path / "x.safetensors", b"{}", length=length), words)


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    payload = pickle.dumps({"a": print})
    renamed = tmp_path / "model.safetensors"
    renamed.write_bytes(payload)
    assert "safe_serialization=True" in refused(renamed, "pickle", str(tmp_path))
    with zipfile.ZipFile(renamed, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    refused(renamed, "pickle", "save_pretrained")
    for name in ("pytorch_model.bin", "model.pt", "model.pth"):
        (tmp_path / name).write_bytes(payload)
        refused(tmp_path / name, "is a pickle", "save_pretrained")


def test_other_files_under_the_name_are_told_apart(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(path, "Git LFS pointer")
    path.write_bytes(b"<!DOCTYPE html>")
    refused(path, "no safetensors file")
    path.write_bytes(b"")
    refused(path, "no safetensors file")
    path.unlink()
    refused(path, "cannot read", "No such file")
    path.mkdir()
    refused(path, "cannot read")


def test_a_file_cut_after_it_was_opened_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(4.0)})
    file = open_tensors(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(LoraxError, match="is damaged"):
        file.read("a")
