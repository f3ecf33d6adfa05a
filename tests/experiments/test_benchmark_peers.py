"""What the comparison with peers times is right, and its verdicts follow from its figures."""

import dataclasses
import math
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import _peers_head as head
from experiments.benchmarks import _peers_memory as memory
from experiments.benchmarks import _peers_step as step
from experiments.benchmarks import _peers_verdicts as verdicts
from experiments.benchmarks._peers_work import FAMILIES, Work
from lorax.io import pretrained

TINY = Work(dim=8, layers=2, heads=2, hidden=12, vocab=40, batch=2, length=6, rank=2, chunk=4)


def has_qwix():
    try:
        import qwix  # noqa: F401
    except ImportError:
        return False
    return True


NAMES = {
    "llama": [name for name in step.JAX if name != "qwix" or has_qwix()],
    "gpt2": ["floor", "ours", "ours_blocks", "naive"],
}


@pytest.mark.runs
@pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning")  # in qwix
@pytest.mark.parametrize("family", FAMILIES)
def test_programs_agree_and_are_timed(family, tmp_path):
    work = dataclasses.replace(TINY, family=family)
    names = NAMES[family]
    found = step.compared(work, 2, names, "", tmp_path)
    assert found["largest_relative_difference_of_losses"] <= step.GATES["float32"]
    assert set(found["seconds"]) == {*names}
    assert set(found["over_ours"]) == {*names} - {"ours"}
    assert found["losses_of_ours"][0] == pytest.approx(math.log(40), rel=0.2)
    inner = 2 * (4 * 64 + 3 * 96) if family == "llama" else 2 * (4 * 64 + 2 * 8 * 32)
    assert found["matmul_parameters"] == inner + 40 * 8
    assert found["losses_of_ours"][2] < found["losses_of_ours"][0]
    checks = verdicts.verdicts({"step": [found]}, "cpu")
    assert f"step, {family}, ours over floor" in [check["what"] for check in checks]
    assert "| naive |" in verdicts.table({"step": [found], "targets": checks})


@pytest.mark.runs
def test_what_torch_reads_is_the_model_and_its_first_factors(tmp_path):
    base = TINY.base()
    step.export(TINY, base, tmp_path)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    batch = np.load(tmp_path / "batch.npz")
    np.testing.assert_array_equal(batch["targets"], TINY.tokens.targets)
    same = jax.tree.map(np.array_equal, pretrained.load(tmp_path / "model").base, base)
    assert all(jax.tree.leaves(same))


@pytest.mark.runs
def test_losses_of_the_head_agree_and_are_timed():
    found = head.compared(8, 4, 300, 2, "float32", 2)
    assert set(found["over_floor"]) == {"ours", "optax", "one_hot"}
    assert found["largest_difference_of_gradients"] <= head.GATES["float32"]
    checks = verdicts.verdicts({"head": [found]}, "cpu")
    assert [check["target"] for check in checks] == ["<= 1.1", "<= 1.03", "<= 0.125"]


@pytest.mark.runs
def test_memory_is_held_against_the_formula(tmp_path):
    wide = dataclasses.replace(TINY, dim=64, hidden=128, vocab=2000, batch=4, length=32)
    found = memory.compared(wide, ["ours_blocks", "full_blocks", "full"], "", tmp_path)
    part = found["remat_full"]
    assert part["formula_mib"]["weights"] == round((2000 * 64 + 2 * 41088 + 64) * 4 / 2**20, 1)
    assert part["over_ours_blocks"]["full"] > part["over_ours_blocks"]["ours_blocks"] == 1
    checks = verdicts.verdicts({"memory": [found]}, "cpu")
    assert len(checks) == 4 and all(check["what"].startswith("memory, llama") for check in checks)


def test_what_is_wrong_is_not_timed():
    right = {"ours": [2.0, 1.9], "full": [2.0, 1.0], "naive": [2.0, 1.9]}
    assert step.gate(right, 1e-4) == 0
    for wrong in ({"naive": [2.0, 1.8]}, {"full": [2.1, 1.9]}, {"torch_eager": [2.0, math.nan]}):
        with pytest.raises(RuntimeError, match=next(iter(wrong))):
            step.gate(right | wrong, 1e-4)


def test_a_python_without_torch_ends_the_benchmark_with_its_exit_code(tmp_path):
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match="exit code 1"):
            step.Torch(sys.executable, tmp_path)


def test_a_ratio_is_turned_with_its_spread():
    spread = {"median": 2.0, "low": 1.6, "high": 2.5}
    found = {
        "work": "llama shape, ...",
        "over_floor": {"ours": spread, "ours_blocks": spread},
        "over_ours": {"torch_eager": spread},
        "over_ours_blocks": {},
        "mfu_4n": {"ours": 0.6, "ours_blocks": 0.4},
    }
    checks = {c["what"]: c for c in verdicts.verdicts({"step": [found]}, "gpu")}
    torch = checks["step, llama, ours over torch_eager"]
    assert torch["found"] == {"median": 0.5, "low": 0.4, "high": 0.625} and torch["held"]
    assert not checks["step, llama, ours over floor"]["held"]
    assert not checks["step, llama, ours_blocks: 4N-MFU of the ceiling"]["held"]
