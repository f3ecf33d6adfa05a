"""What `where` may be, and a delta held against what it selects."""

import pytest

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Roles
from lorax.core.where import (
    ALL_LINEAR,
    check_paths,
    check_patterns,
    check_used,
    check_where,
    has_overrides,
    overrides_at,
    spelled,
)

STORED = {"layer/query": 0, "layer/value": 0}


def test_the_name_of_the_default_is_part_of_saved_configs():
    assert ALL_LINEAR == "all-linear"


@pytest.mark.parametrize("patterns", [("a",), ["a", "b.*"]])
def test_patterns_become_a_hashable_tuple(patterns):
    assert check_patterns("where", patterns) == tuple(patterns)
    assert hash(check_patterns("where", patterns)) == hash(tuple(patterns))


@pytest.mark.parametrize("where", [ALL_LINEAR, ["a", "b.*"], {"b.*": {"rank": 4}, "a": {}}])
def test_json_has_what_was_written(where):
    read = check_where(where, {"rank": int})
    assert hash(read) is not None
    assert spelled(read) == where
    assert check_where(spelled(read), {"rank": int}) == read
    assert has_overrides(read) == isinstance(where, dict)


def test_overrides_are_those_of_the_pattern_that_matches():
    read = check_where({"b.*": {"rank": "4"}, "a": {}}, {"rank": int})
    assert overrides_at(read, "bc") == {"rank": 4}
    assert overrides_at(read, "a") == overrides_at(read, "c") == {}
    assert overrides_at(ALL_LINEAR, "b") == overrides_at(("b.*",), "b") == {}


def test_nothing_may_be_excluded_but_something_must_be_adapted():
    assert check_patterns("exclude", ()) == ()
    with pytest.raises(LoraxError, match="where is empty: expected at least one pattern") as error:
        check_patterns("where", ())
    assert not isinstance(error.value, TypeError)


@pytest.mark.parametrize("name", ["where", "exclude"])
@pytest.mark.parametrize("patterns", ["query", None, 3, {"query"}, ("query", 3), (None,)])
def test_anything_else_is_the_wrong_type(name, patterns):
    with pytest.raises(LoraxTypeError, match=f"{name} (is|holds)") as error:
        check_patterns(name, patterns)
    assert "regular expressions" in str(error.value) and "\n" not in str(error.value)


def test_a_bare_string_is_told_how_to_be_a_tuple():
    with pytest.raises(LoraxTypeError, match=r"such as where=\('\.\*/query/kernel',\)"):
        check_patterns("where", "query")


def test_unused_leaves_are_refused_where_use_is_known():
    unused = {"w": Roles((), (), (0, 1), "unused")}
    with pytest.raises(LoraxError, match="'w' is adapted but the program never uses it") as error:
        check_used("w", unused)
    assert "narrow where=" in str(error.value)
    check_used("w", None)
    check_used("w", {})
    check_used("w", {"w": Roles((), (0,), (1,))})


def test_a_delta_of_just_the_wanted_paths_passes():
    check_paths({"layer/value": 1, "layer/query": 1}, ["layer/query", "layer/value"], STORED)
    check_paths({"layer/value": 1}, None, STORED)  # only an example input could tell


@pytest.mark.parametrize(
    ("delta", "wanted", "message"),
    [
        ([1], None, "delta is a list: expected a mapping"),
        (None, None, "delta is a NoneType: expected a mapping"),
        ({}, None, "delta is empty: .*make it with init"),
        ({"layer/qeury": 1}, None, r"'layer/qeury'.*\(it has 'layer/query'\).*another model"),
        ({"zzz": 1}, None, "'zzz', which the base does not have: it belongs to another model"),
        ({"layer/query": 1}, list(STORED), "lacks 'layer/value', which where= selects"),
        (STORED, ["layer/query"], "holds 'layer/value', which where= does not select"),
    ],
)
def test_any_other_delta_is_refused_in_one_line(delta, wanted, message):
    with pytest.raises(LoraxError, match=message) as error:
        check_paths(delta, wanted, STORED)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, LoraxTypeError) == (not isinstance(delta, dict))
