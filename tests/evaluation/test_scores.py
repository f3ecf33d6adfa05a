"""Scores by hand, against other implementations, and where nothing can be said."""

import json
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.evaluation.scores import (
    SCORES,
    accuracy,
    exact_match,
    f1,
    majority,
    matthews,
    number_in,
    pearson,
    spearman,
    task_scores,
)
from tests.shared_data import shared

PREDICTED, RIGHT = [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]
"""Two true and one false of each: precision, recall and accuracy 2/3."""

classes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)
values = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30
).filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True)))


def test_scores_by_hand():
    pytest.importorskip("sklearn")
    assert accuracy(PREDICTED, RIGHT) == pytest.approx(4 / 6)
    assert f1(PREDICTED, RIGHT) == pytest.approx(2 / 3)
    assert matthews(PREDICTED, RIGHT) == pytest.approx(3 / 9)  # (2·2 - 1·1) / sqrt(3·3·3·3)
    # three classes, their mean: F1 of 0 is 2/3, of 1 is 1, of 2 is 0
    assert f1([0, 0, 1], [0, 2, 1]) == pytest.approx(5 / 9)
    assert pearson([1, 2, 3, 5], [2, 4, 6, 10]) == pytest.approx(1)
    assert pearson([0, 1, 2], [1, 0, 2]) == pytest.approx(0.5)
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 2, 2, 0]) == pytest.approx(-1 / 3 * np.sqrt(0.9), abs=1e-12)


def test_a_task_names_its_scores_in_order():
    pytest.importorskip("sklearn")
    found = task_scores(("f1", "accuracy"), PREDICTED, RIGHT)
    assert list(found) == ["f1", "accuracy"] and found["accuracy"] == pytest.approx(2 / 3)
    assert set(SCORES) == {"accuracy", "f1", "matthews", "pearson", "spearman"}
    with pytest.raises(LoraxError, match="score is 'bleu': expected one of 'accuracy'"):
        task_scores(("accuracy", "bleu"), PREDICTED, RIGHT)


@pytest.mark.parametrize("name", SCORES)
def test_where_there_is_nothing_to_tell_apart(name):
    pytest.importorskip("sklearn")
    expected = {"accuracy": 1.0, "f1": 1.0}.get(name, 0.0)
    assert task_scores([name], [1, 1, 1], [1, 1, 1]) == {name: expected}  # one class only
    found = task_scores([name], [0, 0, 0, 0], [0, 1, 0, 1])[name]  # constant predictions
    assert found == {"accuracy": 0.5}.get(name, 0.0)
    assert task_scores([name], [0, 0], [0, 0])[name] == {"accuracy": 1.0}.get(name, 0.0)
    for predictions, labels, words in (
        ([], [], "at least one"),
        ([1, 2], [1], r"shape \(2,\) and labels \(1,\)"),
        ([1.0, np.nan], [1.0, 2.0], "predictions hold .* look for NaN"),
    ):
        with pytest.raises(LoraxError, match=words):
            task_scores([name], predictions, labels)


@settings(max_examples=12)
@given(classes)
def test_accuracy_and_matthews_are_symmetric_and_bounded(pairs):
    pytest.importorskip("sklearn")
    predicted, right = (list(side) for side in zip(*pairs, strict=True))
    for name, least in (("accuracy", 0), ("f1", 0), ("matthews", -1)):
        score = SCORES[name]
        assert least <= score(predicted, right) <= 1 + 1e-12
        assert score(predicted, right) == pytest.approx(score(right, predicted))
    assert accuracy(right, right) == f1(right, [*right]) or set(right) == {0}


@settings(max_examples=40)
@given(values)
def test_correlations_are_those_of_scipy(pairs):
    stats = pytest.importorskip("scipy.stats")
    predicted, right = (np.asarray(side) for side in zip(*pairs, strict=True))
    expected = stats.pearsonr(predicted, right).statistic
    assert pearson(predicted, right) == pytest.approx(expected, abs=1e-9)
    assert pearson(1e200 * predicted, 1e-200 * right) == pytest.approx(expected, abs=1e-9)
    ranked = stats.spearmanr(predicted, right).statistic
    assert spearman(predicted, right) == pytest.approx(ranked, abs=1e-9)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert task_scores(["accuracy", "pearson"], PREDICTED, RIGHT)  # these need numpy alone
    for name in ("f1", "matthews"):
        with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[eval\]'"):
            task_scores([name], PREDICTED, RIGHT)


def test_the_majority_is_the_least_to_beat():
    assert majority([2, 0, 2, 1]) == 2
    assert majority(np.array([1, 0, 1, 0])) == 0  # the lowest among equals
    with pytest.raises(LoraxError, match="no labels"):
        majority([])


def test_the_majority_of_real_labels():
    rows = [line.split("\t") for line in shared("sst2/test.tsv.xz").decode().splitlines()[1:]]
    labels = [int(row[-1]) for row in rows]
    assert len(labels) == 872 and majority(labels) == 1
    assert accuracy([majority(labels)] * 872, labels) == pytest.approx(444 / 872)


def test_exact_match_ignores_white_space_alone():
    assert exact_match(["  a \n b", "A b", "c"], ["a b", "a b", "c"]) == pytest.approx(2 / 3)
    assert exact_match(["x", "y"], [("w", "x "), ["z"]]) == 0.5  # several references
    for predictions, references in ((["a"], []), ([], [])):
        with pytest.raises(LoraxError, match="at least one"):
            exact_match(predictions, references)


def test_exact_match_of_numbers():
    predictions = ["so 4 + 5 = 9 #### 1,234.50", "#### nothing 7", "he has 12 left.", "no number"]
    references = ["#### 1234.5", "#### 7", "we add\n#### 12", "#### 0"]
    assert exact_match(predictions, references, numeric=True) == 0.75
    with pytest.raises(LoraxError, match="'none' holds no number"):
        exact_match(["1"], ["none"], numeric=True)


@pytest.mark.parametrize(
    "text, number",
    [
        ("#### -3\n#### 4", "-3"), ("10-3", "3"), ("it costs $1,000.", "1000"), ("#### ", None),
        ("4 #### x", None), (".5", "0.5"), ("", None), ("7 apples, 8", "8"),
    ],
)  # fmt: skip
def test_the_number_of_an_answer(text, number):
    assert number_in(text) == (None if number is None else Decimal(number))


def test_the_numbers_of_real_answers():
    rows = [json.loads(line) for line in shared("gsm8k/test.jsonl.xz").decode().splitlines()]
    answers = [row["answer"] for row in rows]
    assert len(answers) == 1319
    assert exact_match(answers, answers, numeric=True) == 1.0
    assert number_in(answers[0]) == 18
