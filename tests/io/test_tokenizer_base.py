"""Bytes, and what all tokenizers share: checks, special ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.io.tokenizer_base import BaseTokenizer, ByteTokenizer, Tokenizer


class Letters(BaseTokenizer):
    vocab_size, bos, eos, pad = 10, 7, 8, 9

    def _encode(self, text):
        return [ord(c) - ord("a") for c in text]

    def _decode(self, ids):
        return "".join(chr(i + ord("a")) for i in ids)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_utf_8():
    tokenizer = ByteTokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode("aé") == [97, 195, 169]
    assert tokenizer.decode([97, 195]) == "a\ufffd"
    assert tokenizer.encode("\ud800") == [63]  # half a surrogate pair is no text
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (None, None, None)


def test_special_ids_go_on_and_come_off():
    letters = Letters()
    assert letters.encode("abc") == [0, 1, 2]
    assert letters.encode("abc", bos=True, eos=True) == [7, 0, 1, 2, 8]
    assert letters.decode([7, 0, 1, 2, 8, 9, 9]) == "abc"
    assert letters.decode(np.array([7, 0, 1], np.int32)) == "ab"
    assert letters.decode(i for i in ()) == ""


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda t: t.encode(b"ab"), "text is bytes: expected a string"),
        (lambda t: t.encode(["ab"]), "text is list"),
        (lambda t: t.encode("ab", bos=True), "has no bos id"),
        (lambda t: t.encode("ab", eos=True), "has no eos id"),
        (lambda t: t.decode([3, 256]), "id 256 is outside this tokenizer's vocabulary of 256"),
        (lambda t: t.decode([-1]), "id -1 is outside"),
        (lambda t: t.decode([[1], [2]]), "shape (2, 1): expected one row"),
        (lambda t: t.decode([1.5]), "ids have dtype float64"),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(LoraxError) as caught:
        call(ByteTokenizer())
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_of_the_wrong_type_is_a_type_error():
    with pytest.raises(LoraxTypeError):
        ByteTokenizer().encode(None)
