"""What is told before a run: config, coverage, counts, memory, length. Nothing is touched."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

import lorax
from configs._page import defaults
from experiments import _preflight
from experiments._preflight import Preflight, config_lines, show, size
from lorax.data.batch import Batch
from lorax.models import Roberta, RobertaConfig
from lorax.train.losses import classification_loss
from lorax.train.optim import adamw

SHAPE = RobertaConfig(300, 32, 3, 2, 64, max_length=64, head="classification", labels=3)
ADAPTER = lorax.Chain(
    lorax.LoRA(rank=4, where=(".*/(query|value)/kernel",)), lorax.Full(("params/classifier/.*",))
)


def preflight(shape=SHAPE, adapter=ADAPTER, **fields) -> Preflight:
    """Of a RoBERTa with a head, by shapes alone."""
    config = defaults()
    config.also_train = ("params/classifier/.*",)
    config.train.update({"batch": 8, "accumulate": 2})
    config.data.length = 64
    model, tokens = Roberta(shape), jax.ShapeDtypeStruct((4, 64), jnp.int32)
    base = jax.eval_shape(model.init, jax.random.key(0), tokens)
    batch = Batch(
        tokens, jax.ShapeDtypeStruct((4,), jnp.int32), jax.ShapeDtypeStruct((4,), jnp.bool_)
    )
    loss = classification_loss(model.apply, adapter)
    plan = Preflight(
        config, {"train.batch": 8}, model.apply, (tokens,), loss, adapter, base, batch,
        adamw(1e-3), steps=100, examples=160,
    )  # fmt: skip
    return dataclasses.replace(plan, **fields)


@pytest.fixture(scope="module")
def parts():
    """The parts of the text, by their first word."""
    return {part.split()[0]: part for part in _preflight.text(preflight())}


def cells(part, label):
    """What stands beside `label` in a table."""
    (line,) = [line for line in part.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_config_is_one_line_a_field_with_what_was_overridden_marked(parts):
    lines = parts["Config"].splitlines()[2:]
    assert len(lines) == len(set(lines)) > 80
    starred = [line for line in lines if line.startswith("*")]
    assert len(starred) == 1 and re.fullmatch(r"\* train\.batch +=  ?8", starred[0])
    assert config_lines(defaults(), {}).count("\n") == len(lines) - 1


def test_coverage_joins_layers_and_sums_up_what_is_frozen(parts):
    number, shape, rank, trainable, uses, how = cells(
        parts["Adapted"], "params/layer_*/attention/query/kernel"
    )
    assert (number, shape, rank, uses, how) == ("3", "32 × 32", "4", "1", "factored")
    assert trainable == f"{3 * 4 * (32 + 32):,}"
    assert cells(parts["Adapted"], "params/classifier/out/kernel")[-1] == "trained"
    assert "layer_*/attention/key/kernel" in parts["Adapted"].splitlines()[-1]


def test_counts_with_and_without_heads(parts):
    head = 32 * 32 + 32 + 32 * 3 + 3
    lora = 3 * 2 * 4 * 64
    total = lorax.models.param_count(SHAPE)
    trainable, everything, percent = cells(parts["Parameters"], "all")
    assert (trainable, everything) == (f"{lora + head:,}", f"{total:,}")
    assert float(percent) == pytest.approx(100 * (lora + head) / total, abs=1e-4)
    assert cells(parts["Parameters"], "without heads")[:2] == [f"{lora:,}", f"{total - head:,}"]


def test_memory_has_units_and_a_sum(parts):
    rows = [line for line in parts["Memory"].splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(_preflight.MEMORY) - len(_preflight.GATHERED) + 2
    for row in rows[2:]:
        assert re.search(r"[\d.,]+ (B|KiB|MiB|GiB|TiB) \|$", row), row
    base = 4 * lorax.models.param_count(SHAPE)
    assert cells(parts["Memory"], "base, frozen, as it is stored") == [size(base)]


def test_length_of_the_run(parts):
    found = {
        label: cells(parts["Length"], label)[0]
        for label in ("updates", "tokens of an update, at most", "epochs")
    }
    assert list(found.values()) == ["100", "512", "5.00"]


def test_nothing_is_written_and_everything_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show(preflight(examples=None))
    printed = capsys.readouterr()
    assert not list(tmp_path.iterdir()) and not printed.err
    assert all(word in printed.out for word in ("Config", "Adapted", "Memory", "Length"))
    assert "epochs " not in printed.out.split("Length")[1]


def test_an_adapter_that_does_not_fit_is_told():
    wrong = lorax.LoRA(rank=4, where=(".*/qurey/kernel",))
    with pytest.raises(lorax.LoraxError, match=r"qurey.*near misses"):
        list(_preflight.text(preflight(adapter=wrong)))


@pytest.mark.parametrize(
    "count, words", [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (350 * 2**30, "350.0 GiB")]
)
def test_sizes(count, words):
    assert size(count) == words
