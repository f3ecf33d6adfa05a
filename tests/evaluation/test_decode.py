"""Answers as texts: cut, in order, whatever the batches; and what may stop the work."""

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.evaluation.decode import before, decode
from tests.evaluation.programs import Bigram, Tokenizer, table

TOKENIZER, MODEL = Tokenizer(), Bigram()
PROMPTS = ["a long prompt of many bytes", "b", "two\nlines", "c?"]


def spelling(*words, seed=0):
    """A table by which each byte of a word is followed by the next one."""
    rows = np.asarray(table(seed, size=0.1)).copy()
    for word in words:
        for one, two in zip(word, word[1:], strict=False):
            rows[ord(one), ord(two)] = 9.0
    return rows


def run(rows, prompts, model=MODEL, **fields):
    fields = {"max_new_tokens": 8, "batch_size": 2} | fields
    return decode(model.apply, rows, None, prompts, TOKENIZER, **fields)


def definition(rows, prompt, new=8):
    """Greedy, byte by byte, up to a line's end or EOS."""
    last, found = prompt.encode()[-1], b""
    for _ in range(new):
        last = int(np.argmax(rows[last]))
        if last in (10, 3):
            break
        found += bytes([last])
    return TOKENIZER.decode(found)


def test_answers_come_in_the_order_of_their_prompts():
    rows = np.asarray(table())
    found = run(rows, PROMPTS)
    assert found == [definition(rows, prompt) for prompt in PROMPTS]
    for size in (3, 50):
        assert run(rows, PROMPTS, batch_size=size) == found
    assert run(rows, [list(prompt.encode()) for prompt in PROMPTS]) == found
    assert run(rows, []) == []


def test_an_answer_ends_at_a_line_or_eos_or_what_is_asked():
    rows = spelling("xyz\nw", "kl\x03m", "abcd")
    rows[ord("w"), ord("x")] = 9.0
    assert run(rows, ["x", "k", "a"], max_new_tokens=3) == ["yz", "l", "bcd"]
    assert run(rows, ["x"], until=(), max_new_tokens=6) == ["yz\nwxy"]
    assert run(rows, ["x", "a"], until=("z\n", "cd")) == ["y", "b"]
    assert run(rows, ["x"], beams=2, max_new_tokens=6) == ["yz"]


def test_nothing_is_computed_behind_an_end_of_one_token():
    rows = spelling("a\n")
    rows[ord("\n")] = np.nan
    assert run(rows, ["a"]) == [""]
    with pytest.raises(LoraxError, match="NaN logits for prompt 0"):
        run(rows, ["a"], until=("\n\n",))


def test_few_shapes_are_compiled_for_many_lengths():
    prompts = ["p" * n for n in range(1, 31)]
    model = Bigram()
    run(np.asarray(table()), prompts, model, batch_size=4, init_cache=False)
    assert len(set(model.shapes)) == 2  # 16 and 32 bytes of prompt, 16 of answer


def test_progress_and_check_after_each_batch():
    told = []

    def check():
        if len(told) == 2:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        run(np.asarray(table()), PROMPTS * 2, check=check, progress=lambda *n: told.append(n))
    assert told == [(2, 8), (4, 8)]


def test_mistakes_are_those_of_generate():
    with pytest.raises(LoraxError, match="prompt 1 is empty"):
        run(np.asarray(table()), ["a", ""])
    with pytest.raises(LoraxError, match="beams is 0"):
        run(np.asarray(table()), ["a"], beams=0)


def test_before_cuts_at_the_first_end():
    assert before("one. two, three", (",", ". ")) == "one"
    assert before("one", ("x", "")) == "one" and before("x", ("x",)) == ""
