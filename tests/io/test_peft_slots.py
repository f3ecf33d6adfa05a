import numpy as np
import pytest

from lorax.io.peft_config import parse_config
from lorax.io.peft_names import matrices, tensor_table
from lorax.io.peft_slots import is_feedforward, ours, slots, theirs
from tests.io.tiny import llama

MATRICES = matrices(tensor_table(llama()))
UP = MATRICES["model.layers.0.mlp.up_proj"]  # 16 to 20
TABLE = MATRICES["model.embed_tokens"]  # 24 rows of 16
DRAW = np.random.default_rng(0)
BASE = DRAW.normal(size=UP.sides).astype(np.float32)


def _slots(kind, rank=2, tensor=UP, **fields):
    return slots(parse_config({"peft_type": kind, "target_modules": ["x"], **fields}), tensor, rank)


def _shapes(*args, **fields):
    return {slot.name: slot.shape for slot in _slots(*args, **fields)}


def test_shapes_of_every_method():
    assert _shapes("LORA") == {"A": (2, 16), "B": (20, 2)}
    assert _shapes("LORA", use_dora=True) == {"A": (2, 16), "B": (20, 2), "m": (20,)}
    assert _shapes("LORA", tensor=TABLE) == {"A": (2, 24), "B": (16, 2)}
    assert _shapes("VERA") == {"d": (2,), "b": (20,)}
    assert _shapes("LOHA") == {"A1": (2, 16), "B1": (20, 2), "A2": (2, 16), "B2": (20, 2)}
    assert _shapes("LOKR", rank=3) == {"W1": (4, 4), "W2": (5, 4)}
    assert _shapes("LOKR", decompose_factor=2) == {"W1": (2, 2), "A2": (2, 8), "B2": (10, 2)}
    both = _shapes("LOKR", rank=1, decompose_both=True)
    assert both == {"A1": (1, 4), "B1": (4, 1), "A2": (1, 4), "B2": (5, 1)}
    assert _shapes("IA3", feedforward_modules=[]) == {"outputs": (20, 1)}
    assert _shapes("IA3", feedforward_modules=["up_proj"]) == {"inputs": (1, 16)}


def test_keys():
    assert [slot.key for slot in _slots("LORA", use_dora=True)] == [
        f"model.layers.0.mlp.up_proj.{end}"
        for end in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    ]
    assert [slot.key for slot in _slots("LORA", tensor=TABLE)] == [
        "model.embed_tokens.lora_embedding_A",
        "model.embed_tokens.lora_embedding_B",
    ]


@pytest.mark.parametrize(
    ("kind", "method", "fields"),
    [
        ("LORA", "LORA", {}),
        ("LORA", "DORA", {"use_dora": True}),
        ("VERA", "VERA", {}),
        ("LOHA", "LOHA", {}),
        ("LOKR", "LOKR", {"decompose_factor": 2}),
        ("IA3", "IA3", {"feedforward_modules": ["up_proj"]}),
        ("IA3", "IA3", {"feedforward_modules": []}),
    ],
)
def test_there_and_back(kind, method, fields):
    own = _slots(kind, **fields)
    tensors = {slot.name: DRAW.normal(size=slot.shape).astype(np.float32) for slot in own}
    again = theirs(method, ours(method, tensors, lambda: BASE), own, lambda: BASE)
    assert set(again) == {slot.key for slot in own}
    for slot in own:
        np.testing.assert_allclose(again[slot.key], tensors[slot.name], rtol=1e-6, atol=1e-6)


def test_what_counts_from_a_start():
    ones = {"outputs": np.ones((20, 1), np.float32)}
    np.testing.assert_array_equal(ours("IA3", ones, lambda: BASE)["outputs"], np.zeros(20))
    own = {"A": np.ones((2, 16)), "B": np.ones((20, 2)), "m": np.linalg.norm(BASE, axis=0)}
    np.testing.assert_array_equal(ours("DORA", own, lambda: BASE)["m"], np.zeros(20))


def test_a_product_in_the_place_of_a_matrix():
    own = {name: DRAW.normal(size=shape) for name, shape in (("A1", (1, 4)), ("B1", (3, 1)))}
    made = ours("LOKR", own | {"W2": np.ones((2, 2))}, lambda: BASE)["W1"]
    np.testing.assert_allclose(made, (own["B1"] @ own["A1"]).T)


def test_feedforward_goes_by_the_end_of_a_name():
    assert is_feedforward(["c_proj"], "h.0.mlp.c_proj") and is_feedforward(".*mlp.*", "h.0.mlp.x")
    assert not is_feedforward([], "c_proj") and not is_feedforward("mlp", "h.0.mlp")
    assert not is_feedforward(None, "c_proj")
