"""What was asked for: every mistake in one line, shapes from few sizes, batches by length."""

import jax
import numpy as np
import pytest

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.generation import request as asked
from lorax.generation.program import Program
from tests.generation.toys import plain

KEY = jax.random.key(0)
KNOWN = Program(plain, max_length=32, vocab_size=12)


class Letters:
    vocab_size, bos, eos, pad, adds_bos = 10, 7, 8, None, True

    def encode(self, text, *, bos=False, eos=False):
        return [7] * bos + [ord(c) - ord("a") for c in text]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: expected an integer, at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"beams": 0}, "beams is 0"),
        ({"beams": True}, "beams is True"),
        ({"top_k": 0}, "top_k is 0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1: expected an integer, at least 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": -1.0}, "temperature is -1.0: expected 0 for the likeliest token"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": None}, "temperature is None"),
        ({"top_p": 0.0}, "top_p is 0.0: expected a share above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
        ({"beams": 2, "temperature": 1.0, "key": KEY}, "beams=2 does not go with temperature=1.0"),
        ({"beams": 2, "top_k": 3}, "beams=2 does not go with top_k=3"),
        ({"beams": 2, "top_p": 0.5}, "beams=2 does not go with top_p=0.5"),
        ({"top_k": 3}, "top_k=3 with temperature=0 draws nothing: pass temperature=1.0 and a key"),
        ({"top_p": 0.9, "key": KEY}, "top_p=0.9 with temperature=0 draws nothing"),
        ({"length_penalty": 0.8}, "length_penalty=0.8 with beams=1 changes nothing"),
        ({"temperature": 1.0}, "temperature=1.0 needs a key to draw with"),
        ({"temperature": 1.0, "key": 0}, "key is 0: expected a PRNG key"),
    ],
)
def test_settings_out_of_range(fields, words):
    with pytest.raises(LoraxError) as caught:
        asked.Settings(**{"max_new_tokens": 5} | fields)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_settings_in_range():
    settings = asked.Settings(np.int64(5), np.float32(0.5), top_k=10**12, key=KEY)
    assert settings.plan(16).truncate and settings.plan(16).beams == 1
    draw = settings.draw([4, 2], rows=3)
    assert draw.keys.shape == (3,) and draw.top_k == np.iinfo(np.int32).max and draw.top_p == 1
    assert asked.Settings(5).draw([0], 1) is None
    assert not asked.Settings(5).plan(16).truncate


def test_a_prompt_is_ids_or_a_string():
    read = lambda prompt, **kw: asked.read_prompt(3, prompt, kw.get("tokenizer"), kw.get("bos"))
    assert read([1, 2]) == read((1, 2)) == read(np.array([1, 2], np.uint8)) == [1, 2]
    letters = Letters()
    assert read("ab", tokenizer=letters) == [7, 0, 1]
    assert read("ab", tokenizer=letters, bos=False) == [0, 1]
    assert read("", tokenizer=letters) == [7]
    with pytest.raises(LoraxError, match="prompt 3 is empty"):
        read("", tokenizer=letters, bos=False)
    with pytest.raises(LoraxError, match="prompt 3 is empty: expected at least one token"):
        read([])
    with pytest.raises(LoraxError, match="prompt 3 is a string and there is no tokenizer"):
        read("ab")
    for wrong in (5, [[1]], [1.5], None):
        with pytest.raises(LoraxTypeError, match="prompt 3 has dtype"):
            read(wrong)


def test_prompts_are_a_list():
    assert asked.as_list(iter([[1], [2]])) == [[1], [2]]
    for wrong in ("text", b"text", 5, None):
        with pytest.raises(LoraxTypeError, match=r"expected a list of prompts; write \[prompt\]"):
            asked.as_list(wrong)
    for wrong in ([1, 2, 3], np.array([1, 2, 3]), (1, np.int32(2), 3)):
        with pytest.raises(LoraxTypeError, match=r"one row of ids.*; write \[\[1, 2, 3\]\]$"):
            asked.as_list(wrong)
    with pytest.raises(LoraxTypeError, match=r"write \[\[0, 1, 2, \.\.\.\]\]"):
        asked.as_list(range(9))


def test_prompts_that_the_program_cannot_take():
    asked.check_prompts([[11] * 30], 2, KNOWN)
    with pytest.raises(LoraxError, match="prompt 1 has 30 tokens and max_new_tokens=3 makes 33"):
        asked.check_prompts([[1], [1] * 30], 3, KNOWN)
    with pytest.raises(LoraxError, match="prompt 0 has the id 12, outside the model's .* of 12"):
        asked.check_prompts([[1, 12]], 3, KNOWN)
    with pytest.raises(LoraxError, match="prompt 0 has the id -1, outside"):
        asked.check_prompts([[-1]], 3, Program(plain))
    asked.check_prompts([[10**6] * 1000], 1000, Program(plain))


def test_stop_is_the_tokenizers_eos_unless_said():
    read = lambda stop, tokenizer=None: asked.read_stop(stop, tokenizer, KNOWN).tolist()
    assert read(None) == [] and read(None, Letters()) == [8]
    assert read((), Letters()) == [] and read(3) == [3] and read([3, np.int32(4)]) == [3, 4]
    for wrong in ("x", [3, "x"]):
        with pytest.raises(LoraxTypeError, match="stop holds 'x': .*a stop text is not supported"):
            read(wrong)
    for wrong in (".\n", 2.5, True):
        with pytest.raises(
            LoraxTypeError, match=f"stop holds {wrong!r}: expected".replace("\\", ".")
        ):
            read(wrong)
    assert read(np.int64(3)) == read(np.array(3)) == read(np.array([3])) == [3]
    with pytest.raises(LoraxError, match="stop has the id 12, outside"):
        read((12,))


@pytest.mark.parametrize(
    "longest, new, max_length, expected",
    [
        (1, 1, None, (16, 16)),
        (17, 64, None, (32, 64)),
        (16, 16, 32, (16, 16)),
        (900, 100, 1024, (924, 100)),
        (1000, 24, 1024, (1000, 24)),
        (20, 5, 32, (27, 5)),
    ],
)
def test_shapes_are_powers_of_two_that_fit(longest, new, max_length, expected):
    found = asked.shape_of(longest, new, max_length)
    assert found == expected and found[0] >= longest and found[1] >= new
    assert max_length is None or sum(found) <= max_length


def test_batches_go_by_length():
    prompts = [[1] * n for n in (5, 1, 9, 2)]
    assert list(asked.batches(prompts, 2)) == [[1, 3], [0, 2]]
    assert list(asked.batches(prompts, 3)) == [[1, 3, 0], [2]]
    assert list(asked.batches(prompts, None)) == [[1, 3, 0, 2]]
    assert list(asked.batches([], None)) == []


def test_a_request_is_filled_up():
    found = asked.make_request([[1, 2], [3]], 3, 4, 7, np.array([5], np.int32))
    assert found.prompts.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 0, 0]]
    assert found.lengths.tolist() == [2, 1, 2] and found.live.tolist() == [True, True, False]
    assert found.limit == 7 and found.stop.tolist() == [5]
