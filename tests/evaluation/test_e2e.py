"""The two files of the official scorer, as it would read them, and a stand-in for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.evaluation import e2e

TEXTS = ["one two", "three"]
GROUPS = [["one  two", "one\ttwo three"], ["three\n"]]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
lines = texts.filter(lambda text: text.strip() != "")

SCORER = """
import sys
references, system = (open(name, encoding="utf-8").read() for name in sys.argv[1:])
groups = references.strip().split("\\n\\n")
print("noise on the way: 3", file=sys.stderr)
print("SCORES:\\n==============")
for name, number in zip(
    ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"], [len(groups), system.count("\\n"), .5, 1e-3, 2]
):
    print("%s: %.4f" % (name, number))
print()
"""


def read(file, groups=False):
    """As the scorer reads: `splitlines` knows more ends of lines than the newline."""
    found = [[]]
    for line in file.read_text("utf-8").splitlines():
        if line.strip() or not groups:
            found[-1].append(line.strip())
        else:
            found.append([])
    return found if groups else found[0]


def test_the_files_by_hand(tmp_path):
    files = e2e.export(tmp_path, TEXTS, GROUPS)
    assert files.references.read_text() == "one two\none two three\n\nthree\n"
    assert files.system.read_text() == "one two\nthree\n"
    e2e.export(tmp_path, ["other", ""], GROUPS)  # written anew; a blank text keeps its line
    assert files.system.read_text() == "other\n\n"
    assert sorted(tmp_path.iterdir()) == sorted(files)


@given(st.lists(st.tuples(texts, st.lists(lines, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(tmp_path_factory, rows):
    hypotheses, groups = [row[0] for row in rows], [row[1] for row in rows]
    files = e2e.export(tmp_path_factory.mktemp("e2e"), hypotheses, groups)
    plain = lambda text: " ".join(text.split())
    assert read(files.references, groups=True) == [list(map(plain, group)) for group in groups]
    assert read(files.system) == list(map(plain, hypotheses))


def test_nothing_is_left_of_what_cannot_be_written(tmp_path):
    with pytest.raises(LoraxError, match="1 texts for 2 groups"):
        e2e.export(tmp_path, ["a"], GROUPS)
    with pytest.raises(LoraxError, match="not blank"):
        e2e.export(tmp_path, ["a"], [["b", "\n"]])
    with pytest.raises(LoraxError, match="cannot write .*nowhere.*choose another"):
        e2e.export(tmp_path / "nowhere", TEXTS, GROUPS)
    (tmp_path / e2e.SYSTEM).mkdir()
    with pytest.raises(LoraxError, match="cannot write"):
        e2e.export(tmp_path, TEXTS, GROUPS)
    assert {entry.name for entry in tmp_path.iterdir()} == {e2e.SYSTEM, e2e.REFERENCES}


def test_without_the_scorer_there_are_no_official_scores(tmp_path, monkeypatch):
    monkeypatch.delenv(e2e.VARIABLE, raising=False)
    assert e2e.official_scores(e2e.export(tmp_path, TEXTS, GROUPS)) is None


def test_the_scorer_is_run_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    files = e2e.export("out", TEXTS, GROUPS)  # a relative path, though the scorer runs elsewhere
    monkeypatch.setenv(e2e.VARIABLE, str(tmp_path / "scorer"))
    with pytest.raises(LoraxError, match=f"holds no {e2e.SCRIPT}"):
        e2e.official_scores(files)
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / e2e.SCRIPT).write_text(SCORER)
    assert e2e.official_scores(files) == {
        "BLEU": 2.0, "NIST": 2.0, "METEOR": 0.5, "ROUGE_L": 0.001, "CIDEr": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "program, words",
    [("raise OSError('no java')", "no java"), ("print('BLEU: 1')", "BLEU: 1"), ("", "nothing")],
)
def test_a_scorer_that_fails_is_told(program, words, tmp_path, monkeypatch):
    (tmp_path / e2e.SCRIPT).write_text(program)
    monkeypatch.setenv(e2e.VARIABLE, str(tmp_path))
    with pytest.raises(LoraxError, match=f"failed .*{words}.* run it by hand"):
        e2e.official_scores(e2e.export(tmp_path, TEXTS, GROUPS))
