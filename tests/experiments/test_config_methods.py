"""The page that compares methods: one entry a method, equal tuning, two tasks on one base."""

import pytest

from configs import method_comparison as page
from experiments._cli import parse
from experiments._page_file import load_config
from experiments._sweep import check
from experiments._sweep.points import read_sweep
from experiments._sweep.program import programs
from experiments._sweep.units import make_units

NAME = "configs/method_comparison.py"


def units(words=""):
    """All units of the page, those that `smoke` leaves out too."""
    config = load_config(f"{NAME}:{words}")
    if "smoke" in words:  # more steps than AdaLoRA leaves its budget alone at the end
        config.train.steps = config.eval.every = config.checkpoint.every = 24
    return make_units(config, list(page.sweep(words)))


def rates(made):
    """{method: its rates}."""
    found = {}
    for unit in made:
        found.setdefault(unit.point["adapter"], set()).add(unit.config.optimizer.learning_rate)
    return found


@pytest.mark.parametrize("task", page.TASKS)
def test_every_method_is_tuned_alike(task):
    made = units(task)
    assert len(made) == 15 * len(page.METHODS)
    assert [*rates(made)] == [*page.METHODS]
    assert all(len(found) == 5 for found in rates(made).values())
    assert len({unit.point["seed"] for unit in made}) == 3
    packed = programs(made)  # a program a method; one for both scalings of LoRA
    assert len(packed) == len(page.METHODS) - 1
    assert [len(group) for group in packed] == [30] + [15] * (len(packed) - 1)


def test_tasks_differ_in_data_alone():
    language, classes = (units(task) for task in page.TASKS)
    assert language[0].config.data.task == "language"
    assert classes[0].config.data.labels == page.INTENTS
    assert language[0].config.model == classes[0].config.model
    assert rates(language) == rates(classes)
    assert all(unit.config.data.retention and unit.config.eval.by_item for unit in classes)


def test_words_of_baselines_are_their_entries():
    assert [*rates(units("full"))] == ["Full"] and [*rates(units("bitfit,clinc"))] == ["BitFit"]
    assert load_config(f"{NAME}:full").adapter.adapter == "Full"


@pytest.mark.runs
def test_every_method_fits_the_base():
    made = [u for u in units() if u.point["seed"] == 0]
    sizes = check.trainable(made, check.planned, print)
    of = {unit.point["adapter"]: sizes[unit.name] for unit in made}
    assert of["Full"] == 260_032 and of["LoRA"] == of["rsLoRA"] == 46_240
    assert of["Prompt"] == 16 * 64  # n d
    assert of["Prefix"] == 16 * 2 * 5 * 32  # n 2 L d_kv
    assert of["LoRA+PE"] == of["LoRA"] + 8 * 64


@pytest.mark.runs
@pytest.mark.parametrize("task", page.TASKS)
def test_a_method_of_each_kind_trains(task, tmp_path):
    from experiments._sweep.pack import run_units
    from experiments._sweep.reduce import reduce
    from experiments._sweep.report import write
    from experiments._sweep.rows import row
    from lorax.train.stop import catch

    pytest.importorskip("grain")
    kinds = ("LoRA", "AdaLoRA", "Prompt")
    if task == "shakespeare":
        kinds += ("TinyLoRA", "VeRA", "IA3", "LoRA+PL")
    made = [u for u in units(f"{task},smoke") if u.point["adapter"] in kinds]
    made = [u for u in made if u.point["seed"] == 0][::5]  # of each the lowest rate
    with catch() as stop:
        run_units(made, tmp_path, stop, say=lambda _: None)
    found = [row(tmp_path, unit) for unit in made]
    assert [one["point"]["adapter"] for one in found] == sorted(kinds, key=[*page.METHODS].index)
    assert all(one["state"] == "done" and one["validation/loss"] for one in found)
    assert ("validation/accuracy" in found[0]) == (task == "clinc")
    config = made[0].config.to_dict()
    text = write(tmp_path, f"{NAME}:{task}", config, found, reduce(found, page.reduction))
    assert "## Methods" in text.read_text()


def test_smoke_keeps_two_methods():
    call = parse([f"--config={NAME}:smoke", "--workdir=x"], NAME)
    points = read_sweep(f"{NAME}:smoke", call.config).points
    assert [point["adapter"].label for point in points] == ["LoRA"] * 2 + ["rsLoRA"] * 2
