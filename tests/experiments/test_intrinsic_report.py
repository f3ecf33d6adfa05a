"""The report of a study says d90, how sure it is and from what, and is made of files alone."""

import dataclasses
import json
import math

import pytest

from experiments._intrinsic import report
from experiments._intrinsic import rows as files
from experiments._intrinsic.search import Point, next_points
from experiments.figures import dimension
from lorax.core.errors import LoraxError
from tests.experiments.intrinsic_rows import rising, row, searched, study
from tests.run_files import Page, rows

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")

TOTAL = 199_210
MNIST = study(
    baseline=1.0, target="global", also=(("fastfood", (300, 750)),), ranks=(1, 4),
    published=(("Li et al. 2018", 750),), rates=(0.001, 0.003),
)  # fmt: skip


def accuracy(point):
    """The threshold 0.9 is passed from 710 on, at the second rate; LoRA from rank 1 on."""
    if point.dim is None and point.rank is None:
        return 0.98 + 0.001 * point.repeat
    slow = 0.05 if point.lr == 0.001 and point.dim else 0.0
    return rising(710)(point) - slow + 0.001 * (point.repeat - 1)


def left(folder, found, fields, **config):
    """A workdir with these rows."""
    files.write(folder / "rows.jsonl", found)
    page = {"data": {"task": "classification", "name": "mnist"}, "model": {"family": "mlp"}}
    (folder / "config.json").write_text(json.dumps({**page, "study": fields, **config}))
    (folder / "env.json").write_text(json.dumps({"python": "3.11", "packages": {"jax": "0.10"}}))
    return folder


def told(folder, found, fields, **config):
    return report.write_report(left(folder, found, fields, **config)).read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(report.md, the folder) of a study that is like the one of MNIST."""
    folder = tmp_path_factory.mktemp("study")
    return told(folder, searched(accuracy, MNIST, TOTAL), MNIST), folder


def test_d90_for_each_threshold_and_projection(written):
    text = written[0]
    table = [line for line in text.splitlines() if line.startswith(("| sparse ", "| published"))]
    own, other, published = ([cell.strip() for cell in line.split("|")[2:-1]] for line in table[:3])
    assert own[:3] == ["own", "0.9810", "0.8829"]
    assert other[:5] == ["global", "1.000", "0.9000", "725", "700"]
    assert other[7:] == ["199,210", "274.8"]
    low, high = map(float, other[6].split(" to "))
    assert low <= float(other[5]) <= high
    assert published[3:5] == ["750", "–"]
    assert "- Result: d=725 is the first d whose mean passes 0.9; d=700, below it, does not" in text
    assert "# Intrinsic dimension of classification of MNIST" in text
    assert "- fastfood, global: one repeat a d" in text


def test_every_d_has_its_mean_error_rate_and_what_it_passes(written):
    table = rows(written[0], "## At each d")
    assert table[""] == ["d", "lr", "n", "validation accuracy", "test accuracy", "passes"]
    assert table["direct training"] == [
        "199,210", "0.001", "3", "0.98100 ± 0.00058", "0.97100 ± 0.00058", "own and global",
    ]  # fmt: skip
    lines = [line for line in written[0].splitlines() if line.startswith("| sparse ")]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]]
    found = {row[0]: (row[1], row[2], row[-1]) for row in cells}
    assert found["100"] == ("0.003", "3", "no")
    assert found["725"][2] == found["1,000"][2] == "own and global"
    for words in ("sample standard deviation over √n", "the seed of projection", "took no part"):
        assert words in written[0]


def test_lora_stands_beside_d90_at_the_same_thresholds(written):
    table = rows(written[0], "## LoRA on the same task")
    assert table["r = 1"][0] == "1,000" and table["r = 1"][-1] == "own and global"
    assert "`all-linear`" in written[0] and "725 (global)" in written[0]


def test_rates_seeds_cost_units_config_and_versions_are_told(written):
    text, folder = written
    table = rows(text, "## Learning rates")
    assert table[""] == ["lr 0.001", "lr 0.003"] and table["sparse, d = 100"][1] == "0.8039"
    assert "**0.8039**" in text
    assert "best learning rate at d = 725, 0.003, is the highest tried" in text
    assert rows(text, "## Seeds")["direct training"] == ["0", "0, 1, 2", "0"]
    found = files.read(folder / "rows.jsonl")
    cost = rows(text, "## Cost")
    assert cost["all"] == [str(len(found)), "", "", "", f"{len(found) / 2:,.1f}"]
    assert cost["direct training"] == ["3", "0", "2", "3", "1.5"]
    assert all(f"`{one.name}`" in text for one in found)
    assert '"most_repeats": 5' in text and "`0.10`" in text


def test_the_page_needs_no_other_and_the_pictures_are_there(written):
    text, folder = written
    found = Page((folder / "report.html").read_text())
    assert not {"script", "link"} & found.tags and "svg" in found.tags
    assert all(link.startswith(("#", "data:")) for link in found.links)
    drawn = [line[line.index("(") + 1 : -1] for line in text.splitlines() if line.startswith("![")]
    assert drawn == [f"plots/{name}.png" for name in ("value_by_d", "bridge", "learning_curves")]
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_a_report_is_written_again_from_its_files_byte_for_byte(written, tmp_path):
    text, folder = written
    assert report.is_study(folder) and not report.is_study(tmp_path)
    again = report.write_report(folder, tmp_path / "other")
    assert again.read_text() == text
    for name in ("report.html", "plots/value_by_d.png"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()


def test_the_figure_has_every_series_line_and_mark(written):
    found = files.read(written[1] / "rows.jsonl")
    drawn, _ = dimension.figures(found, MNIST)
    by_d, bridge, learning = (figure.svg for figure in drawn)
    for words in ("sparse subspace", "fastfood subspace", "direct training, 0.9810",
                  "global threshold, 0.9000", "first d that passes, 725", "near the threshold",
                  "interpolated, 7"):  # fmt: skip
        assert words in by_d
    assert "r = 4" in bridge and "LoRA" in bridge and "fastfood" not in bridge
    assert "d = 1,000" in learning and "epoch" in learning
    assert "95 % interval" in drawn[0].caption


def test_what_chance_may_decide_is_a_warning(tmp_path):
    fields = study(grid=(100, 120), most_repeats=3, direct_repeats=1)
    values = {100: (0.88, 0.90, 0.91), 120: (0.89, 0.90, 0.95)}
    found = [
        row(p, values[p.dim][p.repeat] if p.dim else 1.0) for p in next_points([], fields, 99999)
    ]
    text = told(tmp_path, found, fields)
    assert (
        "After 3 repeats the mean at d = 120, 0.913 ± 0.019, is within one standard error" in text
    )
    assert "After 3 repeats the mean at d = 100" in text


def test_a_threshold_that_is_never_reached_is_said_with_the_best_value(tmp_path):
    fields = study(baseline=1.0, target="global")
    found = searched(lambda p: 0.6 if p.dim is None else 0.3 + p.dim / 10_000, fields)
    text = told(tmp_path, found, fields)
    line = "the threshold 0.9 is never reached: the best value seen is 0.4, at d=1000"
    assert text.count(line) == 2  # as the result, and as a warning
    assert "Direct training has 0.6000, which does not pass the global threshold 0.9000." in text
    assert "no d up to 1,000 passes: there is no crossing" in text


def test_failed_units_are_named_and_an_unfinished_study_says_so(tmp_path):
    fields = study()
    found = searched(lambda p: math.nan if p.dim == 300 and p.repeat else rising(400)(p), fields)
    text = told(tmp_path, found, fields)
    failed = text[text.index("## Failed units") :]
    assert failed.count("the loss of step 7 is no number\n") == 2
    assert "2 of" in text and "2 failed" in text
    text = told(tmp_path, found[:5], fields)
    assert "units are left to train (not finished)" in text and "run the same command again" in text
    assert "## Figures" in text
    assert "## Figures" not in told(tmp_path, found[:3], fields)


def test_a_loss_that_falls_from_a_frozen_start(tmp_path):
    fields = study(mode="min", relative="gain", metric="validation/loss", resolution=10)
    point = Point("direct", "", None, None, 0, 1e-3)

    def loss(one):
        value = 2.0 if one.dim is None else 2 + 1 / (1 + (one.dim / 90) ** 2)
        return dataclasses.replace(one, last={"validation/loss": value}, best={"epoch": 1},
                                   start={"validation/loss": 3.0}, curve=[2.5, value])  # fmt: skip

    found = [loss(row(point, 0.5))]
    while points := next_points(found, fields, TOTAL):
        found += [loss(row(p, 0.5, TOTAL)) for p in points]
    text = told(tmp_path, found, fields)
    assert "gain over the frozen start in validation loss" in text and "strictly lower" in text
    assert "validation loss (nats)" in text and "first d whose mean passes 2.1" in text


def test_no_rows_and_no_files_are_one_line(tmp_path):
    with pytest.raises(LoraxError, match="no rows at"):
        report.write_report(tmp_path)
    with pytest.raises(LoraxError, match="has no row"):
        report.write_report(left(tmp_path, [], study()))
