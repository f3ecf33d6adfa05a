"""Labels: names or numbers to classes, text to values, and what is neither is told."""

import pytest

from lorax.core.errors import LoraxError
from lorax.data.labels import classes, values
from lorax.data.rows import BadRows


def records(*labels):
    """Records that differ in their label alone."""
    return [{"text": "t", "label": x, "where": f"f:{i}"} for i, x in enumerate(labels, 1)]


def numbers(found):
    """The labels of records."""
    return [record["label"] for record in found]


@pytest.mark.parametrize(
    "given, labels, expected, names",
    [
        (("b", "a", "b "), (), [1, 0, 1], ("a", "b")),
        (("2   ", "10", "0"), (), [1, 2, 0], ("0", "2", "10")),
        (("no", "yes", "1"), ("no", "yes"), [0, 1, 1], ("no", "yes")),
        (("1", "2"), ("2", "1"), [1, 0], ("2", "1")),  # numbers that are names do not count
    ],
)
def test_classes(given, labels, expected, names):
    bad = BadRows()
    found, kept = classes(records(*given), labels, bad)
    assert numbers(found) == expected and kept == names
    again, same = classes(records(*given), kept, bad)
    assert numbers(again) == expected and same == names


def test_a_label_out_of_range_is_told_or_skipped():
    for label in ("2", "-1", "maybe", "1.0"):
        match = f"f:2: label '{label}' is unknown: expected one of no, yes; correct it"
        with pytest.raises(LoraxError, match=match):
            classes(records("no", label), ("no", "yes"), BadRows())
        bad = BadRows("skip")
        found, _ = classes(records("no", label, "1"), ("no", "yes"), bad)
        assert numbers(found) == [0, 1] and bad.count == 1 and bad.first.startswith("f:2")
    with pytest.raises(LoraxError, match=r"0, 1, .* 8, \.\.\. \(20 classes\)"):
        classes(records("20"), [str(i) for i in range(20)], BadRows())


def test_held_out_rows_have_no_class_that_training_lacks():
    _, names = classes(records("1", "2", "5"), (), BadRows())
    with pytest.raises(LoraxError, match="label '0' is unknown: expected one of 1, 2, 5"):
        classes(records("0"), names, BadRows())


def test_a_name_among_numbers_is_no_class():
    with pytest.raises(LoraxError, match="f:3: label 'x' is no number, as the rows before have"):
        classes(records("0", "1", "x"), (), BadRows())
    bad = BadRows("skip")
    found, names = classes(records("0", "1", "x"), (), bad)
    assert numbers(found) == [0, 1] and names == ("0", "1") and bad.count == 1


def test_values():
    assert numbers(values(records("2.5 ", "-1e3"), BadRows())) == [2.5, -1000.0]
    for label in ("x", "nan", "inf"):
        with pytest.raises(LoraxError, match=f"f:1: label '{label}' is no number;"):
            list(values(records(label), BadRows()))
    bad = BadRows("skip")
    assert numbers(values(records("5.5", "5", "-0.1", "0"), bad, 0, 5)) == [5.0, 0.0]
    assert bad.count == 2 and "label '5.5' is no number from 0 to 5" in bad.first
