import io
import pathlib

import jax
import numpy as np
import pytest

import lorax
from lorax import BitFit, Chain, Full, LoRA, LoraxError
from lorax.core import paths
from lorax.io.loralib import load_loralib, save_loralib
from lorax.models.roberta import Roberta, RobertaConfig
from tests.io.tiny import HEAD, QUERY, VALUE, base_of, delta_of, gpt2, llama, roberta, same
from tests.shared_data import shared

DRAW = np.random.default_rng(0)
ENABLE = (True, False, True)


def _draw(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


def _fused(rank=2, width=16, parts=3, enable=ENABLE):
    """The arrays of `MergedLinear` on both layers of the tiny GPT-2."""
    blocks, arrays = sum(enable), {}
    for i in (0, 1):
        name = f"transformer.h.{i}.attn.c_attn"
        rows = 3 * width // parts * blocks
        arrays |= {f"{name}.lora_A": _draw(rank * blocks, width)}
        arrays |= {f"{name}.lora_B": _draw(rows, rank)}
    return arrays


def _dense(a, b, scale, enable):
    """What loralib adds to the weight, (out, in), part by part."""
    rank, blocks = b.shape[1], iter(range(sum(enable)))
    rows = b.shape[0] // sum(enable)
    parts = []
    for on in enable:
        if not on:
            parts.append(np.zeros((rows, a.shape[1]), np.float32))
            continue
        i = next(blocks)
        parts.append(b[i * rows : (i + 1) * rows] @ a[i * rank : (i + 1) * rank])
    return scale * np.concatenate(parts)


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("enable", [ENABLE, (True, True, True), (False, True, False)])
def test_merged_linear_is_a_block_diagonal_pair(tmp_path, enable, scan):
    model, arrays = gpt2(scan=scan), _fused(enable=enable)
    adapter, delta = load_loralib(arrays, model, alpha=32.0, enable=enable, dropout=0.1)
    assert (adapter.rank, adapter.alpha) == (2 * sum(enable), 32.0 * sum(enable))
    base = base_of(model)
    merged, stored = (paths.flatten(t) for t in (adapter.merge(base, delta), base))
    for i in (0, 1):
        path = f"params/{'layers' if scan else f'layer_{i}'}/attention/qkv/kernel"
        change = np.asarray(merged[path] - stored[path])
        a, b = (arrays[f"transformer.h.{i}.attn.c_attn.lora_{side}"] for side in "AB")
        wanted = _dense(a, b, 32.0 / 2, enable).T
        np.testing.assert_allclose(change[i] if scan else change, wanted, atol=2e-5)
    file = tmp_path / "out.npz"
    assert save_loralib(file, adapter, delta, model, enable=enable) == 32.0
    with np.load(file) as written:
        assert set(written) == set(arrays)
        assert all(written[name].tobytes() == x.tobytes() for name, x in arrays.items())


def test_a_joint_pair_needs_no_enable():
    arrays = {n: _draw(*s) for n, s in {
        "transformer.h.0.attn.c_attn.lora_A": (2, 16),
        "transformer.h.0.attn.c_attn.lora_B": (48, 2),
    }.items()}  # fmt: skip
    adapter, _ = load_loralib(arrays, gpt2(), alpha=4.0)
    assert (adapter.rank, adapter.alpha) == (2, 4.0)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_heads_and_biases_round_trip(tmp_path, form):
    model = roberta()
    adapter = Chain(LoRA(2, 6.0, (QUERY, VALUE)), HEAD, BitFit((".*/query/bias",)))
    delta = delta_of(model, adapter)
    file = tmp_path / "new" / "out.npz"
    assert save_loralib(file, adapter, delta, model) == 6.0
    if form == "safetensors":
        with np.load(file) as arrays:
            lorax.io.tensors.write_tensors(tmp_path / "out.safetensors", dict(arrays))
        file = tmp_path / "out.safetensors"
    loaded, again = load_loralib(file, model, alpha=6.0)
    assert same(again, delta) and [type(m) for m in loaded.members] == [LoRA, Full, BitFit]
    assert loaded.members[0].rank == 2


def test_the_released_adapter_comes_back_bit_for_bit(tmp_path):
    """RoBERTa-base on MNLI: alpha is not in the file; the script says 16."""
    arrays = dict(
        np.load(io.BytesIO(shared("lora_adapters/roberta_base_lora_mnli_lora_only.npz.xz")))
    )
    sizes = {"vocab_size": 50265, "dim": 768, "layers": 12, "heads": 12, "hidden_dim": 3072}
    model = Roberta(RobertaConfig(**sizes, head="classification", labels=3, scan=True))
    adapter, delta = load_loralib(arrays, model, alpha=16)
    assert adapter == LoRA(
        8, 16.0, tuple(f"params/layers/attention/{name}/kernel" for name in ("query", "value"))
    )
    leaf = delta["params/layers/attention/query/kernel"]
    norms = np.linalg.norm(np.asarray(leaf.A) @ np.asarray(leaf.B), axis=(1, 2))
    np.testing.assert_allclose((norms[0], norms[11]), (4.8136, 6.3886), atol=5e-5)
    assert sum(x.size for x in jax.tree.leaves(delta)) == 294_912
    assert save_loralib(tmp_path / "out.npz", adapter, delta, model) == 16
    with np.load(tmp_path / "out.npz") as written:
        assert set(written) == set(arrays)
        assert all(written[name].tobytes() == x.tobytes() for name, x in arrays.items())


NAME = "transformer.h.0.attn.c_attn.lora_A"


@pytest.mark.parametrize(
    ("change", "enable", "message"),
    [
        (lambda a: None, None, r"has lora_A \(4, 16\).*pass enable=\(True, False, True\)"),
        (lambda a: None, (True, False), r"with enable=\(True, False\); load the model"),
        (lambda a: None, (False, False, False), "expected"),
        (lambda a: a.pop(NAME), ENABLE, "lora_B' stands alone"),
        (lambda a: a.update({NAME: a[NAME][:3]}), ENABLE, r"has lora_A \(3, 16\)"),
        (lambda a: a.update({NAME: a[NAME] * np.nan}), ENABLE, f"'{NAME}' .float32.: expected fin"),
        (lambda a: a.update({NAME: a[NAME].astype(int)}), ENABLE, "expected finite floating"),
        (lambda a: a.update({"x.lora_A": a[NAME]}), ENABLE, "'x.lora_A' is not expected"),
        (lambda a: a.update({"transformer.ln_f.bias": a[NAME]}), ENABLE, r"expected \(16,\)"),
        (lambda a: a.clear(), ENABLE, "no array is named <module>.lora_A"),
    ],
)
def test_what_does_not_fit_is_named(change, enable, message):
    arrays = _fused()
    change(arrays)
    with pytest.raises(LoraxError, match=message) as error:
        load_loralib(arrays, gpt2(), alpha=32.0, enable=enable)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    for name, text, message in (
        ("a.pt", b"\x80\x04", "is a pickle"),
        ("a.npz", b"PK\x03\x04 and no more", "cannot read .*expected an .npz"),
        ("b.npz", b"", "cannot read"),
        ("c.npz", b"text", "cannot read"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(LoraxError, match=message):
            load_loralib(tmp_path / name, gpt2(), alpha=1.0)
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object))
    with pytest.raises(LoraxError, match="cannot read"):
        load_loralib(tmp_path / "d.npz", gpt2(), alpha=1.0)
    with pytest.raises(LoraxError, match="No such file"):
        load_loralib(tmp_path / "e.npz", gpt2(), alpha=1.0)


def test_what_cannot_be_written(tmp_path):
    fused = LoRA(rank=4, alpha=8.0, where=(".*/qkv/kernel",))
    two = LoRA(rank=2, where={QUERY: {}, VALUE: {"alpha": 3.0}})
    half = LoRA(rank=2, where=(QUERY,), dtype="bfloat16")
    for model, adapter, fields, message in (
        (gpt2(), fused, {"enable": ENABLE}, "not made of 2 blocks of 3 parts"),
        (llama(), two, {}, r"have alpha \[3.0, 16.0\]: expected one for all"),
        (llama(), half, {}, "is bfloat16, which .npz lacks"),
    ):
        with pytest.raises(LoraxError, match=message):
            save_loralib(tmp_path / "out.npz", adapter, delta_of(model, adapter), model, **fields)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out.npz").write_text("mine")
    delta = delta_of(gpt2(), fused)
    with pytest.raises(LoraxError, match="exists already"):
        save_loralib(tmp_path / "out.npz", fused, delta, gpt2())
    with pytest.raises(LoraxError, match="cannot write"):
        save_loralib(tmp_path / "out.npz" / "in.npz", fused, delta, gpt2())
    save_loralib(tmp_path / "out.npz", fused, delta, gpt2(), overwrite=True)
    assert same(load_loralib(tmp_path / "out.npz", gpt2(), alpha=8.0)[1], delta)
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]


def test_rslora_is_told_by_an_alpha_of_its_own(tmp_path):
    adapter = LoRA(4, 8.0, (QUERY,), scaling="rslora")
    delta = delta_of(llama(), adapter)
    assert save_loralib(tmp_path / "out.npz", adapter, delta, llama()) == 16.0
    assert pathlib.Path(tmp_path / "out.npz").is_file()
