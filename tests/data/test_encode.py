"""Encoding: every target once, only responses learnt, pairs as RoBERTa reads them, cuts counted."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.e2e import read_e2e
from lorax.data.encode import encode
from lorax.data.rows import BadRows
from lorax.data.toy import toy
from lorax.io.tokenizer import ByteTokenizer, load_tokenizer
from tests.shared_data import shared

BOS, EOS = 1, 2


class Letters:
    """Letters as ids from 10; special ids as asked for."""

    def __init__(self, bos=BOS, eos=EOS):
        self.bos, self.eos, self.adds_bos = bos, eos, bos is not None

    def encode(self, text):
        return [ord(c) - ord("a") + 10 for c in text]


class Batched(Letters):
    """The same with a batch form, which counts its texts."""

    seen = 0

    def encode_batch(self, texts):
        self.seen += len(texts)
        return [Letters.encode(self, text) for text in texts]


PLAIN = Letters(None, None)
CLOSED = Letters(None, EOS)


def letters(text):
    """The ids of a text."""
    return Letters().encode(text)


def tokens(records, tokenizer, **options):
    """The tokens of each example as lists."""
    return [e.tokens.tolist() for e in encode(records, tokenizer, **options).examples]


@given(text=st.text("abc", min_size=2, max_size=30), length=st.integers(1, 8), bos=st.booleans())
def test_every_token_of_a_text_is_a_target_once(text, length, bos):
    found = encode([{"text": text}], Letters(BOS if bos else None), task="language", length=length)
    targets = np.concatenate([example.targets for example in found.examples])
    assert targets.tolist() == letters(text)[0 if bos else 1 :]
    assert all(len(e.tokens) <= length and e.mask.all() for e in found.examples)
    if bos:
        assert {int(example.tokens[0]) for example in found.examples} == {BOS}
    else:
        given_tokens = np.concatenate([example.tokens for example in found.examples])
        assert given_tokens.tolist() == letters(text)[:-1]
    assert found.bytes == len(text)


def test_texts_are_one_stream_with_an_end_between_them():
    records = [{"text": "ab"}, {"text": "c"}]
    found = encode(records, Letters(), task="language", length=9)
    assert found.examples[0].targets.tolist() == [*letters("ab"), EOS, *letters("c")]
    found = encode([{"text": "a"}, {"text": "b"}], ByteTokenizer(), task="language", length=9)
    assert bytes(found.examples[0].targets.tolist()) == b"\n\nb"


@pytest.mark.parametrize("tokenizer, text", [(PLAIN, "a"), (Letters(), ""), (PLAIN, "")])
def test_a_text_of_no_targets(tokenizer, text):
    with pytest.raises(LoraxError, match="nothing is left of 1 records"):
        encode([{"text": text}], tokenizer, task="language", length=4)


def test_only_response_and_end_are_learnt():
    record = {"prompt": "abc", "response": "de"}
    (example,) = encode([record], Letters(), task="completion", length=9).examples
    assert example.tokens.tolist() == [BOS, *letters("abcde")]
    assert example.targets[example.mask].tolist() == [*letters("de"), EOS]
    (example,) = encode([record], PLAIN, task="completion", length=9).examples
    assert example.tokens.tolist() == letters("abcd")
    assert example.targets[example.mask].tolist() == letters("de")


@given(
    prompt=st.text("abc", max_size=6), response=st.text("de", min_size=2, max_size=6),
    length=st.integers(1, 9), bos=st.booleans(),
)  # fmt: skip
def test_a_completion_is_cut_from_the_left_of_its_prompt(prompt, response, length, bos):
    tokenizer = Letters(BOS if bos else None)
    record = {"prompt": prompt, "response": response}
    found = encode([record], tokenizer, task="completion", length=length, too_long="cut")
    (example,) = found.examples
    whole = [BOS] * bos + letters(prompt + response) + [EOS]
    assert found.cut == (len(whole) > length + 1)
    assert len(example.tokens) == min(length, len(whole) - 1)
    first = bos or bool(prompt)  # else nothing stands before the first token of the response
    learnt = [*letters(response), EOS][0 if first else 1 :][:length]
    assert example.targets[example.mask].tolist() == learnt
    kept = len(example.tokens) - len(learnt) + first - bos
    assert example.tokens.tolist()[int(bos) :][:kept] == letters(prompt[len(prompt) - kept :])


@pytest.mark.parametrize(
    "tokenizer, single, pair",
    [
        (Letters(), [BOS, 10, EOS], [BOS, 10, EOS, EOS, 11, EOS]),
        (CLOSED, [10, EOS], [10, EOS, 11, EOS]),
        (ByteTokenizer(), list(b"a"), list(b"a\nb")),
    ],
)
@pytest.mark.parametrize("task, label, dtype", [("classification", 3, "int32"),
                                                ("regression", 2.5, "float32")])  # fmt: skip
def test_labels_and_pairs(tokenizer, single, pair, task, label, dtype):
    records = [{"text": "a", "pair": p, "label": label} for p in ("", "b")]
    found = encode(records, tokenizer, task=task, length=9)
    assert [e.tokens.tolist() for e in found.examples] == [single, pair] and found.bytes == 0
    for example in found.examples:
        assert example.targets == label and example.targets.dtype == dtype
        assert example.tokens.dtype == np.int32 and example.mask.shape == () and example.mask


@given(st.text("a", min_size=1, max_size=9), st.text("b", max_size=9), st.integers(6, 14))
def test_the_longer_text_of_a_pair_is_cut_first(text, pair, length):
    record = {"text": text, "pair": pair, "label": 0}
    found = encode([record], Letters(), task="classification", length=length, too_long="cut")
    (ids,) = [e.tokens.tolist() for e in found.examples]
    a, b = ids.count(10), ids.count(11)
    special = 4 if pair else 2
    assert a + b == min(len(text + pair), length - special) and len(ids) == a + b + special
    assert ids[0] == BOS and ids[-1] == EOS
    assert a == len(text) or a >= b  # one is cut only down to the other
    assert b == len(pair) or b >= a - 1


def test_too_long_is_told_with_its_place_cut_or_skipped():
    records = [{"text": "a" * n, "pair": "", "label": 0, "where": f"f.tsv:{n}"} for n in (3, 9, 4)]
    options = {"task": "classification", "length": 6}
    with pytest.raises(LoraxError, match="f.tsv:9: 11 tokens, the most is 6: raise length"):
        encode(records, Letters(), **options)
    found = encode(records, Letters(), **options, too_long="skip")
    assert (len(found.examples), found.cut, found.skipped) == (2, 0, 1)
    found = encode(records, Letters(), **options, too_long="cut")
    assert (len(found.examples), found.cut, found.skipped) == (3, 1, 0)
    completion = [{"prompt": "ab", "response": "cd", "where": "f.txt:1"}]
    with pytest.raises(LoraxError, match="f.txt:1: 5 tokens, the most is 4"):
        encode(completion, Letters(), task="completion", length=4)
    assert len(encode(completion, Letters(), task="completion", length=5).examples) == 1
    with pytest.raises(LoraxError, match="nothing is left of 1 records: .* up to 4 tokens"):
        encode(completion, Letters(), task="completion", length=4, too_long="skip")


def test_images_are_scaled_and_need_no_tokenizer():
    records = toy("images", "test")
    example = encode(records, None, task="classification", length=1).examples[0]
    assert example.tokens.shape == (28, 28) and example.tokens.dtype == np.float32
    assert example.tokens.max() == records[0]["image"].max() / np.float32(255)
    assert example.targets == records[0]["label"] and example.targets.dtype == np.int32


def test_equal_texts_are_encoded_once_and_in_a_batch_where_that_is_offered():
    tokenizer = Batched()
    records = [{"prompt": "ab", "response": r} for r in ("c", "d", "c")]
    batched = tokens(records, tokenizer, task="completion", length=9)
    assert batched == tokens(records, Letters(), task="completion", length=9)
    assert tokenizer.seen == 3


def test_mistakes():
    records = [{"text": "a", "pair": "b", "label": 0}]
    for task, options, match in [
        ("tagging", {}, "task is 'tagging'"),
        ("language", {"too_long": "drop"}, "too_long is 'drop': expected one of 'error', 'cut'"),
        ("classification", {"length": 5, "too_long": "cut"}, "length is 5: no room for text"),
        ("classification", {"length": 0}, "cannot encode 1 records in length 0"),
    ]:
        with pytest.raises(LoraxError, match=match):
            encode(records, Letters(), task=task, **{"length": 9, **options})
    with pytest.raises(LoraxError, match="cannot encode 0 records"):
        encode([], Letters(), task="language", length=9)


def test_all_real_lines_take_seconds(tmp_path):
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes(shared(f"gpt2_bpe/{name}.xz"))
    (tmp_path / "train.txt").write_bytes(shared("e2e_nlg/train.txt.xz"))
    tokenizer = load_tokenizer(tmp_path)
    records = read_e2e(tmp_path / "train.txt", BadRows())
    start = time.process_time()
    found = encode(records, tokenizer, task="completion", length=160)
    assert time.process_time() - start < 30  # 4 seconds on one idle core
    assert len(found.examples) == 42_061
    example = found.examples[0]
    learnt = tokenizer.decode(example.targets[example.mask])
    assert learnt == records[0]["response"] and example.targets[-1] == tokenizer.eos
    assert tokenizer.decode(example.tokens[: -example.mask.sum() + 1]) == records[0]["prompt"]
