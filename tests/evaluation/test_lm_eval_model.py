"""An adapted program as a model of lm-eval, against a table of bytes that numpy can read too."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.evaluation.lm_eval_model import make_lm_eval_model
from lorax.io.tokenizer import ByteTokenizer
from tests.evaluation.programs import LENGTH, Bigram, Tokenizer, log_softmax, table

BASE = table()
NATS = log_softmax(BASE)


@pytest.fixture(scope="module")
def lm_eval():
    return pytest.importorskip("lm_eval", reason="lm-eval is an extra: lorax-flax[lm-eval]")


def nats(before, text, start):
    """(log-likelihood of `text[start:]`, is it greedy?) behind the byte `before`."""
    ids = [before, *text.encode()]
    pairs = list(zip(ids, ids[1:], strict=False))[start:]
    greedy = all(int(NATS[one].argmax()) == two for one, two in pairs)
    return sum(NATS[pair] for pair in pairs), greedy


def requests(kind, *args):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, arg, i) for i, arg in enumerate(args)]


def model(bigram=None, tokenizer=None, **fields):
    bigram, tokenizer = bigram or Bigram(), tokenizer or Tokenizer()
    return make_lm_eval_model(bigram.apply, BASE, None, tokenizer, batch_size=4, **fields)


def test_continuations_alone_are_scored(lm_eval):
    likeliest = "a" + chr(int(NATS[ord("a"), :128].argmax()))
    assert NATS[ord("a")].argmax() < 128, "choose another seed"
    asked = [("ab", "cd"), ("", "x"), ("a", likeliest[1]), ("two ", "words"), ("q" * 60, "rst")]
    found = model().loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    expected = [
        nats(2, "abcd", 2), nats(2, "x", 0), nats(2, likeliest, 1), nats(2, "two words", 3),
        nats(2, "q" * 60 + "rst", 60),
    ]  # fmt: skip
    np.testing.assert_allclose([n for n, _ in found], [n for n, _ in expected], rtol=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert found[2][1] is True and found[0][1] is False


def test_whole_texts_are_scored_in_windows(lm_eval):
    texts = ["abc", "", "z" * LENGTH, "The quick brown fox jumps over the lazy dog. " * 3]
    found = model().loglikelihood_rolling(requests("loglikelihood_rolling", *((t,) for t in texts)))
    # each byte is predicted exactly once; a bigram needs no more context than its windows leave
    np.testing.assert_allclose(found, [nats(2, text, 0)[0] for text in texts], rtol=1e-5)


def test_texts_are_continued(lm_eval):
    rows = np.array(BASE)
    for one, two in ("ab", "bc", "c.", ".d"):
        rows[ord(one), ord(two)] = 20.0
    made = make_lm_eval_model(Bigram().apply, jnp.asarray(rows), None, Tokenizer(), batch_size=2)
    asked = [
        ("xa", {"until": ["."], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0}),
        ("a", {"until": "c"}),
        ("q" * 100 + "a", {"until": ["."], "max_gen_toks": 5, "do_sample": False}),
        ("a", {"max_gen_toks": 3, "until": [], "num_beams": 1}),
    ]
    assert made.generate_until(requests("generate_until", *asked)) == ["bc", "b", "bc", "bc."]
    drawn = ("a", {"until": [], "max_gen_toks": 6, "temperature": 9.0, "do_sample": True})
    again = [made.generate_until(requests("generate_until", drawn)) for _ in range(2)]
    assert again[0] == again[1] != ["bc.dbc"]


def test_an_adapted_program_is_scored_factored(lm_eval):
    adapter = lorax.LoRA(rank=2, where=("embed", "head"))
    base = {"embed": BASE[:, :8], "head": BASE[:8]}
    program = lorax.adapt(lambda params, x: params["embed"][x] @ params["head"], adapter)
    delta = program.init(jax.random.key(0), base, jnp.zeros((1, 4), jnp.int32))
    delta = jax.tree.map(lambda x: x + 0.1, delta)
    made = make_lm_eval_model(program, base, delta, Tokenizer(), max_length=32, batch_size=1)
    merged = adapter.merge(base, delta)
    expected = log_softmax(np.float64(merged["embed"]) @ np.float64(merged["head"]))
    found = made.loglikelihood(requests("loglikelihood", ("a", "bc")), disable_tqdm=True)[0][0]
    assert found == pytest.approx(expected[97, 98] + expected[98, 99], rel=1e-4)


def test_many_lengths_compile_a_few_shapes(lm_eval):
    bigram, calls = Bigram(), []
    made = model(bigram, check=lambda: calls.append(1))
    asked = [("a" * n, "b" * m) for n in range(1, 44) for m in (1, 3)]
    found = made.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert len(found) == len(asked) == 86 and len(calls) == 22
    # 16, 32 and all there is; read once for the shape of the logits, and once more to compile
    assert sorted(set(bigram.shapes)) == [(4, 16), (4, 32), (4, LENGTH)]
    before = len(bigram.shapes)
    assert made.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True) == found
    assert len(bigram.shapes) == before


def test_a_check_stops_it_between_batches(lm_eval):
    def check():
        raise SystemExit(143)

    made = model(check=check)
    for kind, args in (("loglikelihood", ("a", "b")), ("generate_until", ("a", {}))):
        with pytest.raises(SystemExit):
            getattr(made, kind)(requests(kind, args))


def test_mistakes_are_told(lm_eval):
    with pytest.raises(LoraxError, match="how many tokens apply takes: pass max_length="):
        make_lm_eval_model(lambda table, x: table[x], BASE, None, Tokenizer())
    made = model()
    cases = [
        (
            "loglikelihood",
            ("a", "b" * 49),
            "has 49 tokens behind 1 .* at most 48",
        ),
        ("generate_until", ("a", {"max_gen_toks": 48}), "asks for 48 new tokens and .* takes 48"),
        ("generate_until", ("a", {"repetition_penalty": 2}), "repetition_penalty, .* supported"),
    ]
    for kind, args, words in cases:
        with pytest.raises(LoraxError, match=words):
            getattr(made, kind)(requests(kind, args))
    with pytest.raises(LoraxError, match="neither BOS nor EOS"):
        bare = model(tokenizer=ByteTokenizer())
        bare.loglikelihood(requests("loglikelihood", ("", "b")), disable_tqdm=True)
    broken = make_lm_eval_model(Bigram().apply, BASE * np.nan, None, Tokenizer())
    with pytest.raises(LoraxError, match="NaN logits"):
        broken.loglikelihood(requests("loglikelihood", ("a", "b")), disable_tqdm=True)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[lm-eval\]'"):
        model()


DOCS = [
    {"question": "two and two", "choices": [" four", " many"], "label": 0},
    {"question": "one and one", "choices": [" x", " yz"], "label": 1},
    {"question": "red and blue", "choices": [" ab", " c"], "label": 1},
]


@pytest.mark.filterwarnings("ignore")
def test_tasks_run_from_end_to_end(lm_eval, tmp_path, monkeypatch):
    """`simple_evaluate` on a task of each kind, with local data and no network."""
    pytest.importorskip("datasets")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("TQDM_DISABLE", "1")
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    data = {"data_files": {"test": str(tmp_path / "docs.jsonl")}, "cache_dir": str(tmp_path)}
    common = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    kinds = {
        "choose": {
            "output_type": "multiple_choice", "doc_to_text": "{{question}} is",
            "doc_to_choice": "{{choices}}", "doc_to_target": "label", "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        },
        "write": {
            "output_type": "generate_until", "doc_to_text": "{{question}}",
            "doc_to_target": "{{question}}", "generation_kwargs": {"until": ["\n"]},
            "metric_list": [{"metric": "exact_match"}],
        },
        "read": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "",
            "doc_to_target": "{{question}}", "metric_list": [{"metric": "bits_per_byte"}],
        },
    }  # fmt: skip
    tasks = [{"task": name} | common | kind for name, kind in kinds.items()]
    results = lm_eval.simple_evaluate(
        model=model(), tasks=tasks, bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )["results"]  # fmt: skip
    right = 0
    for doc in DOCS:
        before = f"{doc['question']} is"
        scores = [nats(2, before + choice, len(before))[0] for choice in doc["choices"]]
        right += int(np.argmax(scores)) == doc["label"]
    assert results["choose"]["acc,none"] == pytest.approx(right / 3)
    assert results["write"]["exact_match,none"] == 0
    whole = sum(nats(2, doc["question"], 0)[0] for doc in DOCS)
    size = sum(len(doc["question"]) for doc in DOCS)
    assert results["read"]["bits_per_byte,none"] == pytest.approx(-whole / size / np.log(2))
