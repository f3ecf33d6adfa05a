"""A single process agrees with itself at once; several are tried in test_several.py."""

from lorax.parallel.processes import from_first, meet


def test_a_single_process_waits_for_nobody():
    meet("test")
    assert from_first(7) == 7
