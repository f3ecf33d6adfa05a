"""The real checkpoint of ../shared/data: zero-shot losses under the protocol of its README.

Text is encoded whole and its BOS dropped, windows of 128 tokens stand each behind their own BOS,
and only full windows count. Logits and greedy text are held in tests/io and tests/generation.
"""

import jax
import numpy as np
import pytest

from lorax.data.tokens import consecutive_windows
from lorax.io import pretrained
from lorax.train.losses import cross_entropy
from tests.shared_data import shared, shared_path

LENGTH = 128


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The model with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("stories")
    (folder / "stories260K.bin").write_bytes(shared("stories260K/stories260K.bin.xz"))
    (folder / "tok512.bin").write_bytes(shared_path("stories260K/tok512.bin").read_bytes())
    return pretrained.load(folder / "stories260K.bin")


@pytest.mark.parametrize(
    ("name", "characters", "windows", "nats"),
    [
        ("tinyshakespeare/input.txt.xz", 9_000, 42, 4.54),
        ("tinystories_sents/tinystories_2000_sentences.txt.xz", 12_000, 45, 2.64),
    ],
)
def test_zero_shot(loaded, name, characters, windows, nats):
    text = shared(name).decode("utf-8")[:characters]
    text = text if "shakespeare" in name else text.replace("\n", " ")
    ids = np.asarray(loaded.tokenizer.encode(text))
    assert len(ids) // LENGTH == windows
    (batch,) = consecutive_windows(
        ids[: windows * LENGTH], bos=loaded.tokenizer.bos, batch=windows, length=LENGTH
    )
    logits = jax.jit(loaded.model.apply)(loaded.base, batch.inputs)
    found, count = cross_entropy(logits, batch.targets)
    assert count == windows * LENGTH
    assert float(found) == pytest.approx(nats, abs=0.005)
