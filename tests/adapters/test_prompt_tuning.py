"""Virtual tokens: how they start, where they go, what is counted, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core import paths
from tests.adapters import gpt3
from tests.additions import DIM, MODELS, TOKENS, VOCABULARY, params

KEY = jax.random.key(0)
BASE = {"params": params("llama")}
TABLE = BASE["params"]["embed"]["embedding"]


def test_random_tokens_are_standard_normal_and_counted():
    delta = lorax.PromptTuning(tokens=200, infix=100).init(KEY, BASE)
    assert {name: leaf.shape for name, leaf in delta.items()} == {
        "prompt": (200, DIM),
        "infix": (100, DIM),
    }
    for leaf in delta.values():
        assert abs(float(leaf.std()) - 1) < 0.05 and abs(float(leaf.mean())) < 0.05
    assert set(lorax.PromptTuning(tokens=5).init(KEY, BASE)) == {"prompt"}


def test_vocabulary_tokens_are_rows_of_the_table():
    delta = lorax.PromptTuning(9, 4, initializer="vocabulary").init(KEY, BASE)
    rows = [
        int(np.flatnonzero((TABLE == row).all(1))[0])
        for row in np.concatenate(list(delta.values()))
    ]
    assert len(rows) == 13 and len(set(rows)) > 3
    again = lorax.PromptTuning(9, initializer="vocabulary").init(KEY, BASE)
    np.testing.assert_array_equal(again["prompt"], delta["prompt"])


@pytest.mark.parametrize(("tokens", "infix"), [(2, 0), (3, 0), (7, 0), (2, 3)])
def test_a_text_is_repeated_or_cut(tokens, infix):
    adapter = lorax.PromptTuning(tokens, infix, initializer="text", token_ids=[5, 9, 2])
    delta = adapter.init(KEY, BASE)
    wanted = TABLE[([5, 9, 2] * 3)[: tokens + infix]]
    np.testing.assert_array_equal(np.concatenate(list(delta.values())), wanted)
    assert lorax.from_json(adapter.to_json()) == adapter and hash(adapter)


def test_what_learns_is_wide_and_reads_shapes_alone_where_it_can():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), BASE)
    for initializer in ("random", "vocabulary"):
        delta = lorax.PromptTuning(3, initializer=initializer).init(KEY, half)
        assert delta["prompt"].dtype == jnp.float32
    shapes = jax.eval_shape(lambda: BASE)
    assert lorax.PromptTuning(3).init(KEY, shapes)["prompt"].shape == (3, DIM)


def test_a_quantised_table_is_formed_for_its_rows():
    packed = lorax.quantize(
        {"params": {"embed": {"embedding": jnp.asarray(TABLE)}}}, "int8", where=(".*",)
    )
    delta = lorax.PromptTuning(2, initializer="text", token_ids=(3, 4)).init(KEY, packed)
    formed = lorax.dequantize(packed)["params"]["embed"]["embedding"]
    np.testing.assert_array_equal(delta["prompt"], formed[np.array([3, 4])])


def test_additions_are_the_tokens_themselves():
    adapter = lorax.PromptTuning(3, 2)
    delta = adapter.init(KEY, BASE)
    assert adapter.additions(BASE, delta) == {
        "additions/embeddings": delta["prompt"],
        "additions/infix": delta["infix"],
    }


def test_gpt3_prefix_embedding_by_the_papers_formula():
    for tokens, printed in ((32, 0.5), (64, 0.9), (128, 1.7), (256, 3.2), (512, 6.4)):
        counted = gpt3.count(lorax.PromptTuning(tokens, 8))
        assert counted == gpt3.WIDTH * (tokens + 8) and round(counted / 1e6, 1) == printed
    assert gpt3.count(lorax.PromptTuning(256, 8)) == 3_244_032


def _start(model, adapter, tokens=TOKENS):
    return lorax.adapt(MODELS[model].apply, adapter).init(KEY, {"params": params(model)}, tokens)


def test_decoding_fills_the_context_beside_the_virtual_tokens():
    adapter = lorax.Chain(lorax.PromptTuning(4), lorax.LoRA(rank=2))
    assert (adapter.virtual_tokens, lorax.PrefixTuning(3).virtual_tokens) == (4, 3)
    assert lorax.Bottleneck().virtual_tokens == 0
    apply = lorax.adapt(MODELS["llama"].apply, adapter)
    delta, prompts = apply.init(KEY, BASE, TOKENS), [[1, 2, 3, 4, 5]]
    found = lorax.generate(apply, BASE, delta, prompts, max_new_tokens=15)  # 24 with the four
    assert len(found[0]) == 15
    with pytest.raises(lorax.LoraxError, match="most max_length=20 beside 4 virtual tokens; cut"):
        lorax.generate(apply, BASE, delta, prompts, max_new_tokens=16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lorax.PromptTuning(0), "tokens is 0: expected at least 1"),
        (lambda: lorax.PromptTuning(2, -1), "infix is -1"),
        (lambda: lorax.PromptTuning(2, initializer="xavier"), "initializer is 'xavier'"),
        (lambda: lorax.PromptTuning(2, initializer="text"), "token_ids has 0 ids with"),
        (lambda: lorax.PromptTuning(2, token_ids=(1,)), "1 ids with initializer='random'"),
        (lambda: lorax.PromptTuning(2, token_ids="hello"), "token_ids is 'hello': expected"),
        (lambda: lorax.PromptTuning(2, token_ids=(1.5,)), r"token_ids is \(1.5,\)"),
        (
            lambda: lorax.PromptTuning(2, initializer="text", token_ids=(-1,)),
            "token_ids hold -1",
        ),
        (
            lambda: lorax.PromptTuning(
                2, initializer="text", token_ids=(3, VOCABULARY)
            ).init(KEY, BASE),
            f"token_ids hold {VOCABULARY} and the table has {VOCABULARY} rows",
        ),
        (lambda: lorax.PromptTuning(2).init(KEY, BASE["params"]), "the collection 'params'"),
        (
            lambda: lorax.PromptTuning(2, table="nothing").init(KEY, BASE),
            "table='nothing': expected the variables",
        ),
        (
            lambda: lorax.PromptTuning(2).merge(BASE, {"prompt": jnp.ones((3, DIM))}),
            r"'prompt' of the delta has shape \(3, 16\) but this PromptTuning needs \(2, 16\)",
        ),
        (
            lambda: lorax.PromptTuning(2, 1).merge(BASE, {"prompt": jnp.ones((2, DIM))}),
            "delta has prompt: expected a mapping of prompt, infix",
        ),
        (
            lambda: lorax.PromptTuning(2).merge({"prompt": jnp.ones((2, DIM))}, BASE),
            "are base and delta swapped",
        ),
        (lambda: _start("llama", lorax.PromptTuning(17)), "at most max_length=24 tokens fit"),
        (
            lambda: lorax.adapt(lambda base, x: base["params"]["embed"]["embedding"][x],
                                lorax.PromptTuning(2)).init(KEY, BASE, TOKENS),
            "the program never reads 'additions/embeddings'",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_two_prompts_in_one_chain_are_refused():
    chain = lorax.Chain(lorax.PromptTuning(2), lorax.PTuning(2))
    delta = tuple(member.init(KEY, BASE) for member in chain.members)
    with pytest.raises(lorax.LoraxError, match="adapted by PromptTuning and by PTuning"):
        chain.additions(BASE, delta)


def test_merge_keeps_every_parameter():
    adapter = lorax.PromptTuning(2)
    merged = adapter.merge(BASE, adapter.init(KEY, BASE))
    old = paths.flatten(BASE)
    assert all(merged_leaf is old[path] for path, merged_leaf in paths.flatten(
        {"params": merged["params"]}).items())  # fmt: skip
    assert set(merged) == {"params", "additions"}
