"""A learnt tokenizer: any text comes back, the same texts give the same ids, files round-trip."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.io.tokenizer import load_tokenizer
from lorax.io.tokenizer_learn import SMALLEST, learn_bpe

TEXTS = ["name : The Eagle | food : French", "The Eagle serves French food .", "한국어 문장"] * 5
TOKENIZER = learn_bpe(TEXTS, 300)


@given(st.text(max_size=40))
@settings(max_examples=60)
def test_any_text_comes_back(text):
    clean = text.encode("utf-8", "replace").decode()
    if any(token in clean for token in ("<s>", "<pad>", "</s>")):
        return  # written out, these are the special tokens themselves
    assert TOKENIZER.decode(TOKENIZER.encode(text, bos=True, eos=True)) == clean


def test_special_ids_and_size():
    assert (TOKENIZER.bos, TOKENIZER.pad, TOKENIZER.eos) == (0, 1, 2)
    assert SMALLEST < TOKENIZER.vocab_size <= 300
    ids = TOKENIZER.encode("The Eagle", bos=True, eos=True)
    assert (ids[0], ids[-1]) == (0, 2) and len(ids) < 2 + len("The Eagle")


def test_the_same_texts_give_the_same_ids_and_a_batch_is_its_texts():
    again = learn_bpe(TEXTS, 300)
    assert again.encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])
    assert TOKENIZER.encode_batch(TEXTS) == [TOKENIZER.encode(text) for text in TEXTS]


def test_files_round_trip(tmp_path):
    TOKENIZER.save(tmp_path)
    read = load_tokenizer(tmp_path)
    assert read.encode(TEXTS[2], bos=True, eos=True) == TOKENIZER.encode(
        TEXTS[2], bos=True, eos=True
    )
    assert (read.bos, read.eos, read.pad, read.adds_bos) == (0, 2, 1, True)
    assert read.vocab_size == TOKENIZER.vocab_size


@pytest.mark.parametrize(
    ("texts", "pieces", "message"),
    [
        (TEXTS, 258, "a tokenizer of 258 pieces: expected at least 259"),
        ([], 300, "no text to learn a tokenizer from"),
        (["", ""], 300, "no text to learn a tokenizer from"),
    ],
)
def test_what_cannot_be_learnt(texts, pieces, message):
    with pytest.raises(LoraxError, match=message):
        learn_bpe(texts, pieces)
