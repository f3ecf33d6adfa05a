import pytest

from lorax import LoraxError
from lorax.io import peft_fields as read

GOOD = [
    (read.boolean, None, False),
    (read.boolean, True, True),
    (read.rank, 3, 3),
    (read.count, 3, 3),
    (read.size, None, None),
    (read.size, 3, 3),
    (read.factor, -1, -1),
    (read.positive, 2, 2),
    (read.rate, None, 0.0),
    (read.rate, 0.5, 0.5),
    (read.text, None, None),
    (read.names, ["b", "a", "b"], ("b", "a")),
    (read.names, "a", ("a",)),
    (read.modules, None, None),
    (read.modules, ".*q", ".*q"),
    (read.modules, ["q"], ("q",)),
    (read.expressions, ["a.*"], ("a.*",)),
    (read.layers, [], None),
    (read.layers, 2, (2,)),
    (read.pattern(read.rank), {"b": 1, "a": 2}, {"b": 1, "a": 2}),
    (read.choice("x", "y"), "y", "y"),
]
BAD = [
    (read.boolean, 1, "true or false"),
    (read.rank, 0, "a rank"),
    (read.count, True, "an integer of at least 1"),
    (read.size, 1.0, "an integer of at least 1"),
    (read.factor, 0, "-1 or"),
    (read.positive, float("inf"), "positive finite"),
    (read.rate, 1, "rate in"),
    (read.text, 3, "a string or null"),
    (read.names, [""], "a list of module names"),
    (read.modules, "(", "a regular expression"),
    (read.expressions, ["("], "a regular expression"),
    (read.layers, [-1], "a layer number"),
    (read.pattern(read.rank), {"a": 0}, "a rank"),
    (read.choice("x", "y"), "z", "'x' or 'y'"),
]


@pytest.mark.parametrize(("reader", "value", "wanted"), GOOD)
def test_each_reader_gives_one_plain_form(reader, value, wanted):
    assert reader("field", value) == wanted


@pytest.mark.parametrize(("reader", "value", "message"), BAD)
def test_each_reader_says_what_it_expected(reader, value, message):
    with pytest.raises(LoraxError, match=f"field.* is .*: expected .*{message}") as error:
        reader("field", value)
    assert "\n" not in str(error.value)


def test_long_values_are_cut():
    assert len(read.short("x" * 100)) == 60 and read.short("x") == "'x'"
