"""Does `lorax.generate` choose the tokens that transformers chooses, adapters included?"""

import numpy as np
import pytest

import lorax
import lorax.io.peft
from lorax.generation.generate import generate
from tests.interop.measure import FOLDER, model_of

torch = pytest.importorskip("torch", reason="make test-interop has torch")
pytest.importorskip("peft", reason="make test-interop has peft")

from tests.fixtures import torch_adapters, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|transformers|peft).*")

STOP = list(range(8, torch_models.VOCABULARY, 16))
PROMPTS = [
    np.random.default_rng(seed).integers(3, torch_models.VOCABULARY, 3 + seed % 4).tolist()
    for seed in range(8)
]
BEAMS = {"beams": 4, "length_penalty": 0.8, "no_repeat_ngram": 4}
SETTINGS = {
    "greedy": {},
    "greedy, no bigram twice": {"no_repeat_ngram": 2},
    "beams": BEAMS,
    "beams that like long texts": BEAMS | {"length_penalty": 2.0},
    "beams that like short texts": BEAMS | {"length_penalty": -1.0},
}


@torch.no_grad()
def theirs(model, prompt: list[int], **settings) -> list[int]:
    """The new tokens for one prompt, without padding, up to a stop token."""
    found = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=16,
        do_sample=False,
        num_beams=settings.get("beams", 1),
        length_penalty=settings.get("length_penalty", 1.0),
        no_repeat_ngram_size=settings.get("no_repeat_ngram", 0),
        early_stopping=False,
        eos_token_id=STOP,
        pad_token_id=torch_models.PAD,
    )[0, len(prompt) :].tolist()
    stops = [i for i, token in enumerate(found) if token in STOP]
    return found[: stops[0]] if stops else found


@pytest.mark.parametrize("name", ["llama", "llama_rope_scaled", "gpt2"])
def test_base_models(name):
    found, model = model_of(name), torch_models.tiny(name)
    lengths = set()
    for setting, fields in SETTINGS.items():
        wanted = [theirs(model, prompt, **fields) for prompt in PROMPTS]
        ours = generate(
            found.model.apply, found.base, None, PROMPTS, max_new_tokens=16, stop=STOP, **fields
        )
        assert ours == wanted, setting
        lengths |= set(map(len, wanted))
    assert len(lengths) > 3, "nothing was stopped, or everything at once"


@pytest.mark.parametrize("name", ["llama_qv", "gpt2_all_conv1d"])
def test_adapted_models(name):
    case = torch_adapters.CASES[name]
    found, model = model_of(case.model), torch_adapters.adapted(case)
    wanted = [theirs(model, prompt, **BEAMS) for prompt in PROMPTS]
    adapter, delta = lorax.io.peft.load(FOLDER / "adapters" / name, found)
    apply = lorax.adapt(found.model.apply, adapter)
    assert (
        generate(apply, found.base, delta, PROMPTS, max_new_tokens=16, stop=STOP, **BEAMS) == wanted
    )
