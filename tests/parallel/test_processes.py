"""A single process agrees with itself at once; several are tried in test_several.py."""

from lorax.parallel.processes import everyones, from_first, meet, say


def test_a_single_process_waits_for_nobody(capsys):
    meet("test")
    assert from_first(7) == 7 and everyones("é") == ["é"]
    say("told")
    assert capsys.readouterr().out == "told\n"
