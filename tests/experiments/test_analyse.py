"""The verb analyse: on a sweep's units and on any adapters, what it finds and what it refuses."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from experiments import _workdir, analyse
from experiments._page_file import load_config
from experiments._sweep.rows import write_rows
from experiments._sweep.units import make_units
from experiments._train.base import with_base
from experiments._train.method import make_adapter
from experiments._train.setting import make_setting
from lorax.io.checkpoint import save_adapter
from lorax.train.stop import Stop

pytestmark = pytest.mark.runs

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "models" / "llama"
PAGE = "configs/mnist_mlp.py:lora,smoke"
POINTS = [
    {"rank": rank, "lr": lr, "seed": seed}
    for rank in (2, 4) for lr in (1e-3, 1e-2) for seed in (0, 1)
]  # fmt: skip


def fails(capsys, *argv):
    """The one line of standard error of a call that must fail."""
    assert analyse.main([*map(str, argv)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep, as experiments.sweep leaves it, of units that are made up.

    A of every unit reads the first input most, and is else as it was drawn.
    """
    workdir = tmp_path_factory.mktemp("sweep") / "ranks"
    config = load_config(PAGE)
    config.adapter.where = (r".*/dense_0/kernel",)
    setting = with_base(make_setting(config), workdir, Stop())
    rows = []
    for unit in make_units(config, POINTS):
        place = workdir / "units" / unit.name
        place.mkdir(parents=True)
        adapter, seed = make_adapter(unit.config), unit.config.seed.init
        save_adapter(
            place / "adapter",
            adapter,
            _learnt(adapter.init(jax.random.key(seed), setting.subject.base)),
        )
        (place / "config.json").write_text(json.dumps(_workdir.plain(unit.config)))
        loss = 3.0 + 0.1 * (unit.point["lr"] > 5e-3)
        rows.append({"unit": unit.name, "point": dict(unit.point), "state": "done",
                     "validation/loss": loss})  # fmt: skip
    write_rows(workdir, rows)
    (workdir / "config.json").write_text(json.dumps(_workdir.plain(config)))
    (workdir / "sweep.json").write_text(json.dumps({"best_of": ["lr"], "by": ""}))
    return workdir


def _learnt(delta):
    """A that reads the first input most, and B that is no longer zero."""
    rng, learnt = np.random.default_rng(0), {}
    for path, factors in delta.items():
        a, b = np.array(factors.A), rng.normal(size=factors.B.shape).astype(np.float32) / 10
        a[0, 0] += 100
        learnt[path] = lorax.Factors(jnp.asarray(a), jnp.asarray(b), factors.roles)
    return learnt


@pytest.fixture(scope="module")
def analysed(swept, tmp_path_factory):
    """Its analysis; the pictures, which take longer than all else, are drawn in another test."""
    out = tmp_path_factory.mktemp("out") / "analysis"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.figures.similarity.draw", lambda *_: (b"PNG", "<svg></svg>"))
        patch.setattr("experiments.figures.learnt.draw", lambda *_: (b"PNG", "<svg></svg>"))
        assert analyse.main([f"--sweep={swept}", f"--workdir={out}", "--ranks=2,4"]) == 0
    return out


def test_a_sweep_compares_ranks_and_seeds_of_the_best_rate(analysed):
    found = json.loads((analysed / "analysis.json").read_text())
    assert len(found["adapters"]) == 2 * 2
    assert all("lr=0.001" in one["run"] for one in found["adapters"])
    told = [(one["comparison"], len(one["pairs"])) for one in found["similarity"]]
    assert dict(told) == {
        "r = 2 and r = 4, the same seed": 2,
        "two seeds, r = 2": 1,
        "two seeds, r = 4": 1,
    }
    for first, second in (p for one in found["similarity"][:2] for p in one["pairs"]):
        assert first.partition("seed")[2] == second.partition("seed")[2]


def test_what_all_learnt_alike_is_above_start_and_chance(analysed):
    found = json.loads((analysed / "analysis.json").read_text())["similarity"]
    ranks = next(o for o in found if o["factor"] == "A" and o["kind"] == "dense_0")
    assert np.shape(ranks["phi"]) == (2, 4) and ranks["dimension"] == 784
    assert ranks["phi"][0][0] > 0.99  # the first direction is that of the first input
    assert ranks["phi_start"][0][0] < 0.9
    assert ranks["chance"][0][0] == pytest.approx(1 / 784)
    assert ranks["start"] == "initialisation"
    b = next(o for o in found if o["factor"] == "B")
    assert b["start"] == "random"


def test_numbers_of_an_adapter(analysed):
    found = json.loads((analysed / "analysis.json").read_text())
    for adapter in found["adapters"]:
        leaf = next(x for x in adapter["leaves"].values() if x["kind"] == "dense_0")
        (update,), (inside,), (factor,) = leaf["update"], leaf["from_update"], leaf["factor"]
        assert factor == pytest.approx(update / inside, rel=1e-4)
        assert np.sqrt(np.sum(np.square(leaf["values"]))) == pytest.approx(update, rel=1e-4)
        assert leaf["numerical_rank"] == [leaf["rank"]]
        assert 0 <= leaf["intruders"][0] <= 10 and leaf["direction_change"][0] > 0


def test_the_report_has_tables_and_figures(analysed):
    text = (analysed / "report.md").read_text()
    for part in ("Subspace similarity", "Amplification", "Every adapter", "rank 4", "chance"):
        assert part in text
    assert "bars are standard errors over seeds" in text and "One seed" not in text
    pictures = sorted(file.name for file in (analysed / "plots").iterdir())
    assert pictures == [
        "learnt.png",
        "similarity_ranks.png", "similarity_seeds_r_2.png", "similarity_seeds_r_4.png"
    ]  # fmt: skip
    assert all(f"plots/{name}" in text for name in pictures)


def test_other_peoples_adapters_without_a_known_start(tmp_path):
    adapters = [FIXTURES / "adapters" / name for name in ("llama_qv", "llama_rslora")]
    argv = [f"--model={MODEL}", *(f"--adapter={a}" for a in adapters), f"--workdir={tmp_path}/x"]
    assert analyse.main(argv) == 0
    (picture,) = (tmp_path / "x" / "plots").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "x" / "report.html").read_text()
    found = json.loads((tmp_path / "x" / "analysis.json").read_text())
    assert {one["comparison"] for one in found["similarity"]} == {"llama_qv and llama_rslora"}
    assert {one["start"] for one in found["similarity"]} == {"random"}


def test_one_adapter_that_was_trained_whole(tmp_path):
    """And an analysis may be made again in its folder."""
    from lorax.io import pretrained

    loaded, adapter = pretrained.load(MODEL), lorax.Full(where=(r".*/query/kernel",))
    delta = adapter.init(jax.random.key(0), loaded.base)
    delta = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), delta)
    save_adapter(tmp_path / "whole", adapter, delta)
    argv = [f"--model={MODEL}", f"--adapter={tmp_path / 'whole'}", f"--workdir={tmp_path / 'out'}"]
    assert analyse.main(argv) == 0 and analyse.main(argv) == 0
    (one,) = json.loads((tmp_path / "out" / "analysis.json").read_text())["adapters"]
    assert "- One seed of each" in (tmp_path / "out" / "report.md").read_text()
    leaf = next(iter(one["leaves"].values()))
    assert "factor" not in leaf and leaf["magnitude_change"][0] > 0


def test_mistakes_are_one_line(swept, tmp_path, capsys):
    out = f"--workdir={tmp_path / 'out'}"
    assert "either --sweep=DIR or --model=DIR" in fails(capsys, out)
    assert "go together" in fails(capsys, out, f"--model={MODEL}")
    assert "no rows" in fails(capsys, out, f"--sweep={tmp_path}")
    (tmp_path / "sweep.json").write_text("{}")
    assert "is not finished: run the same experiments.sweep" in fails(
        capsys, out, f"--sweep={tmp_path}"
    )
    assert "names 64, of which the sweep has no unit that is done: expected two of 2, 4" in fails(
        capsys, out, f"--sweep={swept}", "--ranks=2,64"
    )
    assert "expected two different ranks" in fails(capsys, out, f"--sweep={swept}", "--ranks=2,2")
    assert "holds something else" in fails(capsys, f"--workdir={swept}", f"--sweep={swept}")
    assert "no adapter at" in fails(capsys, out, f"--model={MODEL}", "--adapter=nowhere")
    twice = f"--adapter={FIXTURES / 'adapters' / 'llama_qv'}"
    assert "twice" in fails(capsys, out, f"--model={MODEL}", twice, twice)
    assert not (tmp_path / "out").exists()
