"""Tables, attention and layers are found by name, layered or scanned, in the order of layers."""

import jax
import pytest

import lorax
from lorax.adapters import places
from tests.additions import DIM, MODELS, TOKENS, changed


def shapes(*dims):
    return jax.ShapeDtypeStruct(dims, "float32")


def layered(layers, out=(8, 8), **others):
    """The leaves of a model with these many layers, in the order of a tree: 10 before 2."""
    stored = {f"params/layer_{i}/attention/out/kernel": shapes(*out) for i in range(layers)}
    return dict(sorted({**stored, **others}.items()))


def stored_of(name, **changes):
    model = changed(name, **changes)
    base = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    return places.leaves_of(base, "Any")


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("scan", [False, True])
def test_of_the_models(name, scan):
    stored = stored_of(name, scan=scan)
    kv_width = 8 if name == "llama" else DIM  # two of four heads
    paths = ["params/layers"] if scan else ["params/layer_0", "params/layer_1"]
    assert places.attentions(places.ATTENTION, stored) == [
        places.Attention(f"{path}/attention", 2 if scan else None, DIM, kv_width) for path in paths
    ]
    assert places.table_of(places.TABLE, stored).shape == (32, DIM)


def test_layers_are_in_their_order():
    found = places.attentions(places.ATTENTION, layered(12))
    assert [a.path for a in found] == [f"params/layer_{i}/attention" for i in range(12)]
    assert sum(a.count for a in found) == 12
    some = places.attentions(r".*layer_(2|10)/attention", layered(12))
    assert [a.path for a in some] == ["params/layer_2/attention", "params/layer_10/attention"]


def test_layers_alone_and_stacked_are_where_they_belong():
    alone, stacked = places.Attention("a", None, 8, 8), places.Attention("b", 3, 8, 8)
    assert places.of_all_layers([alone, stacked, alone]) == [
        (alone, 0),
        (stacked, slice(1, 4)),
        (alone, 4),
    ]


def test_the_place_of_an_addition():
    assert places.beside("params/layer_0/mlp/down", "up") == "additions/layer_0/mlp/down/up"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: places.leaves_of({"w": shapes(2, 3)}, "PromptTuning"),
            "dict without the collection 'params': PromptTuning expects the variables",
        ),
        (lambda: places.leaves_of([1], "PromptTuning"), "base is a list without"),
        (
            lambda: places.table_of(places.TABLE, layered(1)),
            r"no leaf is a table of embeddings, table='\(.*embed/embedding': expected .* table=$",
        ),
        (
            lambda: places.table_of(".*embedding", stored_of("gpt2")),
            "matches 'params/embed/embedding', 'params/positions/embedding': expected the one",
        ),
        (
            lambda: places.table_of("params/b", {"params/b": shapes(3)}),
            r"'params/b' has shape \(3,\): expected a table",
        ),
        (
            lambda: places.attentions(".*/mixer", layered(2)),
            r"attention='.\*/mixer' matches no module with 'out/kernel': expected the attention "
            "of every layer; modules that have it: ",
        ),
        (lambda: places.attentions(".*/mixer", {}), "modules that have it: none"),
        (
            lambda: places.attentions(
                places.ATTENTION, layered(1, **{"params/other/attention/out/kernel": shapes(4, 4)})
            ),
            "has widths 4 and 4 but 'params/layer_0/attention' has 8 and 8: expected equal layers",
        ),
        (
            lambda: places.attentions(places.ATTENTION, layered(1, out=(2, 2, 4, 8))),
            r"has shape \(2, 2, 4, 8\): expected \(in, out\)",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(lorax.LoraxError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
