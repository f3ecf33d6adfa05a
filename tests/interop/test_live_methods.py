"""Does PEFT read what lorax writes of the other methods, and write what the fixtures say, today?

`make test-interop` runs this where torch is; elsewhere it is skipped. Errors are measured as in
`test_golden_methods.py`: max |ours - theirs| / max |theirs|, float32, at most 1e-5.
"""

import warnings

import jax
import numpy as np
import pytest

import lorax
import lorax.io.peft
from tests.interop.measure import FAST, FOLDER, TOLERANCE, error, logits, model_of

torch = pytest.importorskip("torch", reason="make test-interop has torch")
peft = pytest.importorskip("peft", reason="make test-interop has peft")

from tests.fixtures import torch_methods, torch_models  # noqa: E402
from tests.interop.test_live import noisy, read_by_peft  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:::(torch|transformers|peft).*"),
    pytest.mark.filterwarnings("ignore::lorax.LoraxWarning"),
]

ROBERTA = torch_methods.ROBERTA


@pytest.mark.parametrize("name", torch_methods.CASES)
def test_the_fixtures_are_what_peft_says_today(name, tmp_path):
    case = torch_methods.CASES[name]
    with np.load(FOLDER / "methods" / name / "golden.npz") as file:
        record = dict(file)
    today = torch_methods.record(case, tmp_path / name)
    assert set(today) == set(record)
    for key in set(record) - {"ids", "mask"}:
        assert error(today[key], record[key], record["mask"]) <= TOLERANCE, key


QUERY, VALUE, DOWN = ".*/query/kernel", ".*/value/kernel", ".*/down/kernel"
HEAD = lorax.Full(where=("params/classifier/.*",))
SMALL = {"rank": 3, "alpha": 6.0}
OURS = {
    "DoRA": ("llama", lorax.DoRA(**SMALL)),
    "DoRA patterns": ("llama", lorax.DoRA(4, 8.0, {QUERY: {"rank": 2}, VALUE: {"alpha": 3.0}})),
    "DoRA rsLoRA": ("llama", lorax.DoRA(4, 8.0, (QUERY,), scaling="rslora")),
    "DoRA Conv1D": ("gpt2", lorax.DoRA(**SMALL, where=(".*/(qkv|up)/kernel",))),
    "DoRA head": (ROBERTA, lorax.Chain(lorax.DoRA(**SMALL, where=(QUERY, VALUE)), HEAD)),
    "VeRA": ("llama", lorax.VeRA(5, (QUERY, VALUE, DOWN), seed=3)),
    "VeRA Conv1D": ("gpt2", lorax.VeRA(5, (".*/qkv/kernel", DOWN))),
    "VeRA head": (ROBERTA, lorax.Chain(lorax.VeRA(5, (QUERY,)), HEAD)),
    "LoHa": ("llama", lorax.LoHa(3, 12.0, (QUERY, VALUE, DOWN))),
    "LoHa patterns": ("llama", lorax.LoHa(3, 12.0, {QUERY: {"rank": 2}, DOWN: {"alpha": 5.0}})),
    "LoHa head": (ROBERTA, lorax.Chain(lorax.LoHa(3, 12.0, (QUERY, VALUE)), HEAD)),
    "LoKr": ("llama", lorax.LoKr(2, 4.0, (QUERY, VALUE, DOWN), factor=2)),
    "LoKr even": ("llama", lorax.LoKr(1, 4.0, (QUERY, DOWN))),
    "LoKr whole": (ROBERTA, lorax.Chain(lorax.LoKr(16, 16.0, (QUERY,)), HEAD)),
    "IA3": ("llama", lorax.IA3()),
    "IA3 Conv1D": ("gpt2", lorax.IA3(where=(".*/qkv/kernel",))),
    "IA3 outputs": ("gpt2", lorax.IA3(where=(".*/qkv/kernel", DOWN), feedforward=())),
    "IA3 inputs": ("llama", lorax.IA3(where=(), feedforward=(".*/(down|query)/kernel",))),
    "IA3 head": (ROBERTA, lorax.Chain(lorax.IA3(), HEAD)),
    "prompt": ("llama", lorax.PromptTuning(tokens=4)),
    "prompt beside a head": (ROBERTA, lorax.Chain(lorax.PromptTuning(tokens=4), HEAD)),
    "prompt before a frozen head": (ROBERTA, lorax.PromptTuning(tokens=4)),
    "prompt GPT-2": ("gpt2", lorax.PromptTuning(tokens=4, initializer="vocabulary")),
    "P-tuning": ("gpt2", lorax.PTuning(tokens=4, hidden=6)),
    "P-tuning LSTM": ("llama", lorax.PTuning(tokens=4, encoder="lstm", hidden=6)),
    "P-tuning head": (ROBERTA, lorax.Chain(lorax.PTuning(tokens=4, hidden=6), HEAD)),
    "prefix": ("llama", lorax.PrefixTuning(tokens=4)),
    "prefix GPT-2": ("gpt2", lorax.PrefixTuning(tokens=4, hidden=6)),
    "prefix head": (ROBERTA, lorax.Chain(lorax.PrefixTuning(tokens=4), HEAD)),
}


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
@pytest.mark.parametrize("name", OURS)
def test_ours_in_peft(name, scan, tmp_path):
    base, adapter = OURS[name]
    # PEFT drops positions where it embeds the input itself: padded on the right alone
    found, (ids, mask) = model_of(base, scan), torch_models.batch("roberta")
    apply = lorax.adapt(found.model.apply, adapter, on_fallback="allow")
    delta = noisy(apply.init(jax.random.key(0), found.base, ids))
    lorax.io.peft.save(tmp_path / "out", adapter, delta, found.model, base=found.base)
    plain = logits(found.model, found.base, ids, mask)
    ours = jax.jit(apply, compiler_options=FAST)(found.base, delta, ids, mask=mask.astype(bool))
    assert error(ours, plain, mask) > 0.01
    theirs = read_by_peft(torch_models.tiny(base), tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that it drops positions
        wanted = torch_models.logits(theirs, ids, mask)
    wanted = wanted[:, -ids.shape[1] :] if wanted.ndim == 3 else wanted
    assert error(ours, wanted, mask) <= TOLERANCE
    again, twice = lorax.io.peft.load(tmp_path / "out", found)
    prepared = lorax.io.peft.prepare(tmp_path / "out", found)
    merged = logits(found.model, again.merge(prepared, twice), ids, mask)
    assert error(merged, wanted, mask) <= TOLERANCE
