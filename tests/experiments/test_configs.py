"""Every page: fields, words, docstring, published counts at full size, and a run of `smoke`."""

import ast
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import lorax
from configs import _glue
from configs._page import check, defaults
from experiments import train
from experiments._page_file import load_config
from experiments._train.method import make_adapter
from experiments._train.model import make_subject
from lorax.parallel.layout import single
from lorax.train.metrics import read_metrics

FOLDER = pathlib.Path("configs")
OLD = ("quickstart_compare", "stories260k_compare", "__init__")  # pages of other verbs
PAGES = sorted(p.stem for p in FOLDER.glob("[!_]*.py") if p.stem not in OLD)
WORDS = {
    "alpaca_llama": ("13b",),
    "e2e_gpt2_large": ("tiny",),
    "e2e_gpt2_medium": ("tiny",),
    "glue_roberta_base": (*_glue.EXAMPLES, "rte,tiny", "cola,tiny", "tiny"),
    "glue_roberta_large": (*_glue.EXAMPLES, "mnli,restricted", "tiny"),
    "gpt3_175b": ("mnli", "samsum"),
    "intrinsic_cifar": ("lenet", "whole", "whole,lenet"),
    "intrinsic_mnist": ("lenet", "wide", "deep", "pixels", "labels", "lenet,pixels"),
    "intrinsic_roberta": ("did", "qqp", "large", "said,mrpc", "large,qqp,did"),
    "korean_qa": ("tiny",),
    "loraplus": ("mnli",),
    "mnist_mlp": ("lenet", "lora", "lenet,lora"),
    "nsmc_korean": ("chatbot", "tiny", "chatbot,tiny"),
    "qlora_llama_7b": ("13b", "int8", "plain"),
    "rank_sweep": ("rte", "e2e"),
    "scaling_rules": ("e2e",),
    "weight_types": ("rte",),
}
"""Words beside full, bitfit and smoke, which every page has."""

EVERY = [
    (page, word)
    for page in PAGES
    for word in ("", "full", "bitfit", "smoke", "full,smoke", "bitfit,smoke", *WORDS.get(page, ()))
]


def page(name, words=""):
    """The config of a page."""
    return load_config(f"configs/{name}.py:{words}")


def leaves(value):
    """Every value in a config, those in tuples too."""
    if isinstance(value, dict | ConfigDict):
        value = tuple(dict(value.items()).values())
    elif not isinstance(value, tuple | list):
        return [value]
    return [value, *(leaf for item in value for leaf in leaves(item))]


@pytest.mark.parametrize("name, words", EVERY)
def test_page(name, words):
    config = page(name, words)
    check(config)
    assert not any(isinstance(leaf, list) for leaf in leaves(config.to_dict()))
    assert json.loads(config.to_json()) == json.loads(json.dumps(config.to_dict()))
    make_adapter(config)
    assert config.train.batch % config.train.accumulate == 0
    assert not (config.optimizer.warmup and config.optimizer.warmup_ratio)
    if not config.train.steps:
        assert config.train.epochs >= 1
    if config.checkpoint.best:
        assert config.eval.every and config.checkpoint.best.startswith("validation/")


@pytest.mark.parametrize("name", PAGES)
def test_docstring_is_a_lab_notebook(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text("utf-8")))
    for word in ("Command:", "Cost:", "Expected", "Source:", "Needs"):
        assert f"\n{word}" in text, word
    assert f"--config=configs/{name}.py" in text


@pytest.mark.parametrize("name", PAGES)
def test_an_unknown_word_is_one_line_that_names_the_known_ones(name):
    with pytest.raises(lorax.LoraxError, match=r"argument 'huge' is unknown.*full.*smoke") as error:
        page(name, "full,huge")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, words, told",
    [
        ("quickstart", "full,bitfit", "'full' and 'bitfit' exclude each other"),
        ("glue_roberta_base", "rte,mrpc", "'mrpc' and 'rte' exclude each other"),
        ("glue_roberta_base", "qnli,tiny", "no data for 'qnli': expected one of sst2, rte, cola"),
        ("glue_roberta_base", "restricted", "'restricted' is unknown"),
        ("intrinsic_mnist", "labels,lenet", "'lenet' and 'labels' exclude each other"),
        ("e2e_gpt2_medium", "tiny,full", "'full' and 'tiny' exclude each other"),
    ],
)
def test_words_that_exclude_each_other(name, words, told):
    with pytest.raises(lorax.LoraxError, match=told):
        page(name, words)


@pytest.mark.parametrize("name", PAGES)
def test_baselines_take_the_place_of_the_adapter_at_a_rate_of_their_own(name):
    rates = {words: page(name, words).optimizer.learning_rate for words in ("", "full", "bitfit")}
    assert rates["full"] < rates["bitfit"]
    assert make_adapter(page(name, "full")) == lorax.Full()
    bitfit = make_adapter(page(name, "bitfit"))
    member = bitfit.members[0] if isinstance(bitfit, lorax.Chain) else bitfit
    assert isinstance(member, lorax.BitFit)


def trained(name, words="", labels=None):
    """Trained numbers of a page at full size, by member of its adapter; nothing is computed."""
    config = page(name, words)
    config.model.source = ""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    subject, adapter = make_subject(config, None, tokens, labels), make_adapter(config)
    apply = lorax.adapt(subject.model.apply, adapter)
    delta = jax.eval_shape(lambda base: apply.init(jax.random.key(0), base, tokens), subject.base)
    members = delta if isinstance(adapter, lorax.Chain) else (delta,)
    return [sum(leaf.size for leaf in jax.tree.leaves(member)) for member in members]


@pytest.mark.parametrize(
    "name, words, labels, want",
    [
        ("glue_roberta_base", "sst2", 2, [294_912, 768 * 768 + 768 + 2 * 768 + 2]),
        ("glue_roberta_large", "mnli", 3, [786_432, 1024 * 1024 + 1024 + 3 * 1024 + 3]),
        ("e2e_gpt2_medium", "", None, [393_216]),
        ("e2e_gpt2_large", "", None, [737_280]),
        ("gpt3_175b", "", None, [18_874_368]),
        ("alpaca_llama", "", None, [39_976_960]),
        ("qlora_llama_7b", "", None, [159_907_840]),
    ],
)
def test_trained_numbers_at_full_size(name, words, labels, want):
    assert trained(name, words, labels) == want


def test_the_head_of_bitfit_is_trained_whole_and_once():
    biases, head = trained("glue_roberta_base", "sst2,bitfit", 2)
    assert head == 768 * 768 + 768 + 2 * 768 + 2
    assert biases == 12 * (6 * 768 + 3072 + 2 * 768 - 768) + 768


def test_glue_table():
    found = {t: page("glue_roberta_base", t) for t in _glue.EXAMPLES}
    batch = [c.train.batch for c in found.values()]
    assert batch == [16, 16, 16, 32, 32, 16, 32, 16]
    assert [c.train.epochs for c in found.values()] == [30, 60, 30, 80, 25, 25, 80, 40]
    rates = [c.optimizer.learning_rate for c in found.values()]
    assert rates == [5e-4, 5e-4, 4e-4, 4e-4, 4e-4, 5e-4, 5e-4, 4e-4]
    assert found["cola"].checkpoint.best == "validation/matthews"
    assert found["stsb"].data.task == "regression"
    assert found["mnli"].data.test.endswith("dev_mismatched.tsv") and not found["rte"].data.test
    large, strict = (page("glue_roberta_large", w) for w in ("stsb", "stsb,restricted"))
    of = lambda c: (c.train.batch, c.train.epochs, c.data.length, c.adapter.alpha)
    assert (of(large), of(strict)) == ((8, 30, 512, 16.0), (4, 10, 128, 16.0))


def test_published_hyper_parameters():
    e2e, alpaca = page("e2e_gpt2_medium"), page("alpaca_llama", "13b,full")
    part = e2e.optimizer
    assert (part.learning_rate, part.schedule, part.warmup) == (2e-4, "linear", 500)
    assert (part.weight_decay, part.label_smoothing) == (0.01, 0.1)
    assert (e2e.train.batch, e2e.train.epochs) == (8, 5)
    assert (e2e.eval.beams, e2e.eval.length_penalty, e2e.eval.no_repeat_ngram) == (10, 0.9, 4)
    adapter = make_adapter(e2e)
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (4, 32.0, 0.1)
    assert (alpaca.train.batch, alpaca.train.epochs, alpaca.data.length) == (128, 5, 512)
    assert (alpaca.optimizer.learning_rate, alpaca.optimizer.weight_decay) == (1e-5, 0.0)
    assert page("alpaca_llama").optimizer.learning_rate == pytest.approx(2e-4)
    gpt3 = page("gpt3_175b")
    assert gpt3.plan_only and not page("gpt3_175b", "smoke").plan_only
    assert (gpt3.optimizer.learning_rate, gpt3.optimizer.weight_decay) == (2e-4, 0.1)


def broken(change):
    """The message of `check` on the defaults with a change."""
    config = defaults()
    with config.unlocked():
        change(config)
    with pytest.raises(lorax.LoraxError) as error:
        check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_list_is_told_with_the_tuple_to_write():
    told = broken(lambda c: c.update(adapter={"where": (["a", "b"], "c")}))
    assert "config.adapter.where" in told and "write (('a', 'b'), 'c')" in told
    assert "fields.hidden is [8]" in broken(lambda c: c.model.fields.update(hidden=[8]))


def test_a_page_with_a_list_is_one_line_and_no_workdir(tmp_path, capsys):
    file, workdir = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(
        "from configs._page import defaults\n"
        "def get_config(arg=''):\n"
        "    config = defaults()\n"
        "    config.adapter = {'adapter': 'LoRA', 'where': ['.*/kernel']}\n"
        "    return config\n"
    )
    assert train.main([f"--config={file}", f"--workdir={workdir}"]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in ("config.adapter.where", "list", "tuple")), line
    assert not (workdir / "metrics.jsonl").exists()


def test_fields_that_are_none_and_fields_that_lack():
    told = broken(lambda c: c.optimizer.update(learning_rat=1.0))
    assert "config.optimizer.learning_rat is no field" in told and "'learning_rate'?" in told
    told = broken(lambda c: c.eval.__delitem__("beams"))
    assert "config.eval.beams is missing" in told
    assert "config.data.columns.txt" in broken(lambda c: c.data.columns.update(txt="a"))


@pytest.mark.runs
@pytest.mark.filterwarnings("ignore:lorax merged")  # LoHa and LoKr, in a model so small
@pytest.mark.parametrize("name", PAGES)
def test_smoke_runs(name, tmp_path, capsys, monkeypatch):
    pytest.importorskip("grain")
    pytest.importorskip("matplotlib")
    # one of the devices that the tests have: two rows cannot be dealt to four
    monkeypatch.setattr("experiments._train.run.make_layout", lambda *_: single())
    workdir = tmp_path / "run"
    assert train.main([f"--config=configs/{name}.py:smoke", f"--workdir={workdir}"]) == 0
    assert (workdir / "DONE").exists()
    kinds = [record["kind"] for record in read_metrics(workdir / "metrics.jsonl")]
    assert kinds.count("train") == 2 and kinds[-1] == "result"
    assert "Done:" in capsys.readouterr().out
