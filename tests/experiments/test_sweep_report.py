"""The report of a sweep says what is best, how sure that is, and what went wrong."""

import pytest

from configs._sweeps import best_of
from experiments._sweep import report
from experiments._sweep.reduce import reduce
from experiments._sweep.rows import row
from tests.experiments.sweeps import leave, page, units_of
from tests.run_files import Page, rows

BAD = ("rank=1,lr=0.1,seed=0", "rank=1,lr=0.1,seed=1", "rank=2,lr=0.1,seed=1")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(report.md, report.html, the folder) of twelve units, of which three failed."""
    folder = tmp_path_factory.mktemp("sweep")
    units = units_of(page(folder))
    for unit in units:
        leave(folder, unit, failed=unit.name in BAD)
    found = [row(folder, unit) for unit in units]
    config = units[0].config.to_dict()
    env = {"python": "3.11", "packages": {"jax": "0.10"}}
    reduced = reduce(found, best_of("lr"), config["checkpoint"])
    file = report.write(folder, "my/page.py:words", config, found, reduced, env)
    return file.read_text(), (folder / "report.html").read_text(), folder


def test_results_are_of_the_best_rate(written):
    table = rows(written[0], "## Results")
    assert table["rank"][:4] == ["best lr", "n", "validation loss (nats)", "test loss (nats)"]
    assert table["frozen base"][:4] == ["–", "–", "–", "9.000"]
    assert table["1"] == ["0.01", "2", "1.050 ± 0.050", "1.550 ± 0.050", "–", "100"]
    assert table["2"][0] == "0.01" and table["2"][-1] == "200"


def test_every_choice_and_every_failure_is_told(written):
    text = written[0]
    table = rows(text, "## Every choice")
    assert table["rank"] == ["lr 0.001", "lr 0.01", "lr 0.1"]
    assert table["1"][1:] == ["1.050 ± 0.050", "2 of 2 failed"]
    assert table["2"][2] == "1.500 (1 of 2 failed)"
    assert "**1.050 ± 0.050**" in text
    assert "- 3 of 12 units failed" in text
    failed = text[text.index("## Failed units") :]
    assert failed.count("the loss of step 1 is no number") == 3
    assert all(f"`{name}`" in failed for name in BAD)


def test_statistics_are_defined(written):
    text = written[0]
    for words in ("sample standard deviation over √n", "lower is better", "took no part"):
        assert words in text


def test_the_setting_of_every_unit_is_told(written):
    for words in ("scaling standard", "initializer kaiming", "`my/page.py:words`", "12: 9 done"):
        assert words in written[0]


def test_the_page_is_told_without_its_rank_that_no_unit_need_have(written):
    (line,) = (line for line in written[0].splitlines() if line.startswith("- Page: "))
    assert line.startswith("- Page: `my/page.py:words`, LoRA, alpha ")
    assert line.endswith("; swept: rank")


def test_how_the_best_rate_moves(written):
    table = rows(written[0], "## Best learning rate of each rank")
    assert table["best lr"] == ["0.01", "0.01", "1", "–"]
    assert "in steps of 10" in written[0]


def test_the_page_needs_no_other_and_the_pictures_are_there(written):
    text, html, folder = written
    found = Page(html)
    assert not {"script", "link"} & found.tags and "svg" in found.tags
    assert all(link.startswith(("#", "data:")) for link in found.links)
    drawn = [line[line.index("(") + 1 : -1] for line in text.splitlines() if line.startswith("![")]
    assert drawn and all((folder / name).is_file() for name in drawn)


def test_edges_and_single_seeds_are_warned_of(tmp_path):
    units = [u for u in units_of(page(tmp_path)) if u.point["seed"] == 0 and u.point["lr"] > 0.001]
    for unit in units[:-1]:
        leave(tmp_path, unit)
    found = [row(tmp_path, unit) for unit in units]
    config = units[0].config.to_dict()
    text = report.write(tmp_path, "p", config, found, reduce(found, best_of("lr"))).read_text()
    assert "0.01 (edge: lowest)" in text and "which should be widened: rank 1" in text
    assert "One seed a unit" in text
    assert "1 of 4 units have not ended, the first `rank=2,lr=0.1,seed=0`" in text
    assert "≥ 1" in text


def test_a_search_has_a_range_and_no_steps(tmp_path):
    units = [u for u in units_of(page(tmp_path)) if u.point["seed"] == 0]
    for unit in units:
        leave(tmp_path, unit)
    found, config = [row(tmp_path, unit) for unit in units], units[0].config.to_dict()
    reduced = reduce(found, best_of("lr"), search=(0.0099, 1.0, 3))
    text = report.write(tmp_path, "p", config, found, reduced).read_text()
    assert "edge of their range" in text and "best lr is the lowest searched" in text
    assert "end of the range of the search" in text and "in steps of" not in text


def test_an_empty_choice_is_told(tmp_path):
    units = units_of(page(tmp_path))[:4]
    for unit in units:
        leave(tmp_path, unit, failed=True)
    found = [row(tmp_path, unit) for unit in units]
    config = units[0].config.to_dict()
    text = report.write(tmp_path, "p", config, found, reduce(found, best_of("lr"))).read_text()
    assert "Nothing was chosen" in text and "4 of 4 units failed" in text
