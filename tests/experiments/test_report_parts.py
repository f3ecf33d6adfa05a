"""The parts of a report: text that stays text, figures, numbers, tables, and where runs are."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments._report import page, tables, words
from experiments._report.find import find, names
from experiments._report.runs import read
from experiments.figures import training
from experiments.figures.training import Line, Panel
from tests.run_files import Page, write_records

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")


@settings(max_examples=200)
@given(st.text(alphabet="ab1 |\\`*_[]()<>&;#$~!-+.\n\t\"'é", max_size=20))
def test_escaped_text_is_shown_as_it_is(text):
    shown = " ".join(text.split())
    blocks = [page.Table([["", "x"], [page.escape(text), page.code(text)]])]
    body = page.page("t", blocks).partition("<main>")[2].partition("</main>")[0]
    cells = [Page(cell).words for cell in re.findall(r"<td[^>]*>(.*?)</td>", body, re.DOTALL)]
    assert ["".join(cell).strip() for cell in cells] == [shown, shown]


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_a_fence_holds_any_text(text):
    body = page.page("t", [page.Text(page.fence(text)), page.Text("after")])
    assert "<p>after</p>" in body and body.count("<pre>") == 1


@given(
    st.lists(st.floats(-100, 100) | st.just(math.nan), min_size=1, max_size=60), st.integers(0, 9)
)
def test_the_moving_mean_stays_between_its_neighbours(values, reach):
    found = training.smoothed(values, reach)
    assert len(found) == len(values)
    for place, mean in enumerate(found):
        near = [v for v in values[max(0, place - reach) : place + reach + 1] if math.isfinite(v)]
        assert math.isnan(mean) or min(near) - 1e-9 <= mean <= max(near) + 1e-9


def test_the_moving_mean_leaves_a_slope_where_it_is():
    line = [2.0 * step for step in range(50)]
    assert training.smoothed(line, 5)[5:-5] == pytest.approx(line[5:-5])


@given(st.lists(st.floats(-100, 100) | st.just(math.nan), max_size=300), st.integers(2, 50))
def test_a_thinned_line_keeps_its_extremes(values, most):
    steps, kept = training.thinned(range(len(values)), values, most)
    assert steps == sorted(set(steps)) and len(kept) <= most + 4
    finite = [v for v in values if math.isfinite(v)]
    if finite:
        assert min(finite) in kept and max(finite) in kept


def test_figures_of_many_runs_and_of_none_that_is_finite():
    many = [Line(f"_run {n}", range(1000), [n + 1.0] * 1000) for n in range(40)]
    png, svg = training.draw("many", [Panel("loss", many, smooth=True)], columns=1, height=3.0)
    assert png.startswith(b"\x89PNG") and len(svg) < 300_000 and "run 39" in svg
    nothing = Panel("loss", [Line("a", [1, 2], [math.nan] * 2)])
    assert "no finite number" in training.draw("none", [nothing], columns=1, height=3.0)[1]


def test_numbers_for_people():
    assert [words.number(x) for x in (1234567, 1234.5, 66.123, 0.91234, 1.5e-5, None)] == [
        "1,234,567", "1,234", "66.12", "0.9123", "1.50e-05", "NaN"
    ]  # fmt: skip
    assert words.size(2048) == "2 KiB" and words.size(3 * 2**30) == "3.00 GiB"
    assert words.higher_is_better("test/bleu") and not words.higher_is_better("test/loss")
    assert words.score("test/official_bleu") == "test official BLEU"
    assert words.adapter({"adapter": "Full"}) == "full fine-tuning"
    assert words.brief(["x" * 60 + "1", "y"])[0].endswith("x1")


def test_the_training_loss_is_told_without_label_smoothing(tmp_path):
    record = {"run": "train", "step": 1, "kind": "train", "loss": 2.5}
    write_records(tmp_path / "plain", [record])
    write_records(tmp_path / "smoothed", [record | {"nats": 1.75}])
    plain, smoothed = (read(tmp_path / n, n).runs[0] for n in ("plain", "smoothed"))
    assert plain.losses() == ([1], [2.5]) and smoothed.losses() == ([1], [1.75])


def test_a_fresh_base_is_an_untrained_model(tmp_path):
    records = [{"run": "train", "step": 1, "kind": "train", "loss": 2.5}]
    records.append({"run": "train", "step": 1, "kind": "result", "base/test/loss": 3.0})
    config = {"model": {"source": ""}, "pretrain": {"steps": 0}}
    (write_records(tmp_path / "a", records) / "config.json").write_text(json.dumps(config))
    assert read(tmp_path / "a", "a").baselines == {"untrained model": {"test/loss": 3.0}}
    config["pretrain"]["steps"] = 5
    (write_records(tmp_path / "b", records) / "config.json").write_text(json.dumps(config))
    assert read(tmp_path / "b", "b").baselines == {"frozen base": {"test/loss": 3.0}}


def test_titles_say_what_a_fresh_model_is_and_what_generated_data_is():
    config = {"model": {"family": "gpt2"}, "data": {"task": "language", "format": "toy"}}
    assert words.model(config) == "a fresh GPT-2"
    assert words.task(config) == "language modelling of toy data"
    config["data"] |= {"format": "python", "train": "source"}
    config["pretrain"] = {"steps": 450}
    assert words.model(config) == "a GPT-2 pretrained for 450 steps"
    assert words.task(config) == "language modelling of Python's source"
    assert words.model({}) == ""


def test_only_differing_fields_are_shown():
    papers = {"a": {"x": 1, "y": {"z": [1]}}, "b": {"x": 1, "y": {"z": [2]}, "new": ""}}
    assert tables.differences(papers) == [
        ["", "`y.z`", "`new`"], ["a", "`[1]`", "–"], ["b", "`[2]`", '`""`']
    ]  # fmt: skip
    assert tables.differences({"a": {"x": 1}, "b": {"x": 1}}) == []
    assert tables.common(list(papers.values())) == [["field", "value"], ["`x`", "`1`"]]


def test_runs_are_found_in_their_order_each_once(tmp_path):
    for name in ("r16", "r2", "deep/r1"):
        write_records(tmp_path / name, [])
    write_records(tmp_path / "r2" / "unfinished-1", [])
    write_records(tmp_path / ".hidden", [])
    found = find([tmp_path / "r2", tmp_path, str(tmp_path / "r*")])
    assert names(found) == ["r2", "deep/r1", "r16"]
    assert names(find([str(tmp_path / "r*")])) == ["r2", "r16"]
    assert names(find([tmp_path / "r2" / "metrics.jsonl"])) == ["r2"]
