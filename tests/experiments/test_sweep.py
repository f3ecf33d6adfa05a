"""The verb sweep: what it trains, skips, adds, reports and refuses; training is stood in for."""

import json
import os
import signal

import pytest

from experiments import report, sweep
from experiments._cli import parse
from experiments._sweep.rows import read_rows
from experiments._sweep.search import check as check_search
from lorax.core.errors import LoraxError
from tests.experiments.runs import listing
from tests.experiments.sweeps import PAGE, Trainer, page, run, units_of
from tests.run_files import rows

FIRST = "rank=1,lr=0.001,seed=0"
REFUSED = {
    "unknown sweep": (["--sweep=rnk"], ["there is no sweep 'rnk'"]),
    "unknown axis": (["--best_of=alpha"], ["--best_of=alpha", "no axis"]),
    "pack": (["--pack=0"], ["--pack=0", "positive integer"]),
    "pack of text": (["--pack=many"], ["--pack=many"]),
    "memory": (["--memory=-1"], ["--memory=-1", "positive number"]),
    "workers alone": (["--workers=2"], ["--workers is of a launcher"]),
    "options alone": (["--launcher_options=a=b"], ["is of a launcher"]),
    "options": (["--launcher=local", "--launcher_options=a"], ["name=value"]),
    "launcher": (["--launcher=locl"], ["--launcher is 'locl'", "'local'"]),
    "only": (["--only=x.json", "--launcher=local"], ["leave --launcher out"]),
    "only of nothing": (["--only=x.json"], ["no sweep was begun"]),
    "trials": (["--trials=3"], ["--search=lr:1e-4:1e-1"]),
    "search": (["--search=rank:1:2", "--trials=3"], ["not 'rank'", "lr:LOW:HIGH"]),
    "one bound": (["--search=lr:1", "--trials=3"], ["1 bounds", "lr:LOW:HIGH"]),
    "bound of text": (["--search=lr:1e-3:x", "--trials=3"], ["no positive number"]),
    "reversed bounds": (["--search=lr:1:1e-3", "--trials=3"], ["the lower rate comes first"]),
    "twice": (["--sweep=rank,rank"], ["names 'rank' twice"]),
    "search without trials": (["--search=lr:1e-3:1"], ["--trials=N"]),
    "search and best": (["--search=lr:1e-3:1", "--trials=2", "--best_of="], ["leave --best_of"]),
    "override": (["--config.adapter.rank=7"], ["--config.adapter.rank=7 has no effect"]),
    "wrong field": (["--config.data.task=nothing"], [f"unit '{FIRST}'", "config.data.task"]),
    "wrong targets": (["--config.adapter.where=('x',)"], [f"unit '{FIRST}'", "config.adapter"]),
    "plan": (["--config.plan_only"], ["is a plan", "--dry_run"]),
}


@pytest.fixture
def where(tmp_path):
    """(--config of a page, --workdir)"""
    return f"--config={page(tmp_path)}", f"--workdir={tmp_path / 'sweep'}"


def test_a_sweep_trains_every_unit_and_reports(where, tmp_path):
    trainer, folder = Trainer(), tmp_path / "sweep"
    said = run(trainer, *where, "--pack=4", "--memory=1.5", figures=True)
    assert (said.code, said.err) == (0, []), said
    names = [unit.name for unit in units_of(page(tmp_path))]
    assert trainer.runs == [names] and (trainer.pack, trainer.memory) == (4, 1.5)
    assert [row["unit"] for row in read_rows(folder / "rows.jsonl")] == names
    record = json.loads((folder / "sweep.json").read_text())
    assert record["axes"] == ["rank", "lr", "seed"] and record["best_of"] == ["lr"]
    assert record["units"][FIRST]["seed.data"] == 0 and list(record["units"]) == names
    assert rows((folder / "report.md").read_text(), "## Results")["2"][0] == "0.01"
    for name in ("config.json", "env.json", "overrides.json", "report.html", "plots", "DONE"):
        assert (folder / name).exists(), name
    assert said.out[-1].startswith("Done: ")


def test_the_report_can_be_written_again_from_its_files(where, tmp_path, capsys):
    run(Trainer(), *where, figures=True)
    folder, other = tmp_path / "sweep", tmp_path / "other"
    assert report.main([f"--workdir={folder}", f"--out={other}"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(other / "report.md")
    for name in ("report.md", "report.html"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    assert report.main([f"--workdir={folder}/units/{FIRST}", f"--out={tmp_path / 'one'}"]) == 0
    (folder / "rows.jsonl").write_text("no\n")
    assert report.main([f"--workdir={folder}"]) == 1
    assert "rows.jsonl' line 1 is not a JSON object" in capsys.readouterr().err


def test_a_finished_sweep_is_told_again_and_one_that_gained_units_goes_on(where, tmp_path):
    run(Trainer(), *where)
    before = listing(tmp_path / "sweep")
    again = Trainer()
    said = run(again, *where)
    assert said.code == 0 and not again.runs and "nothing is done again" in said.out[0]
    assert listing(tmp_path / "sweep") == before
    page(tmp_path, PAGE.replace("(1, 2)", "(1, 2, 3)"))
    more = Trainer()
    assert run(more, *where).code == 0
    (new,) = more.runs
    assert len(new) == 6 and all(name.startswith("rank=3,") for name in new)
    assert len(read_rows(tmp_path / "sweep" / "rows.jsonl")) == 18
    assert (tmp_path / "sweep" / "DONE").exists()


def test_another_choice_rewrites_the_report_alone(where, tmp_path):
    run(Trainer(), *where)
    trainer = Trainer()
    assert run(trainer, *where, "--best_of=").code == 0
    assert not trainer.runs
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "best lr" not in text and "## Every choice" not in text


def test_units_that_fail_are_told_and_all_of_them_are_an_error(where):
    bad = (FIRST, "rank=2,lr=0.1,seed=1")
    said = run(Trainer(bad), *where)
    assert said.code == 0
    assert [FIRST in line for line in said.out if line.startswith("Failed: ")] == [True, False]
    names = [unit.name for unit in units_of(where[0].partition("=")[2], "rank")]
    all_bad = [where[0], where[1] + "2", "--sweep=rank"]
    for _ in range(2):  # when it is told again too
        said = run(Trainer(names), *all_bad)
        assert said.code == 1 and len(said.err) == 1
        assert "error: all 5 units failed, the first `rank=1`: the loss of step 1" in said.err[0]


def test_a_signal_ends_in_good_order_and_the_rest_is_trained_later(where, tmp_path):
    """As the real trainer does, the stand-in ends at a signal."""

    def once(unit):
        if unit.name == "rank=1,lr=0.1,seed=0":
            os.kill(os.getpid(), signal.SIGTERM)

    said = run(Trainer(before=once), *where)
    assert said.code == 128 + signal.SIGTERM
    assert len(said.err) == 1 and "run the same command again" in said.err[0]
    assert not (tmp_path / "sweep" / "DONE").exists()
    trainer = Trainer()
    assert run(trainer, *where).code == 0
    assert len(trainer.runs[0]) == 8


def test_units_that_do_not_end_are_an_error_and_stay(where, tmp_path):
    class Lazy(Trainer):
        def run_units(self, units, *rest, **named):
            super().run_units(units[:-1], *rest, **named)

    said = run(Lazy(), *where)
    assert said.code == 1 and "1 of 12 units have not ended" in said.err[0]
    assert (tmp_path / "sweep" / "report.md").exists()
    assert not (tmp_path / "sweep" / "DONE").exists()
    assert run(Trainer(), *where).code == 0


def test_a_dry_run_shows_units_and_programs_and_writes_nothing(where, tmp_path):
    trainer = Trainer()
    said = run(trainer, where[0], "--sweep=where,rank", "--dry_run")
    assert said.code == 0 and not trainer.runs and not (tmp_path / "sweep").exists()
    text = "\n".join(said.out)
    assert "2 where × 5 rank: 10 units in 2 programs." in text
    table = rows(text, "| unit")
    sizes = {name: int(cells[1].replace(",", "")) for name, cells in table.items() if "=" in name}
    assert sizes["where=first,rank=4"] == 4 * sizes["where=first,rank=1"]
    said = run(trainer, *where, "--search=lr:1e-4:1", "--trials=5", "--dry_run")
    assert "lr=?" in said.out[2] and "lr=0" not in "".join(said.out), said
    assert "2 rank × 2 seed: 4 units" in "\n".join(said.out)
    assert sizes["where=all-linear,rank=8"] > sizes["where=first,rank=8"]
    run(Trainer(), *where)
    said = run(Trainer(), *where, "--dry_run")
    assert said.out[-1] == "Ended before, and left as they are: 12."


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_one_line_and_write_nothing(where, tmp_path, name):
    flags, words = REFUSED[name]
    trainer = Trainer()
    before = listing(tmp_path)
    said = run(trainer, *where, *flags)
    assert said.code in (1, 2) and not trainer.runs, said
    assert said.code == 2 or name not in ("launcher", "twice")
    assert len(said.err) == 1 and said.err[0].startswith("error: "), said.err
    assert all(word in said.err[0] for word in words), said.err
    after = listing(tmp_path)
    assert {p for p in after if "__pycache__" not in p} == {
        p for p in before if "__pycache__" not in p
    }


def test_another_config_in_the_folder_is_refused(where, tmp_path):
    run(Trainer(), *where)
    said = run(Trainer(), *where, "--config.train.steps=3")
    assert said.code == 1 and "holds a run of another config (config.train.steps" in said.err[0]
    page(tmp_path, PAGE.replace("dense_0", "dense_1"))
    run(Trainer(), where[0], where[1] + "2", "--sweep=where")
    page(tmp_path, PAGE)
    (tmp_path / "sweep2" / "DONE").unlink()
    said = run(Trainer(), where[0], where[1] + "2", "--sweep=where")
    assert said.code == 1 and "where=first' holds a unit of another config" in said.err[0]


def test_a_sweep_that_would_lose_units_of_the_report_is_refused(where, tmp_path):
    run(Trainer(), *where, "--sweep=where,seed")
    before, trainer = listing(tmp_path / "sweep"), Trainer()
    said = run(trainer, *where, "--sweep=seed")
    assert said.code == 1 and not trainer.runs and listing(tmp_path / "sweep") == before
    assert "6 of them are not in this one, the first 'where=first,seed=0'" in said.err[0]
    assert "choose another --workdir" in said.err[0]


def test_a_worker_trains_what_it_is_given_and_writes_no_report(where, tmp_path):
    folder, file = tmp_path / "sweep", tmp_path / "only.json"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    file.write_text(json.dumps([FIRST, "rank=2,lr=0.01,seed=1"]))
    trainer = Trainer()
    assert run(trainer, *where, f"--only={file}").code == 0
    assert trainer.runs == [[FIRST, "rank=2,lr=0.01,seed=1"]]
    assert {p.name for p in folder.iterdir()} == {"sweep.json", "units"}
    again = Trainer()
    assert run(again, *where, f"--only={file}").code == 0 and not again.runs
    for text, words in (("{}", "JSON list"), ('["x"]', "'x' is no unit"), ("[[1]]", "JSON list")):
        file.write_text(text)
        assert words in run(Trainer(), *where, f"--only={file}").err[0]


def test_a_launcher_is_given_tasks_and_the_command(where, tmp_path, monkeypatch):
    calls, trainer = [], Trainer()

    def launch(name, tasks, argv, folder, **named):
        calls.append((name, tasks, argv, folder, named))
        by_name = {unit.name: unit for unit in units_of(page(tmp_path), "where,seed")}
        trainer.run_units([by_name[unit] for task in tasks for unit in task], folder, None)

    monkeypatch.setattr("experiments._sweep.launch.launch", launch)
    monkeypatch.setattr("experiments._sweep.launch.leave_devices", lambda: calls.append("left"))
    said = run(
        trainer, *where, "--sweep=where,seed", "--launcher", "local", "--workers=2",
        "--launcher_options=", "--config.train.steps=3",
    )  # fmt: skip
    assert said.code == 0, said
    left, (name, tasks, argv, folder, named) = calls
    assert (left, name, folder) == ("left", "local", tmp_path / "sweep")
    assert (named["workers"], named["options"]) == (2, {})
    assert [len(task) for task in tasks] == [3, 3]
    assert argv == [*where, "--sweep=where,seed", "--config.train.steps=3"]
    call = parse(argv, "", sweep.FLAGS)
    assert call.config.train.steps == 3 and call.workdir == tmp_path / "sweep"


def test_rates_are_searched_for_and_a_search_is_told_again(where, tmp_path):
    try:
        check_search(1e-4, 1.0, 1)
    except LoraxError as error:
        pytest.skip(str(error))
    flags = (*where, "--search=lr:1e-4:1", "--trials=5")
    trainer = Trainer()
    assert run(trainer, *flags).code == 0
    found = read_rows(tmp_path / "sweep" / "rows.jsonl")
    rates = {row["learning_rate"] for row in found if row["rank"] == 1}
    assert len(rates) == 5 and all(1e-4 <= rate <= 1 for rate in rates)
    assert len(found) == sum(map(len, trainer.runs)) == 2 * 2 * 5
    again = Trainer()
    said = run(again, *flags)
    assert said.code == 0 and not again.runs and "nothing is done again" in said.out[0]
    for other in (["--search=lr:1e-4:1", "--trials=4"], ["--search=lr:1e-3:1", "--trials=5"], []):
        said = run(Trainer(), *where, *other)
        assert said.code == 1 and "20 of them are not in this one" in said.err[0]
    more = Trainer()
    assert run(more, *where, "--search=lr:1e-4:1", "--trials=6").code == 0
    assert sum(map(len, more.runs)) == 2 * 2
