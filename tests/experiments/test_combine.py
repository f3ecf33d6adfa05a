"""experiments.combine: sums of saved adapters, their errors, and one line for every mistake."""

import pathlib

import jax
import numpy as np
import pytest

import lorax
from experiments import combine as verb
from experiments import import_peft
from lorax.adapters.combine import combine
from lorax.io.checkpoint import base_of, load_adapter, save_adapter
from tests.adapters import sums

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
MODEL, PEFT = str(FIXTURES / "models" / "llama"), str(FIXTURES / "adapters" / "llama_qv")
BASE = {"q": jax.random.normal(jax.random.key(0), (6, 5)), "head": np.ones((5, 2), np.float32)}
LORA = lorax.LoRA(rank=2, alpha=3.0, where=("q",))
CHAIN = lorax.Chain(LORA, lorax.Full(where=("head",)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of adapters by name."""
    folder = tmp_path_factory.mktemp("saved")
    for name, base in (("a", BASE), ("b", BASE), ("other", {"q": BASE["q"] + 1}), ("silent", None)):
        save_adapter(folder / name, LORA, sums.trained(LORA, ord(name[0]), BASE, None), base=base)
    for seed, name in enumerate(("one", "two")):
        save_adapter(folder / name, CHAIN, sums.trained(CHAIN, seed, BASE, None), base=BASE)
    return folder


def call(saved, names, out, *argv, weights="0.7,-0.4"):
    """The exit code of the verb on saved adapters."""
    directories = ",".join(str(saved / name) for name in names.split(","))
    return verb.main([f"--adapters={directories}", f"--weights={weights}", f"--out={out}", *argv])


@pytest.mark.parametrize(
    "argv", [["--method=cat"], ["--method=svd", "--rank=2"], ["--method=ties", "--rank=5"],
             ["--method=dare", "--rank=3", "--rate=0.5", "--seed=4"]],
)  # fmt: skip
def test_a_sum_is_saved_and_its_error_told(saved, tmp_path, capsys, argv):
    assert call(saved, "a,b", tmp_path / "sum", *argv) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| q"))
    rank, error, cut = row.split("|")[2:5]
    (adapter, delta), mark = load_adapter(tmp_path / "sum"), base_of(tmp_path / "sum")
    assert mark == base_of(saved / "a") and int(rank) == delta["q"].rank
    parts = [(*load_adapter(saved / name), w) for name, w in (("a", 0.7), ("b", -0.4))]
    exact = combine(parts)
    want, got = (a.merge(BASE, d)["q"] - BASE["q"] for a, d in ((exact.adapter, exact.delta),
                                                               (adapter, delta)))  # fmt: skip
    true = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    assert float(error) == pytest.approx(true, rel=0.01, abs=1e-5)
    assert (float(cut) == float(error)) == (argv[0] in ("--method=cat", "--method=svd"))


def test_members_of_chains_and_adapters_of_peft(saved, tmp_path, capsys):
    assert call(saved, "one,two", tmp_path / "x") == 1
    line = capsys.readouterr().err
    assert "--leave_out" in line and "--model and --rank" in line and line.count("\n") == 1
    assert call(saved, "one,two", tmp_path / "x", "--leave_out") == 0
    assert call(saved, "one,one", tmp_path / "y", weights="0.5,0.5") == 0
    assert isinstance(load_adapter(tmp_path / "y")[0], lorax.Chain)
    assert "| head |" in capsys.readouterr().out
    assert call(saved, "silent", tmp_path / "z", weights="-1") == 0
    assert "do not say their base" in capsys.readouterr().out


def test_an_adapter_of_peft_is_negated(tmp_path, capsys):
    argv = [f"--adapters={PEFT}", "--weights=-1", f"--out={tmp_path / 'sum'}"]
    assert verb.main([*argv, f"--model={MODEL}"]) == 0
    out = [f"--model={MODEL}", f"--adapter={PEFT}", f"--out={tmp_path / 'same'}"]
    assert import_peft.main(out) == 0
    assert base_of(tmp_path / "sum") == base_of(tmp_path / "same") is not None
    (_, minus), (adapter, delta) = load_adapter(tmp_path / "sum"), load_adapter(tmp_path / "same")
    path = next(iter(delta))
    want = -float(adapter.scale_of(path)) * delta[path].A @ delta[path].B
    np.testing.assert_allclose(minus[path].A @ minus[path].B, want, atol=1e-6)
    capsys.readouterr()
    assert verb.main([*argv[:2], f"--out={tmp_path / 'other'}"]) == 1
    assert "with --model" in capsys.readouterr().err


def test_help(capsys):
    assert verb.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "python -m experiments.combine" in text and "--weights" in text and "ties:" in text


def test_mistakes_are_one_line_and_write_nothing(saved, tmp_path, capsys):
    out = tmp_path / "sum"
    wrong = {
        "belongs to the base": ("a,other", []),
        "--weights has 2 numbers": ("a", []),
        "keeps all ranks": ("a,b", ["--rank=2"]),
        "give --rank": ("a,b", ["--method=ties"]),
        "--rate is of --method=dare": ("a,b", ["--method=svd", "--rank=2", "--rate=0.5"]),
        "--density is 2.0: expected": ("a,b", ["--method=ties", "--rank=2", "--density=2"]),
        "rate is 1.0: expected": ("a,b", ["--method=dare", "--rank=2", "--rate=1"]),
        "rank is 0": ("a,b", ["--method=svd", "--rank=0"]),
        "invalid choice": ("a,b", ["--method=linear"]),
        "no adapter at": ("a,nowhere", []),
    }
    for words, (names, argv) in wrong.items():
        assert call(saved, names, out, *argv) in (1, 2)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and words in lines[0], lines
    assert call(saved, "a,b", out, weights="0.5,x") == 2
    assert "'x' is no number" in capsys.readouterr().err
    assert call(saved, "a,b", saved, weights="1,1") == 1
    assert "where --adapters lies" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
