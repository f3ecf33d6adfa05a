"""The benchmark of methods: its verdict follows from its figures, and every method is in it."""

import pytest

import lorax
from configs.method_comparison import METHODS
from experiments.benchmarks import methods
from experiments.benchmarks._step_programs import Programs
from lorax.models.llama_config import LlamaConfig

TINY = LlamaConfig(
    vocab_size=32, dim=8, layers=1, heads=2, kv_heads=1, hidden_dim=16, max_length=256, tied=True
)


def test_every_method_of_the_comparison_is_timed():
    found = methods.adapters()
    assert [*found] == [*METHODS]
    assert found["LoRA"] == lorax.LoRA(rank=8, alpha=16.0)
    assert isinstance(found["LoRA+PL"], lorax.Chain)


def test_a_verdict_is_of_the_median_round():
    seconds = {"LoRA": [1.0, 2.0, 1.0], "DoRA": [1.2, 2.8, 1.3]}
    (one,) = methods.verdicts(seconds)
    assert one["what"] == "DoRA step over LoRA step" and one["target"] == "<= 1.25"
    assert one["found"] == {"median": 1.3, "low": 1.2, "high": 1.4} and not one["held"]
    assert methods.verdicts(seconds | {"DoRA": [1.2, 2.4, 1.3]})[0]["held"]
    assert not methods.verdicts({"LoRA": [1.0]})


@pytest.mark.runs
def test_steps_of_a_tiny_model():
    some = {"LoRA": lorax.LoRA(rank=2), "Full": lorax.Full(), "Prompt": lorax.PromptTuning(3)}
    found = methods.compared(Programs(TINY), some, rounds=2)
    assert [*found["methods"]] == [*some] and found["verdicts"] == []
    full = found["methods"]["Full"]
    assert full["trainable"] > found["methods"]["LoRA"]["trainable"] > 0
    assert found["methods"]["Prompt"]["trainable"] == 3 * TINY.dim
    for one in found["methods"].values():
        assert one["over_floor"]["median"] > 0 and one["memory_mib"]["peak"] > 0
