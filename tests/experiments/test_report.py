"""Reports: what they show of one run and of many, that nothing gets in or out, and mistakes."""

import json
import pathlib
import re
import sys

import pytest

from experiments import report
from experiments._report.write import write_report
from lorax.core.errors import LoraxError
from tests.run_files import TRAIN, Page, make_run, rows, write_records

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")

REAL = pathlib.Path(__file__).parents[2] / "experiments/reports/stories260k_shakespeare"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """(markdown, HTML, workdir) of one run's report."""
    folder = make_run(tmp_path_factory.mktemp("single") / "my run")
    samples = [{"prompt": "a ``` b", "text": "<b>bold</b>"}] * 5
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    assert write_report([folder], folder) == folder / "report.md"
    return (folder / "report.md").read_text(), (folder / "report.html").read_text(), folder


def test_the_title_says_method_model_and_task(single):
    text, html_text, _ = single
    assert text.startswith("# LoRA of rank 8 on roberta-base: classification of MRPC\n")
    assert "- Adapter: LoRA of rank 8, alpha 16, on all linear layers" in text
    assert "<title>LoRA of rank 8 on roberta-base: classification of MRPC</title>" in html_text


def test_numbers_of_one_run(single):
    text, _, _ = single
    found = rows(text, "## Results")
    head = found[""]
    assert head == [
        "train loss (nats)", "validation accuracy", "validation loss (nats)", "test BLEU",
        "best validation accuracy", "at step",
    ]  # fmt: skip
    assert found["my run"] == ["0.2096", "0.8080", "0.5000", "66.50", "0.9000", "100"]
    assert found["majority class"][1] == "0.6838" and found["frozen base"][1] == "0.7000"
    assert "- test BLEU signature: `nrefs:1|case:mixed`" in text
    cost = rows(text, "## Cost")
    assert cost["trainable"] == ["8,000"] and cost["of all"] == ["0.648 %"]
    assert cost["time a step"] == ["41.3 ms"] and cost["waiting"] == ["0.3 %"]
    assert cost["optimizer"] == ["7.82 KiB"] and cost["steps"] == ["200"]
    assert rows(text, "## Config")["adapter.rank"] == ["8"]
    assert '"alpha": 16.0' in text and "<summary>All fields</summary>" in text
    environment = rows(text, "## Environment")
    assert environment["jax"] == ["0.10.2"] and environment["devices"] == ["cpu cpu × 2"]
    assert "The first 3 of 5." in text and "````\na ``` b\n````" in text
    assert "Warnings" not in text and "missing" not in text


def test_the_page_is_one_file_without_scripts(single):
    _, text, folder = single
    found = Page(text)
    assert {"table", "svg", "figure", "details", "style"} <= found.tags
    assert not {"script", "img", "link", "iframe", "b"} & found.tags
    assert all(link.startswith("#") for link in found.links)
    assert "<b>bold</b>" in "".join(found.words)
    assert "prefers-color-scheme: dark" in text and "var(--s0)" in text
    assert "url(http" not in text and "@import" not in text
    ids = re.findall(r'<[^<>]* id="([^"]+)"', text)
    shared = {name for name in ids if ids.count(name) > 1}
    assert not shared
    size = sum(file.stat().st_size for file in (folder / "plots").iterdir())
    assert len(text) < 200_000 and size < 1_000_000


def test_figures_are_pngs_that_the_markdown_names(single):
    text, _, folder = single
    named = re.findall(r"\]\((plots/\w+\.png)\)", text)
    assert named == [f"plots/{n}.png" for n in ("training_loss", "evaluation", "optimization")]
    for name in named:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert not list(folder.rglob(".*partial"))


def test_same_inputs_same_bytes(single, tmp_path):
    _, _, folder = single
    write_report([folder], tmp_path)
    for file in ("report.md", "report.html", "plots/training_loss.png", "plots/evaluation.png"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(markdown, HTML) of two ranks with three seeds each, found below a parent folder."""
    root = tmp_path_factory.mktemp("sweep")
    for rank in (16, 2):
        for seed in (0, 1, 2):
            make_run(root / f"rank{rank}" / f"seed{seed}", rank=rank, seed=seed)
    write_records(root / "empty", [])
    (root / "rank2" / "seed0" / "unfinished-1").mkdir()
    write_report([root], root)
    return (root / "report.md").read_text(), (root / "report.html").read_text()


def test_several_runs_side_by_side(sweep):
    text, _ = sweep
    assert text.startswith("# 6 runs on roberta-base: classification of MRPC\n")
    found = rows(text, "## Results")
    order = [f"rank{rank}/seed{seed}" for rank in (2, 16) for seed in (0, 1, 2)]
    assert [name for name in found if name.startswith("rank")] == order
    assert list(found).count("frozen base") == 1
    assert "**0.8360**" in text  # the highest accuracy, in bold
    assert rows(text, "## Differences of the configs")["rank16/seed2"] == ["2", "16"]
    other = rows(text, "| `command`")
    assert other["rank2/seed1"] == ["train.py --workdir=seed1"]
    assert "`empty`: left out" in text and "no record of a run yet" in text


def test_seeds_have_mean_error_and_n(sweep):
    text, _ = sweep
    found = rows(text, "### Across seeds")
    assert found["adapter.rank = 2"][:2] == ["3", "0.8120 ± 0.0058"]
    assert found["adapter.rank = 16"][:2] == ["3", "0.8260 ± 0.0058"]
    assert "sample standard deviation" in text


def test_the_same_seeds_twice_are_one_run(tmp_path):
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        make_run(tmp_path / name, seed=seed)
    write_report([tmp_path], tmp_path)
    found = rows((tmp_path / "report.md").read_text(), "### Across seeds")
    assert found["LoRA of rank 8, alpha 16, on all linear layers"][0] == "2"


def test_warnings_and_what_is_missing(tmp_path):
    pretrain = [{**TRAIN, "run": "pretrain", "step": s, "loss": 9.0} for s in (1, 2)]
    resume = {"run": "train", "kind": "resume", "step": 100}
    folder = make_run(tmp_path / "x", nan=150, finished=False, prefix=[*pretrain, resume])
    (folder / "env.json").write_text("{torn")
    (folder / "overrides.json").unlink()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"run": "tr')
    write_report([folder], folder)
    text = (folder / "report.md").read_text()
    assert "- `x`: training loss is not a finite number at step 150" in text
    assert "- `x`: resumed once" in text
    for line in (
        "there is no overrides.json", "env.json is no JSON object and was left out",
        "the last line of metrics.jsonl is torn and was left out",
        "no result yet; the last record is of step 200",
    ):  # fmt: skip
        assert f"- `x`: {line}" in text, line
    assert "x" in rows(text, "## Results") and "pretrain" in rows(text, "## Results")
    assert rows(text, "## Cost")["pretrain"][0] == "Full"


def test_steps_that_come_again_replace_those_before(tmp_path):
    train = [{**TRAIN, "step": step, "loss": loss} for step, loss in ((1, 9.0), (2, 8.0), (1, 1.5))]
    write_report([write_records(tmp_path / "x", train)], tmp_path)
    found = rows((tmp_path / "report.md").read_text(), "## Results")
    assert found["x"] == ["1.500"]


def test_records_of_a_comparison(tmp_path):
    write_report([REAL], tmp_path)
    text = (tmp_path / "report.md").read_text()
    found = rows(text, "## Results")
    assert found["frozen base"][1:4] == ["5.136", "5.264", "2.636"]
    assert found["LoRA r = 8, rate 0.02"][1:] == ["2.636", "2.905", "3.768", "2.636", "400"]
    assert len(found) == 2 + 1 + 14
    assert rows(text, "## Cost")["LoRA r = 8, rate 0.02"][0] == "46,240"
    assert len((tmp_path / "report.html").read_text()) < 1_000_000


def test_records_of_a_quickstart(tmp_path):
    records = [{"run": "pretrain", "kind": "train", "step": 1, "loss": 5.0},
               {"run": "base", "kind": "result", "step": 1, "english": 2.2, "python": 2.7,
                "parameters": 100}]  # fmt: skip
    for name, bits in (("lora_r4", 2.2), ("full", 2.1)):
        end = {"english": 2.4, "python": bits}
        records += [
            {"run": name, "kind": "train", "step": 1, "loss": 3.0},
            {"run": name, "kind": "eval", "step": 0, "english": 2.2, "python": 2.7},
            {"run": name, "kind": "eval", "step": 9, **end},
            {"run": name, "kind": "result", "step": 9, "trainable": 10, **end},
        ]
    write_report([write_records(tmp_path / "q", records)], tmp_path)
    text = (tmp_path / "report.md").read_text()
    found = rows(text, "## Results")
    assert text.startswith("# 2 runs: q\n")
    assert found["LoRA r = 4"][:3] == ["3.000", "2.400", "2.200"]
    assert found["full fine-tuning"][:3] == ["3.000", "2.400", "2.100"]
    assert found["frozen base"][1:3] == ["2.200", "2.700"] and found["pretrain"][0] == "5.000"


def test_hostile_names_and_values_stay_text(tmp_path):
    evil = '<script>alert("1")<|script> $x^2$ | ![a](b) _y_ &lt;'
    for name in (evil, "_한국어", "a" * 90, "a" * 89 + "b"):
        folder = make_run(tmp_path / name, steps=30, prefix=[{**TRAIN, "step": 1, "loss": 1.0}])
        config = json.loads((folder / "config.json").read_text())
        config["data"]["name"] = f"</td>{name}\n# no heading`"
        (folder / "config.json").write_text(json.dumps(config))
    write_report([tmp_path], tmp_path)
    found = Page((tmp_path / "report.html").read_text())
    assert not {"script", "img", "a", "em"} & found.tags
    said = "".join(found.words)
    assert evil in said and "_한국어" in said and "a" * 89 + "b" in said
    assert "</td>" in said


def fails(capsys, *argv):
    """The one line of standard error of a call that must fail."""
    assert report.main(list(argv)) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_the_verb_writes_into_the_workdir_or_where_it_is_told(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "a", steps=30)
    make_run(tmp_path / "runs" / "b", steps=30)
    assert report.main([f"--workdir={run}"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.md'}\n{run / 'report.html'}\n"
    both = ["--workdir", str(run), "--workdir", str(tmp_path / "runs" / "b")]
    assert "--out=DIR" in fails(capsys, *both)
    assert "--out=DIR" in fails(capsys, f"--workdir={tmp_path}/runs/*")
    assert report.main([*both, f"--out={tmp_path / 'new' / 'out'}"]) == 0
    assert (tmp_path / "new" / "out" / "plots" / "training_loss.png").exists()
    assert report.main([f"--workdir={tmp_path / 'runs'}"]) == 0
    assert "# 2 runs" in (tmp_path / "runs" / "report.md").read_text()


def test_mistakes_are_one_line(tmp_path, capsys):
    assert "--workdir" in fails(capsys)
    assert "there is no folder" in fails(capsys, f"--workdir={tmp_path / 'gone'}")
    (tmp_path / "thesis.tex").write_text("")
    assert "is not a run" in fails(capsys, f"--workdir={tmp_path}")
    assert "is a file" in fails(capsys, f"--workdir={tmp_path / 'thesis.tex'}")
    assert "matches no run" in fails(capsys, f"--workdir={tmp_path}/x*", f"--out={tmp_path}")
    empty = write_records(tmp_path / "empty", [])
    assert "has no record of a run yet" in fails(capsys, f"--workdir={empty}")
    (empty / "metrics.jsonl").write_text("{bad}\n")
    assert "line 1 is not a JSON object" in fails(capsys, f"--workdir={empty}")
    run = make_run(tmp_path / "run", steps=10)
    line = fails(capsys, f"--workdir={run}", f"--out={tmp_path / 'thesis.tex'}")
    assert "cannot write the report" in line
    assert not (run / "report.md").exists()


@pytest.mark.parametrize("library", ["matplotlib", "markdown_it"])
def test_a_missing_library_is_told_with_the_cure(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[experiments\]'"):
        write_report([tmp_path], tmp_path)
