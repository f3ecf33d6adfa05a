"""llama2.c checkpoints: the layout, the rotary pairs, and damage. The real one is in
test_pretrained."""

import lzma
import struct

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.llama2c import half_split, open_llama2c
from lorax.io.names import entries, leaf_shapes

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 8, 12, 2, 2, 1, 10, 6
NARROW = DIM // HEADS * KV_HEADS
FLOATS = (
    VOCABULARY * DIM
    + LAYERS * (2 * DIM + 2 * DIM * DIM + 2 * NARROW * DIM + 3 * HIDDEN * DIM)
    + DIM
    + CONTEXT * DIM // HEADS
)


def checkpoint(path, *, vocabulary=VOCABULARY, header=None, extra=0):
    """A checkpoint whose n-th float is n."""
    header = header or (DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocabulary, CONTEXT)
    count = FLOATS + (VOCABULARY * DIM if vocabulary < 0 else 0) + extra
    data = struct.pack("<7i", *header) + np.arange(count, dtype="<f4").tobytes()
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


def refused(path, *words):
    with pytest.raises(LoraxError) as caught:
        open_llama2c(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["x.bin", "x.bin.xz"])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, -VOCABULARY], ids=["tied", "untied"])
def test_every_tensor_is_there_with_its_shape(tmp_path, name, vocabulary):
    model, sources = open_llama2c(checkpoint(tmp_path / name, vocabulary=vocabulary))
    assert model.config.tied == (vocabulary > 0)
    assert set(sources) == {entry.name for entry in entries(model)}
    shapes = leaf_shapes(model)
    for entry in entries(model):
        array = sources[entry.name].read()
        assert (array.shape, array.dtype) == (sources[entry.name].shape, np.float32)
        turned = array.shape[::-1] if entry.kind == "linear" else array.shape
        assert turned == shapes[entry.path].shape


def test_blocks_are_in_the_order_of_the_file(tmp_path):
    _, sources = open_llama2c(checkpoint(tmp_path / "x.bin", vocabulary=-VOCABULARY))
    first = VOCABULARY * DIM
    layers = [sources[f"model.layers.{i}.input_layernorm.weight"].read()[0] for i in (0, 1)]
    assert layers == [first, first + DIM]
    queries = first + LAYERS * DIM
    assert sources["model.layers.1.self_attn.q_proj.weight"].read()[0, 0] == queries + DIM * DIM
    assert sources["lm_head.weight"].read()[-1, -1] == FLOATS + VOCABULARY * DIM - 1
    down, up = (sources[f"model.layers.0.mlp.{n}_proj.weight"].read()[0, 0] for n in ("down", "up"))
    assert up - down == LAYERS * HIDDEN * DIM


def test_half_split_puts_the_even_rows_of_a_head_first():
    rows = np.arange(8)[:, None] * np.ones((1, 3))
    assert half_split(rows, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_products_of_turned_queries_and_keys_are_unchanged():
    """Interleaved pairs before, halves after: the rotation finds the same partners."""
    rng = np.random.default_rng(0)
    angle, H = rng.normal(size=3), 6
    q, k = rng.normal(size=(2, H, 4))
    x = rng.normal(size=4)

    def interleaved(v):
        even, odd = v[0::2], v[1::2]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(-1)

    def halves(v):
        a, b = v[:3], v[3:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin])

    theirs = interleaved(q @ x) @ (k @ x)
    ours = halves(half_split(q, H) @ x) @ (half_split(k, H) @ x)
    assert np.isclose(theirs, ours)


def test_another_size_than_the_header_says_is_refused(tmp_path):
    for name in ("x.bin", "x.bin.xz"):
        for extra in (-1, 1):
            found = f"{28 + 4 * (FLOATS + extra):,}" if extra < 0 else "more"
            said = f"its header says {28 + 4 * FLOATS:,} bytes, it has {found})"
            refused(checkpoint(tmp_path / name, extra=extra), said)


@pytest.mark.parametrize(
    "header, words",
    [
        ((0, 12, 2, 2, 1, 10, 6), "no seven sizes"),
        ((8, 12, 2, 2, 1, 0, 6), "no seven sizes"),
        ((8, 12, 2, 2, 1, 10, -6), "no seven sizes"),
        ((2**30, 12, 2, 2, 1, 10, 6), "no seven sizes"),
        ((8, 12, 2, 3, 1, 10, 6), "dim must be a multiple of heads"),
        ((0x616B3432, 1, 8, 12, 2, 2, 1), "no seven sizes"),
    ],
)
def test_a_wrong_header_is_one_line(tmp_path, header, words):
    refused(checkpoint(tmp_path / "x.bin", header=header), "no llama2.c checkpoint", words)


def test_damage_and_pickles_are_one_line(tmp_path):
    path = tmp_path / "x.bin"
    for content in (b"", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        refused(path, "a pickle is not read")
    path.unlink()
    refused(path, "cannot read")
    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"PK\x03\x04")
    refused(pickled, "is a pickle", "save_pretrained")
    packed = checkpoint(tmp_path / "x.bin.xz")
    packed.write_bytes(packed.read_bytes()[:-20])
    refused(packed, "no llama2.c checkpoint")
    packed.write_bytes(b"not xz at all" * 10)
    refused(packed, "not a whole xz file")
