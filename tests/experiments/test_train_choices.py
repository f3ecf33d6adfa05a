"""A language model classifies by the likeliest name: what it is given, and what is counted."""

import numpy as np
import pytest

from configs._page import defaults
from experiments._train import scoring
from experiments._train.choices import as_completions, likeliest, make_choices
from experiments._train.data import make_data, read_splits
from lorax.core.errors import LoraxError
from lorax.data.read import Records
from lorax.io.tokenizer import ByteTokenizer

NAMES = ("bad", "good")
ROWS = [
    {"text": "dull .", "pair": "", "label": 0, "where": "f:1"},
    {"text": "a joy", "pair": "yes", "label": 1, "where": "f:2"},
]


@pytest.fixture
def config(tmp_path):
    """Nine reviews, of which every third is bad."""
    lines = [f"review {i}\t{int(i % 3 > 0)}" for i in range(9)]
    (tmp_path / "reviews.tsv").write_text("\n".join(["text\tlabel", *lines]))
    config = defaults()
    config.data.update({"task": "completion", "format": "tsv", "labels": NAMES, "length": 32})
    config.data.update({"train": str(tmp_path / "reviews.tsv"), "split": (0.4, 0.3, 0.3)})
    config.eval.update({"batch": 4, "limit": 2})
    return config


def texts(batches, learnt=False):
    """What stands in the rows, or of it what is learnt."""
    return [
        bytes(int(t) for t, on in zip(targets, mask, strict=True) if t < 256 and (on or not learnt))
        for batch in batches
        for targets, mask in zip(batch.targets, batch.mask, strict=True)
    ]


def test_a_text_is_the_prompt_and_the_name_of_its_class_the_response():
    found = as_completions(Records(ROWS, NAMES), "cut")
    assert [(row["prompt"], row["response"], row["label"]) for row in found.rows] == [
        ("dull .", "bad", 0), ("a joy\nyes", "good", 1)
    ]  # fmt: skip
    choices = make_choices(found.rows, NAMES, lambda rows: [row["response"] for row in rows])
    assert choices.batches == [["bad", "bad"], ["good", "good"]]
    assert choices.right.tolist() == [0, 1]


@pytest.mark.parametrize("names, too_long, words", [
    (("good", "good grief"), "cut", "'good' and 'good grief': expected names of which none begins"),
    (NAMES, "skip", "too_long is skip, but answers are chosen"),
])  # fmt: skip
def test_names_that_cannot_be_told_apart_and_rows_that_may_be_left_out(names, too_long, words):
    with pytest.raises(LoraxError, match=words) as error:
        as_completions(Records([], names), too_long)
    assert "\n" not in str(error.value)


def test_the_likeliest_answer_and_what_the_right_one_costs():
    nats = np.array([[1.0, 2.0, 0.5], [3.0, 1.0, 0.7]])
    correct, right = likeliest(nats, np.array([0, 0, 1]))
    assert correct.tolist() == [True, False, False] and right.tolist() == [1.0, 2.0, 0.7]


def test_a_held_out_set_has_every_row_with_every_name(config):
    data = make_data(config, read_splits(config), ByteTokenizer(special=True))
    test = data.held["test"]
    assert len(test.examples) == 2 and test.choices.right.tolist() == [1, 0]
    assert [texts(batches, learnt=True)[:2] for batches in test.choices.batches] == [
        [b"bad", b"bad"], [b"good", b"good"]
    ]  # fmt: skip
    assert texts(test.batches, learnt=True)[:2] == [b"good", b"bad"]  # no end behind them
    assert all(text.startswith(b"review ") for text in texts(test.batches)[:2])
    names = scoring.numbers_of("completion", (), test)
    assert names == ["test/loss", "test/perplexity", "test/accuracy"]


def test_accuracy_items_and_the_loss_of_the_right_answer(config):
    held = make_data(config, read_splits(config), ByteTokenizer(special=True)).held

    def model(likely, _, tokens):
        """Each byte is as likely as any but for one that is likelier."""
        return np.zeros((*tokens.shape, 300), np.float32) + likely

    likely = np.zeros(300, np.float32)
    likely[list(b"bd")] = 3.0
    measure = scoring.make_measure("completion", model, (), lambda: None)
    found = measure(held["test"], likely, (), items=True)
    assert found["test/accuracy"] == 0.5  # always bad
    assert found["test/items"] == {"number": "accuracy", "sums": [0.0, 1.0], "counts": [1.0, 1.0]}
    norm = np.log(298 + 2 * np.exp(3.0))
    bad, good = 3 * norm - 6, 4 * norm - 3
    assert found["test/loss"] == pytest.approx((bad + good) / 7, rel=1e-5)
    assert "validation/items" not in measure(held["validation"], likely, ())
