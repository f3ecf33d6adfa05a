"""Toy data: the same for the same seed, other for another split, and its labels can be learnt."""

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.e2e import group
from lorax.data.toy import HELD_OUT, TRAIN, toy

KINDS = ("language", "completion", "classification", "regression", "images")
FIELDS = {
    "language": {"text"}, "completion": {"prompt", "response"}, "images": {"image", "label"},
    "classification": {"text", "pair", "label"}, "regression": {"text", "pair", "label"},
}  # fmt: skip


def same(one, other):
    """Are these the same records?"""
    return repr(one) == repr(other)


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_a_function_of_seed_and_split(kind):
    train, held_out = toy(kind), toy(kind, "validation")
    assert len(train) >= TRAIN and HELD_OUT <= len(held_out) < TRAIN
    assert set(train[0]) == FIELDS[kind] | {"where"}
    assert same(train, toy(kind)) and not same(train, toy(kind, seed=1))
    assert not same(held_out, toy(kind, "test"))
    assert len({record["where"] for record in train}) == len(train)


def test_a_meaning_has_several_texts():
    grouped = group(toy("completion"))
    assert max(len(record["references"]) for record in grouped) > 1
    assert all(record["prompt"].endswith("||") for record in grouped)


@pytest.mark.parametrize("classes, pair", [(2, False), (3, True), (20, False)])
def test_a_word_decides_the_class(classes, pair):
    deciding = lambda r: frozenset((r["pair"] if pair else r["text"]).split())
    word_of = {}
    for record in toy("classification", classes=classes, pair=pair):
        words = deciding(record)
        word_of[record["label"]] = word_of.get(record["label"], words) & words
    assert sorted(word_of) == list(range(classes))
    shared = frozenset.intersection(*word_of.values())
    assert all(words - shared for words in word_of.values())
    for record in toy("classification", "test", classes=classes, pair=pair):
        assert word_of[record["label"]] <= deciding(record)
        assert bool(record["pair"]) == pair


def test_the_value_counts_words():
    colours = {"red", "blue", "green", "white"}
    for record in toy("regression"):
        assert record["label"] == sum(word in colours for word in record["text"].split())


def test_images_are_told_apart_by_their_mean():
    train, test = (toy("images", split, classes=10) for split in ("train", "test"))
    pixels = np.array([record["image"] for record in train], np.float32)
    labels = np.array([record["label"] for record in train])
    means = np.array([pixels[labels == label].mean(0) for label in range(10)])
    assert pixels.shape[1:] == (28, 28) and train[0]["image"].dtype == np.uint8
    right = [np.argmin(((means - r["image"]) ** 2).sum((1, 2))) == r["label"] for r in test]
    assert np.mean(right) > 0.95


def test_sums_are_ten_images_and_their_numbers_again_and_again():
    train, held_out = toy("sums"), toy("sums", "validation")
    assert (len(train), len(held_out)) == (2000, 70)
    for record in (*train, *held_out):
        k = int(record["label"])
        white = record["image"] == 255
        assert record["image"].shape == (10, 100) and record["label"] == float(k)
        assert white[k - 1].all() and white.sum() == 100 and record["image"].sum() == 25_500
    assert [record["label"] for record in train[:11]] == [*range(1, 11), 1]
    assert len({record["where"] for record in train}) == 2000


def test_an_unknown_kind():
    with pytest.raises(LoraxError, match="the kind of toy data is 'audio': expected one of 'lang"):
        toy("audio")
