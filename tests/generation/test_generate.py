"""The front door: ids and strings, batches, limits, mistakes; a real model's published text."""

import contextlib
import importlib.util
import io
import sys
import warnings

import jax
import numpy as np
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.generation.generate import generate
from lorax.io.tokenizer import ByteTokenizer, load_tokenizer
from lorax.models.gpt2 import GPT2
from lorax.models.gpt2_config import GPT2Config
from tests.generation.toys import PROMPTS, TOY, greedy, params, plain
from tests.shared_data import shared_path

BASE = params()


def test_it_is_exported():
    assert lorax.generate is generate


def test_ids_of_any_kind():
    expected = [greedy(BASE, p, 6) for p in PROMPTS]
    for prompts in (PROMPTS, [np.array(p) for p in PROMPTS], map(tuple, PROMPTS)):
        assert generate(TOY.apply, BASE, None, prompts, max_new_tokens=6) == expected
    square = np.array([[1, 2], [3, 4]])
    assert generate(TOY.apply, BASE, None, square, max_new_tokens=6, batch_size=4) == [
        greedy(BASE, [1, 2], 6),
        greedy(BASE, [3, 4], 6),
    ]
    assert generate(TOY.apply, BASE, None, [], max_new_tokens=6) == []


@pytest.mark.parametrize("beams", [1, 2])
def test_batches_do_not_change_answers(beams):
    fields = {"max_new_tokens": 6, "stop": (3,), "beams": beams}
    whole = generate(TOY.apply, BASE, None, PROMPTS, **fields)
    assert generate(TOY.apply, BASE, None, PROMPTS, batch_size=3, **fields) == whole


def test_something_may_be_done_after_each_batch():
    done = []
    fields = {"max_new_tokens": 6, "batch_size": 3, "after_batch": done.append}
    assert generate(TOY.apply, BASE, None, PROMPTS, **fields) == [
        greedy(BASE, prompt, 6) for prompt in PROMPTS
    ]
    assert done == [3, 4]

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(TOY.apply, BASE, None, PROMPTS, **fields | {"after_batch": stop})


def test_up_to_the_last_slot():
    prompt = [1, 2, 3, 4] * 10
    found = generate(TOY.apply, BASE, None, [prompt], max_new_tokens=24)
    assert found == [greedy(BASE, prompt, 24)]
    with pytest.raises(LoraxError, match="makes 65: expected at most max_length=64"):
        generate(TOY.apply, BASE, None, [prompt], max_new_tokens=25)

    def short(base, tokens):
        assert tokens.shape[1] <= 45
        return plain(base, tokens)

    found = generate(short, BASE, None, [prompt], max_new_tokens=5, max_length=45)
    assert found == [greedy(BASE, prompt, 5)]


class Spelled:
    """One letter a token; decoding takes a space off the front, as SentencePiece does."""

    eos = 11
    letters = " abcdefghij."

    def encode(self, text, *, bos=False, eos=False):
        return [self.letters.index(c) for c in text]

    def decode(self, ids):
        return "".join(self.letters[i] for i in ids).removeprefix(" ")


def test_strings_come_back_as_strings():
    tokenizer = Spelled()
    prompts = ["abc", "jig", [3, 1]]
    rows = [greedy(BASE, tokenizer.encode(p) if isinstance(p, str) else p, 9, stop=(11,))
            for p in prompts]  # fmt: skip
    found = generate(TOY.apply, BASE, None, prompts, max_new_tokens=9, tokenizer=tokenizer)
    assert found[2] == rows[2]
    assert found[:2] == ["".join(tokenizer.letters[i] for i in row) for row in rows[:2]]


def test_a_space_in_front_is_not_lost():
    spaced = lambda base, tokens: plain(base, tokens).at[..., 0].add(100.0)
    found = generate(spaced, BASE, None, ["ab"], max_new_tokens=2, tokenizer=Spelled())
    assert found == ["  "]


def test_bytes_cut_within_a_character():
    def say(text):
        """A program that says this, whatever came before."""
        answer = jax.numpy.asarray(np.frombuffer(text, np.uint8))

        def apply(base, tokens):
            at = jax.numpy.arange(tokens.shape[1]) - 1
            return jax.nn.one_hot(answer[at % len(answer)], 256)[None].repeat(len(tokens), 0)

        return apply

    found = generate(
        say("é!".encode()), BASE, None, ["ab"], max_new_tokens=3, tokenizer=ByteTokenizer()
    )
    assert found == ["é!"]
    cut = generate(
        say("é!".encode()), BASE, None, ["ab"], max_new_tokens=1, tokenizer=ByteTokenizer()
    )
    assert cut == ["\ufffd"]


def test_gpt2_factored_equals_recomputing_the_merged():
    model = GPT2(GPT2Config(20, 16, 2, 2, max_length=64))
    base = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4), np.int32))
    base = jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, base)
    adapter = lorax.LoRA(rank=2)
    apply = lorax.adapt(model.apply, adapter)
    delta = apply.init(jax.random.key(1), base, np.zeros((1, 4), np.int32))
    delta = jax.tree.map(lambda x: x + 0.1, delta)
    together = generate(apply, base, delta, PROMPTS, max_new_tokens=12)
    merged = adapter.merge(base, delta)
    step = jax.jit(model.apply)

    def logits(_, ids):
        return step(merged, np.array([[*ids, *[0] * (32 - len(ids))]], np.int32))[0, len(ids) - 1]

    assert together == [greedy(merged, p, 12, logits=logits) for p in PROMPTS]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"prompts": "text"}, "prompts is str: expected a list"),
        ({"prompts": ["text"]}, "prompt 0 is a string and there is no tokenizer"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1], [12]]}, "prompt 1 has the id 12"),
        ({"max_new_tokens": 64}, "makes 65"),
        ({"beams": 2, "temperature": 1.0}, "beams=2 does not go with temperature"),
        ({"temperature": 1.0}, "needs a key"),
        ({"stop": (99,)}, "stop has the id 99"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words):
    asked = {"prompts": [[1]], "max_new_tokens": 3} | arguments
    with pytest.raises(LoraxError) as caught:
        generate(TOY.apply, BASE, None, asked.pop("prompts"), **asked)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def reference_text(monkeypatch):
    """What the numpy reference beside the weights writes, its last line of figures left out."""
    folder = shared_path("stories260K/verify_numpy.py").parent
    names = ("verify_numpy.py", "stories260K.bin.xz", "tok512.bin")
    files = [str(folder / name) for name in names]
    spec = importlib.util.spec_from_file_location("__main__", files[0])
    monkeypatch.setattr(sys, "argv", [*files, "256"])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as out:
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves a file to be closed
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return out.getvalue().partition("\n")[2].rpartition("mean greedy")[0].rstrip("\n")


@pytest.mark.slow
@pytest.mark.runs
def test_stories260k_writes_its_published_text(monkeypatch):
    pretrained = pytest.importorskip("lorax.io.pretrained")
    expected = reference_text(monkeypatch)
    loaded = pretrained.load(shared_path("stories260K/stories260K.bin.xz"))
    tokenizer = load_tokenizer(shared_path("stories260K/tok512.bin"))
    (text,) = generate(
        loaded.model.apply, loaded.base, None, [""], max_new_tokens=256, tokenizer=tokenizer
    )
    assert text == expected
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
