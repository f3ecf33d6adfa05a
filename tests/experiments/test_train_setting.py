"""What a config comes to: splits, adapters, where they start, and the base that is made first."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import lorax
from experiments._page_file import load_config
from experiments._train import method
from experiments._train.data import read_splits
from experiments._train.job import make_job
from experiments._train.setting import check, make_setting, pretraining
from lorax.core.errors import LoraxError
from lorax.io.checkpoint import save_adapter
from lorax.train.stop import Stop


@pytest.fixture
def config():
    return load_config("configs/quickstart.py:smoke")


def example(setting):
    return np.zeros(setting.example.shape, setting.example.dtype)


def test_what_is_forgotten_is_measured_on_text_that_the_base_has_not_seen():
    page = load_config("configs/quickstart.py")
    kept = {row["text"] for row in read_splits(page).splits["retention"].rows}
    learnt = {row["text"] for row in read_splits(pretraining(page)).splits["train"].rows}
    assert kept and learnt and not kept & learnt


def test_the_base_is_made_by_a_run_of_its_own(config):
    made = pretraining(config)
    check(made)
    assert method.make_adapter(made) == lorax.Full()
    assert (made.train.steps, made.pretrain.steps) == (config.pretrain.steps, 0)
    assert made.optimizer.learning_rate == config.pretrain.learning_rate
    assert made.seed.to_dict() == config.seed.to_dict()


def test_the_base_is_the_same_for_all_seeds_of_what_is_trained_on_it(config):
    seeds = lambda: [pretraining(config).seed[name] for name in ("base", "data", "dropout")]
    before = seeds()
    config.seed.update({"data": 7, "dropout": 7})
    assert seeds() == before
    config.seed.base = 3
    assert all(new != old for new, old in zip(seeds(), before, strict=True))


def test_also_train_puts_whole_leaves_beside_the_adapter(config):
    config.also_train = ("params/norm/scale",)
    alone = load_config("configs/quickstart.py:smoke")
    whole = lorax.Full(where=("params/norm/scale",))
    assert method.make_adapter(config) == lorax.Chain(method.make_adapter(alone), whole)


def test_a_prompt_begins_as_a_text_and_has_to_fit(config):
    config.adapter = ConfigDict({"adapter": "PromptTuning", "tokens": 4, "text": "Once upon"})
    setting = make_setting(config)
    ids = tuple(setting.subject.tokenizer.encode("Once upon"))
    assert setting.adapter == lorax.PromptTuning(tokens=4, initializer="text", token_ids=ids)
    with pytest.raises(LoraxError, match="has no tokenizer"):
        method.make_adapter(config)
    config.adapter.tokens = 10_000
    with pytest.raises(LoraxError, match="config.adapter: at most max_length=") as error:
        make_setting(config)
    assert "\n" not in str(error.value)


def test_virtual_tokens_that_no_row_holds_are_refused(config):
    prompt = {"adapter": "PromptTuning", "tokens": 4, "infix": 2}
    lora = {"adapter": "LoRA", "rank": 2, "alpha": 4.0, "where": ("all-linear",)}
    for fields in (prompt, {"adapter": "Chain", "members": (lora, prompt)}):
        config.adapter = ConfigDict(fields)
        with pytest.raises(LoraxError, match="config.adapter: infix is 2 and the rows of a run"):
            method.make_adapter(config)


@pytest.mark.parametrize("kind", [lorax.DoRA, lorax.IA3, lorax.PrefixTuning, lorax.VeRA])
def test_another_kind_takes_what_it_has_of_the_page(config, kind):
    ranked = {"rank": 4} if kind in (lorax.DoRA, lorax.VeRA) else {}
    config.adapter.update({"adapter": kind.__name__, **ranked})
    assert method.make_adapter(config) == kind(**ranked)
    config.adapter.init_scale = 2.0
    with pytest.raises(LoraxError, match=f"{kind.__name__} has no field 'init_scale'"):
        method.make_adapter(config)


def test_a_method_that_shrinks_needs_updates_for_it(config):
    fields = {"adapter": "AdaLoRA", "rank": 4, "target_rank": 2, "where": ("all-linear",)}
    config.adapter = ConfigDict({**fields, "warmup": 10**6})
    with pytest.raises(LoraxError, match="config.adapter: AdaLoRA has warmup=1000000"):
        make_setting(config)
    config.adapter.warmup = 0
    assert make_setting(config).adapter == lorax.AdaLoRA(rank=4, target_rank=2)


@pytest.mark.parametrize("shapes", ["same", "other rank"])
def test_an_adapter_is_started_from_where_it_fits(config, tmp_path, shapes):
    setting = make_setting(config)
    base = setting.subject.model.init(jax.random.key(0), example(setting))
    start = method.first_delta(config, setting.fn, setting.adapter, base, example(setting))
    rank = config.adapter.rank if shapes == "same" else config.adapter.rank + 1
    other = lorax.LoRA(rank=rank, where="all-linear")
    delta = lorax.adapt(setting.fn, other).init(jax.random.key(9), base, example(setting))
    save_adapter(tmp_path / "other", other, delta)
    config.adapter_from = str(tmp_path / "other")
    if shapes == "same":
        found = method.first_delta(config, setting.fn, setting.adapter, base, example(setting))
        jax.tree.map(np.testing.assert_array_equal, found, delta)
        assert any(
            (a != b).any() for a, b in zip(*map(jax.tree.leaves, (found, start)), strict=True)
        )
    else:
        with pytest.raises(LoraxError, match="shares no leaf with this adapter"):
            method.first_delta(config, setting.fn, setting.adapter, base, example(setting))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch": 6, "accumulate": 4}, "config.train.batch is 6 in 4 parts"),
        ({"steps": 0, "epochs": 0}, "config.train has 0 steps and 0 epochs"),
    ],
)
def test_numbers_that_cannot_be(config, changes, words):
    config.train.update(changes)
    with pytest.raises(LoraxError, match=words):
        check(config)


def test_the_frozen_base_is_measured_without_a_first_prompt(config, tmp_path):
    """What a prompt begins with is not the base; what LoRA begins with is."""

    def frozen(adapter):
        config.adapter = ConfigDict(adapter)
        setting = make_setting(config)
        base = setting.subject.model.init(jax.random.key(0), example(setting))
        subject = dataclasses.replace(setting.subject, base=base)
        job = make_job(dataclasses.replace(setting, subject=subject), tmp_path, "train", Stop())
        held = setting.data.held["validation"]
        first = job.measure(held, job.adapter.prepare(base, job.delta), job.delta)
        return job.frozen(held, base)["validation/loss"], first["validation/loss"]

    lora, begun = frozen({"adapter": "LoRA", "rank": 2, "where": ("all-linear",)})
    assert lora == begun
    prompt, begun = frozen({"adapter": "PromptTuning", "tokens": 4})
    assert prompt == pytest.approx(lora, rel=1e-5) and abs(begun - prompt) > 1e-4
