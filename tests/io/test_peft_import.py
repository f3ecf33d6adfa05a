import warnings

import numpy as np
import pytest

import lorax
from lorax import Chain, LoRA, LoraxError, LoraxWarning
from lorax.io import peft_import
from lorax.io.peft_config import CONFIG_NAME, TENSORS_NAME
from lorax.io.peft_import import load_peft
from lorax.io.peft_names import PREFIX, Tensor, factor_keys, matrices, tensor_table
from tests.io.tiny import base_of, gpt2, llama, roberta, same, write

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
DRAW = np.random.default_rng(0)


def _draw(*shape, dtype=np.float32):
    return DRAW.normal(size=shape).astype(dtype)


def _factors(tensor: Tensor, rank=2, dtype=np.float32):
    fan_in, fan_out = tensor.sides
    arrays = _draw(rank, fan_in, dtype=dtype), _draw(fan_out, rank, dtype=dtype)
    return {PREFIX + key: array for key, array in zip(factor_keys(tensor), arrays, strict=True)}


def _tensors(model, *names, **fields):
    """Random factors for the modules that end so."""
    found = {}
    for name, tensor in matrices(tensor_table(model)).items():
        if name.endswith(names):
            found |= _factors(tensor, **fields)
    return found


def _load(tmp_path, config, tensors, model, base=None):
    return load_peft(write(tmp_path / "in", CONFIG | config, tensors), model, base=base)


QUERIES = {"target_modules": ["q_proj"]}
KEY = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
def test_linear(tmp_path, scan):
    model = llama(scan=scan)
    tensors = _tensors(model, "q_proj")
    adapter, delta = _load(tmp_path, QUERIES | {"lora_dropout": 0.1}, tensors, model)
    where = "params/layers/" if scan else r"params/layer_\d+/"
    assert adapter == LoRA(2, 4.0, (f"{where}attention/query/kernel",), dropout=0.1)
    leaf = delta[f"params/{'layers' if scan else 'layer_0'}/attention/query/kernel"]
    np.testing.assert_array_equal(leaf.A[0] if scan else leaf.A, tensors[KEY].T)


def test_names_of_adapters_in_older_files(tmp_path):
    tensors = _tensors(llama(), "q_proj", "embed_tokens")
    named = {
        key.replace(".weight", ".default.weight") if key.endswith("weight") else key + ".default": x
        for key, x in tensors.items()
    }
    config = {"target_modules": ["q_proj", "embed_tokens"]}
    one, other = (_load(tmp_path, config, file, llama()) for file in (tensors, named))
    assert one[0] == other[0] and same(one[1], other[1])
    with pytest.raises(LoraxError, match="are one: expected one"):
        _load(tmp_path, config, tensors | named, llama())


def test_ranks_and_alphas_by_pattern(tmp_path):
    model = llama()
    tensors = _tensors(model, "0.self_attn.q_proj", rank=3) | _tensors(model, "1.self_attn.q_proj")
    config = {"rank_pattern": {r"layers\.0\..*": 3}, "alpha_pattern": {"q_proj": 1.5}}
    adapter, _ = _load(tmp_path, QUERIES | config, tensors, model)
    first, second = (f"params/layer_{i}/attention/query/kernel" for i in (0, 1))
    assert (adapter.rank_of(first), adapter.rank_of(second), adapter.alpha_of(first)) == (3, 2, 1.5)
    for field in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(LoraxError, match=f"{field} has 'v_proj', which matches none of 2"):
            _load(tmp_path, QUERIES | {field: {"v_proj": 3}}, tensors, model)


def test_patterns_that_overlap(tmp_path):
    """PEFT takes the first but sorts them when it saves: the tensor tells, an alpha cannot."""
    tensors = _tensors(llama(), "q_proj", rank=5)
    patterns = {"rank_pattern": {".*q_proj": 3, "q_proj": 5}}
    adapter, _ = _load(tmp_path, QUERIES | patterns, tensors, llama())
    assert adapter.rank_of("params/layer_1/attention/query/kernel") == 5
    with pytest.warns(LoraxWarning, match="2 patterns of alpha_pattern match 'model.*first, 3, is"):
        patterns["alpha_pattern"] = {".*q_proj": 3, "q_proj": 5}
        adapter, _ = _load(tmp_path, QUERIES | patterns, tensors, llama())
    assert adapter.alpha_of("params/layer_1/attention/query/kernel") == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_stay_as_they_are(tmp_path, dtype):
    dtype = lorax.io.tensors.jnp.dtype(dtype)
    adapter, delta = _load(tmp_path, QUERIES, _tensors(llama(), "q_proj", dtype=dtype), llama())
    leaf = delta["params/layer_0/attention/query/kernel"]
    assert (leaf.A.dtype, leaf.B.dtype, adapter.dtype) == (dtype, dtype, dtype.name)


def test_float64_needs_float64(tmp_path):
    tensors = _tensors(llama(), "q_proj", dtype=np.float64)
    with pytest.raises(LoraxError, match=r"is float64, which JAX rounds.*set jax_enable_x64"):
        _load(tmp_path, QUERIES, tensors, llama())
    with pytest.raises(LoraxError, match=r"is int32: expected one of float32"):
        _load(tmp_path, QUERIES, _tensors(llama(), "q_proj", dtype=np.int32), llama())


def test_a_head_trained_whole_and_biases(tmp_path):
    model = roberta()
    table = tensor_table(model)
    head = {PREFIX + n: _draw(*t.shape) for n, t in table.items() if n.startswith("classifier")}
    config = {"target_modules": ["query"], "task_type": "SEQ_CLS", "bias": "lora_only"}
    own = {
        PREFIX + n.replace(".bias", ".base_layer.bias"): _draw(*t.shape)
        for n, t in table.items()
        if n.endswith("query.bias")
    }
    tensors = _tensors(model, "query") | head | own
    adapter, delta = _load(tmp_path, config, tensors, model)
    assert isinstance(adapter, Chain) and len(adapter.members) == 3
    assert adapter.members[2] == lorax.BitFit((r"params/layer_\d+/attention/query/bias",))
    out = delta[1]["params/classifier/out/kernel"]
    np.testing.assert_array_equal(out, head[f"{PREFIX}classifier.out_proj.weight"].T)
    with pytest.raises(LoraxError, match="classifier.out_proj.bias' is missing"):
        tensors.pop(f"{PREFIX}classifier.out_proj.bias")
        _load(tmp_path, config, tensors, model)


def test_copies_of_biases_that_peft_adds(tmp_path):
    model = roberta()
    table = tensor_table(model)
    config = {"target_modules": ["query"], "task_type": "SEQ_CLS", "bias": "all"}
    tensors = _tensors(model, "query")
    for name, tensor in table.items():
        if name.endswith(".bias") or name.startswith("classifier"):
            layer = ".base_layer.bias" if "query" in name else ".bias"
            tensors[PREFIX + name.replace(".bias", layer)] = _draw(*tensor.shape)
    dense = tensors[f"{PREFIX}classifier.dense.bias"]
    second = f"{PREFIX}classifier.modules_to_save.default.dense.bias"
    tensors |= {second: dense, f"{PREFIX}classifier.original_module.dense.bias": dense * 0}
    adapter, delta = _load(tmp_path, config, tensors, model)
    assert len(delta[2]) == 2 * 8 + 1
    with pytest.raises(LoraxError, match=r"modules_to_save.default.dense.bias' differs from"):
        _load(tmp_path, config, tensors | {second: dense + 1}, model)


def test_embeddings_saved_with_their_adapter(tmp_path):
    """PEFT adds the base's own matrix, which is held against the base and not kept."""
    model = llama()
    base, config = base_of(model), {"target_modules": ["embed_tokens"]}
    key = f"{PREFIX}model.embed_tokens.base_layer.weight"
    stored = np.asarray(base["params"]["embed"]["embedding"])
    tensors = _tensors(model, "embed_tokens")
    wanted = _load(tmp_path, config, tensors, model)[1]
    found = _load(tmp_path, config, tensors | {key: stored}, model, base)[1]
    assert same(found, wanted)
    half = stored.astype(np.float16)
    assert same(_load(tmp_path, config, tensors | {key: half}, model, base)[1], wanted)
    for array, given, message in (
        (stored + 1, base, "differs from the base's 'params/embed/embedding'"),
        (stored[:-1], base, r"has shape \(23, 16\), expected \(24, 16\)"),
    ):
        with pytest.raises(LoraxError, match=message):
            _load(tmp_path, config, tensors | {key: array}, model, given)
    with pytest.warns(LoraxWarning, match="a copy of the base's own matrix and was held against n"):
        assert same(_load(tmp_path, config, tensors | {key: stored}, model)[1], wanted)


def test_tied_matrices(tmp_path):
    model = gpt2()
    tensors = _tensors(model, "wte")
    a, b = tensors.values()
    head = {f"{PREFIX}lm_head.lora_A.weight": b.T, f"{PREFIX}lm_head.lora_B.weight": a.T}
    ensured = {"target_modules": ["wte"], "ensure_weight_tying": True}
    named = {"target_modules": ["wte", "lm_head"]}
    for config in (ensured, named):
        adapter, delta = _load(tmp_path, config, tensors | head, model)
        assert adapter.where == ("params/embed/embedding",) and len(delta) == 1
    with pytest.raises(LoraxError, match=r"'transformer.wte' is changed but 'lm_head'.*tied=False"):
        _load(tmp_path, {"target_modules": ["wte"]}, tensors, model)
    _load(tmp_path, {"target_modules": ["wte"]}, tensors, gpt2(tied=False))
    whole = {f"{PREFIX}{name}.weight": _draw(24, 16) for name in ("transformer.wte", "lm_head")}
    config = {"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head"]}
    with pytest.raises(LoraxError, match="get different updates"):
        _load(tmp_path, config, _tensors(model, "c_attn") | whole, model)


def test_layers_of_a_scan_differ(tmp_path):
    config = QUERIES | {"layers_to_transform": [1]}
    tensors = _tensors(llama(), "1.self_attn.q_proj")
    assert len(_load(tmp_path, config, tensors, llama())[1]) == 1
    with pytest.raises(LoraxError, match="load the model with scan=False"):
        _load(tmp_path, config, tensors, llama(scan=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), rf"'{KEY}' is missing, and 0 more: expected it by the config"),
        (lambda t: t.update({KEY: t[KEY][:1]}), rf"'{KEY}' has shape \(1, 16\), expected \(2, 16"),
        (lambda t: t.update({KEY: t[KEY].T}), r"has shape \(16, 2\), expected \(2, 16\)"),
        (lambda t: t.update({KEY: t[KEY] * np.nan}), rf"'{KEY}' holds NaN or infinity"),
        (lambda t: t.update({KEY: t[KEY] * np.float32(np.inf)}), "holds NaN or infinity"),
        (lambda t: t.update({PREFIX + "x.weight": t[KEY]}), r"'.*x.weight' is not expected"),
        (lambda t: t.update({PREFIX + "../../etc.lora_A.weight": t[KEY]}), "is not expected"),
        (lambda t: t.update({KEY.removeprefix(PREFIX): t.pop(KEY)}), "lacks the prefix 'base_mod"),
        (lambda t: t.update({KEY.replace("q_", "k_"): t[KEY]}), "target_modules does not name"),
        (
            lambda t: t.update({KEY.replace("lora_A.weight", "lora_magnitude_vector"): t[KEY]}),
            "DoRA's magnitudes, but use_dora is false",
        ),
        (lambda t: t.update({KEY.replace("A.weight", "B.bias"): t[KEY]}), "a bias on B"),
        (lambda t: t.clear(), "is missing, and 3 more"),
    ],
)
def test_every_tensor_is_expected_and_used(tmp_path, change, message):
    tensors = _tensors(llama(), "q_proj")
    change(tensors)
    with pytest.raises(LoraxError, match=message) as error:
        _load(tmp_path, QUERIES, tensors, llama())
    assert str(tmp_path / "in" / TENSORS_NAME) in str(error.value)
    assert "\n" not in str(error.value)


def test_another_model_or_configuration(tmp_path):
    tensors = _tensors(llama(), "q_proj")
    for config, model, message in (
        (QUERIES, llama(layers=3), "model.layers.2.self_attn.q_proj.lora_A.weight' is missing"),
        (QUERIES, llama(layers=1), "layers.1.self_attn.q_proj.* is not expected"),
        (QUERIES, llama(dim=32), r"expected \(2, 32\)"),
        (QUERIES, gpt2(), r"names none of the 11 matrices of this GPT2 \(transformer.wte"),
        (QUERIES | {"r": 3}, llama(), r"has shape \(2, 16\), expected \(3, 16\)"),
        ({"target_modules": []}, llama(), r"target_modules \(\) names none"),
        (QUERIES | {"bias": "all"}, gpt2(), "names none"),
    ):
        with pytest.raises(LoraxError, match=message):
            _load(tmp_path, config, tensors, model)


def test_files_that_are_no_adapter(tmp_path):
    folder = write(tmp_path / "in", CONFIG | QUERIES, _tensors(llama(), "q_proj"))
    file, data = folder / TENSORS_NAME, (folder / TENSORS_NAME).read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(LoraxError, match="is damaged"):
        load_peft(folder, llama())
    file.write_bytes(b"\x80\x04" + data)
    with pytest.raises(LoraxError, match="is a pickle"):
        load_peft(folder, llama())
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(LoraxError, match="never opened here: convert it .* python -c .*save_file"):
        load_peft(folder, llama())
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(LoraxError, match=f"{TENSORS_NAME}' does not exist"):
        load_peft(folder, llama())
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(LoraxError, match=f"{CONFIG_NAME}' does not exist"):
        load_peft(folder, llama())


def test_flipped_bytes_are_errors_or_a_sound_adapter(tmp_path, monkeypatch):
    model = llama()
    table = tensor_table(model)
    monkeypatch.setattr(peft_import, "tensor_table", lambda _: table)
    folder = write(tmp_path / "in", CONFIG | QUERIES, _tensors(model, "q_proj"))
    _, wanted = load_peft(folder, model)
    shapes = {path: (leaf.A.shape, leaf.B.shape) for path, leaf in wanted.items()}
    files = {folder / name: (folder / name).read_bytes() for name in (CONFIG_NAME, TENSORS_NAME)}
    draw, errors = np.random.default_rng(7), 0
    for i in range(500):
        file = list(files)[i % 2]
        data = bytearray(files[file])
        # half of the flips in the tensors' file fall on its header
        data[draw.integers(len(data) if i % 4 else min(len(data), 400))] ^= 1 << draw.integers(8)
        file.write_bytes(data)
        try:
            adapter, delta = _quietly(load_peft, folder, model)
        except LoraxError as error:
            errors += 1
            assert str(folder) in str(error) and "\n" not in str(error)
        else:
            assert {path: (x.A.shape, x.B.shape) for path, x in delta.items()} == shapes
            leaves = [side for leaf in delta.values() for side in (leaf.A, leaf.B)]
            assert all(np.isfinite(side).all() and side.dtype == "float32" for side in leaves)
            adapter.leaves(base_of(model), delta)
        file.write_bytes(files[file])
    assert 150 < errors < 500


def _quietly(load, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoraxWarning)  # a field whose name was hit is unknown
        return load(*args)
