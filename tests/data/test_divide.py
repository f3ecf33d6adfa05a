"""Dividing: nothing lost, nothing on two sides, the same every time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.divide import divide

SHARES = (0.8, 0.1, 0.1)


@given(st.lists(st.integers(0, 30), min_size=40, max_size=80))
def test_every_row_is_on_one_side_with_its_likes(numbers):
    rows = [{"prompt": f"p{n}", "response": str(i)} for i, n in enumerate(numbers)]
    try:
        parts = divide(rows, SHARES)
    except LoraxError:
        assert len(set(numbers)) < 20
        return
    assert Counter(r["response"] for part in parts for r in part) == Counter(
        row["response"] for row in rows
    )
    prompts = [{row["prompt"] for row in part} for part in parts]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
    assert parts == divide(rows, SHARES)
    assert all(part == [row for row in rows if row in part] for part in parts)


def test_rows_in_order_of_label_are_mixed():
    rows = [{"text": f"t{i}", "pair": "", "label": i // 500} for i in range(1000)]
    train, held_out = divide(rows, (0.9, 0.1))
    assert (len(train), len(held_out)) == (900, 100)
    assert 30 < sum(row["label"] for row in held_out) < 70
    images = [{"image": None, "label": 0, "where": str(i)} for i in range(10)]
    assert [len(part) for part in divide(images, (0.5, 0.5))] == [5, 5]


def test_one_text_is_cut_by_its_characters():
    text = "".join(map(chr, range(100, 1100)))
    parts = divide([{"text": text, "where": "f"}], (0.8, 0.1, 0.1))
    assert [len(part[0]["text"]) for part in parts] == [800, 100, 100]
    assert "".join(part[0]["text"] for part in parts) == text
    assert parts[1][0]["where"] == "f"


def test_a_share_of_nothing_is_empty():
    rows = [{"text": f"t{i}"} for i in range(20)]
    train, validation, test = divide(rows, (0.95, 0.05, 0.0))
    assert (len(train), len(validation), test) == (19, 1, [])
    assert divide(rows[:1], (1.0, 0.0))[1] == []


@pytest.mark.parametrize("shares", [(), (0.9, 0.2), (1.1, -0.1)])
def test_shares_that_are_none(shares):
    with pytest.raises(LoraxError, match="expected 0 or more each, at most 1 together"):
        divide([{"text": "a"}], shares)


def test_too_few_rows():
    with pytest.raises(LoraxError, match="2 rows are too few for a share of 0.1"):
        divide([{"text": "a"}, {"text": "b"}], (0.9, 0.1))
