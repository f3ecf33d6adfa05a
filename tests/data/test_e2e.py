"""E2E: meaning and text of every line, and references gathered by meaning."""

import pytest

from lorax.core.errors import LoraxError
from lorax.data.e2e import group, read_e2e
from lorax.data.rows import BadRows
from tests.shared_data import shared_path

LINES = "name : A | area : b||An A . \nname : C||See C . \nname : A | area : b||A , in b . \n"


def test_lines_and_tables_give_prompts_and_responses(tmp_path):
    (tmp_path / "x.txt").write_text(LINES)
    found = read_e2e(tmp_path / "x.txt", BadRows())
    where = str(tmp_path / "x.txt:1")
    assert found[0] == {"prompt": "name : A | area : b||", "response": " An A .", "where": where}
    (tmp_path / "x.csv").write_text('mr,ref\n"name[A], area[b]","An A, say."\n')
    (table,) = read_e2e(tmp_path / "x.csv", BadRows())
    assert (table["prompt"], table["response"]) == ("name[A], area[b]||", " An A, say.")


def test_references_are_grouped_in_order_of_first_appearance(tmp_path):
    (tmp_path / "x.txt").write_text(LINES)
    found = group(read_e2e(tmp_path / "x.txt", BadRows()))
    assert [record["references"] for record in found] == [("An A .", "A , in b ."), ("See C .",)]
    assert [record["response"] for record in found] == [" An A .", " See C ."]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("name : A", "'||' stands here 0 times: expected once"),
        ("name : A||b||c", "'||' stands here 2 times: expected once"),
        ("name : A|| ", "nothing on one side of '||'"),
        ("||text", "nothing on one side of '||'"),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    (tmp_path / "x.txt").write_text(f"{LINES}{line}\n")
    with pytest.raises(LoraxError) as caught:
        read_e2e(tmp_path / "x.txt", BadRows())
    assert f"x.txt:4: {reason}" in str(caught.value)
    bad = BadRows("skip")
    assert len(read_e2e(tmp_path / "x.txt", bad)) == 3 and bad.count == 1


def test_a_table_without_references(tmp_path):
    (tmp_path / "x.csv").write_text("MR\nname[A]\n")
    with pytest.raises(
        LoraxError, match=r"x\.csv:2: there is no column 'mr' .there are MR.: did you mean 'MR'"
    ):
        read_e2e(tmp_path / "x.csv", BadRows())


COUNTS = [("train", 42_061, 4_862), ("valid", 4_672, 547), ("test", 4_693, 630)]


@pytest.mark.parametrize("name, count, distinct", COUNTS)
def test_real_files_and_their_meanings(name, count, distinct):
    found = read_e2e(shared_path(f"e2e_nlg/{name}.txt.xz"), BadRows())
    grouped = group(found)
    assert len(found) == count and len(grouped) == distinct
    assert sum(len(record["references"]) for record in grouped) == count
    assert all(record["response"] == f" {record['response'].strip()}" for record in found)


@pytest.mark.parametrize("table, lines", [("devset", "valid"), ("testset_w_refs", "test")])
def test_real_tables_match_the_lines(table, lines):
    tables = read_e2e(shared_path(f"e2e_nlg/{table}.csv.xz"), BadRows())
    texts = read_e2e(shared_path(f"e2e_nlg/{lines}.txt.xz"), BadRows())
    letters = lambda record: "".join(filter(str.isalnum, record["response"]))
    assert len(tables) == len(texts)
    alike = sum(letters(a) == letters(b) for a, b in zip(tables, texts, strict=True))
    assert alike > 0.95 * len(texts)
