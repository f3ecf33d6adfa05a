"""Methods compared: table and figures from made-up rows, items and costs alone."""

import numpy as np
import pytest

from configs._sweeps import best_of
from experiments._sweep import report
from experiments._sweep.items import read_items
from experiments._sweep.reduce import reduce
from experiments.figures import labels, methods
from tests.experiments.method_rows import CONFIG, COSTS, METHODS, lines, rows
from tests.run_files import rows as cells

pytest.importorskip("matplotlib")


def compared(folder, number="loss", costs=COSTS, items=True, found=None):
    """A comparison of what stands in a folder."""
    found = found or rows(number)
    if items:
        (folder / "items.jsonl").write_text(lines(found, number))
    reduced = reduce(found, best_of("lr"))
    return methods.compare(found, reduced, CONFIG, read_items(folder), costs)


def test_the_table_has_the_best_first_and_what_is_told_apart_is_bold(tmp_path):
    head, *body = methods.table(compared(tmp_path))
    assert head == [
        "method", "best lr", "trainable", "test loss (nats/token)", "less LoRA", "forgetting",
        "less LoRA", "step / floor", "peak MiB",
    ]  # fmt: skip
    found = {line[0]: line[1:] for line in body}
    assert [*found] == ["frozen base", "Full", "LoRA", "Same", "IA3"]
    assert found["frozen base"][:3] == ["–", "0", "3.500"]
    assert found["Full"][:2] == ["0.01 (lowest)", "260,032"]
    assert found["Full"][2] == "2.9100 ± 0.0058"
    assert found["Full"][3].startswith("**-0.100 (-0.1") and found["Full"][3].endswith(")**")
    assert found["Full"][5].startswith("**+0.500 (")
    assert found["LoRA"][3] == "–" and found["LoRA"][-2:] == ["1.10", "600"]
    assert found["Same"][3] == "+0.000 (+0.000 to +0.000)"  # the same units, item by item
    assert found["IA3"][-2:] == ["–", "–"]


def test_figures_are_drawn_and_the_same_again(tmp_path):
    found = compared(tmp_path)
    drawn, pngs = methods.figures(found)
    assert [*pngs] == ["by_parameters", "by_forgetting", "less_lora", "costs"]
    assert all(png.startswith(b"\x89PNG") for png in pngs.values())
    by_name = {figure.name: figure for figure in drawn}
    for name in METHODS:
        assert f">{name}<" in by_name["by_parameters"].svg
    assert "paired bootstrap" in by_name["less_lora"].caption
    assert methods.figures(found)[1] == pngs


def test_more_is_better_for_an_accuracy(tmp_path):
    found = compared(tmp_path, "accuracy")
    assert found.number == "test/accuracy"
    assert [method.name for method in found.methods] == ["Full", "LoRA", "Same", "IA3"]
    best, worst = (found.methods[place].apart["test"] for place in (0, -1))
    assert best.mean == pytest.approx(0.01) and worst.mean == pytest.approx(-0.04)


def test_without_items_and_costs_there_is_less_to_tell(tmp_path):
    found = compared(tmp_path, items=False, costs={})
    head, *body = methods.table(found)
    assert head[-1] == "less LoRA" and {line[4] for line in body} == {"–"}
    assert [*methods.figures(found)[1]] == ["by_parameters", "by_forgetting"]


def test_a_sweep_without_lora_or_of_other_axes_is_no_comparison(tmp_path):
    others = [row for row in rows() if row["point"]["adapter"] != "LoRA"]
    assert compared(tmp_path, items=False, found=others) is None
    ranked = [row | {"point": {"rank": 4, **row["point"]}} for row in rows()]
    assert compared(tmp_path, items=False, found=ranked) is None


def test_the_report_of_a_sweep_has_it(tmp_path):
    found = rows()
    (tmp_path / "items.jsonl").write_text(lines(found))
    items = read_items(tmp_path)
    config = {**CONFIG, "adapter": {"adapter": "LoRA"}}
    reduced = reduce(found, best_of("lr"))
    text = report.write(tmp_path, "p.py", config, found, reduced, items=items).read_text()
    table = cells(text, "## Methods")
    assert table["IA3"][3].startswith("+0.400 (")
    assert "**+0.400 (" in text and "plots/by_rate.png" not in text
    assert "plots/less_lora.png" in text
    assert (tmp_path / "plots" / "by_parameters.png").is_file()


def test_names_do_not_hide_one_another():
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    points = {f"method {i}": (10 ** rng.uniform(2, 5), rng.uniform(3, 3.3)) for i in range(14)}
    axes.scatter(*zip(*points.values(), strict=True))
    axes.set_xscale("log")
    labels.place(axes, points)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 14
    apart = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(apart)
