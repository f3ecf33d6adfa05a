"""llama2.c's tokenizer: merges by hand, damage, and the real one against a reference."""

import importlib.util
import random
import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.io.tokenizer_llama2c import Llama2cTokenizer, read_llama2c
from tests.shared_data import shared, shared_path

BYTES = [f"<0x{byte:02X}>".encode() for byte in range(256)]
# ids from 259 on, with their scores: what merges first is not what stands first
PIECES = {b" ": -9, b"a": -9, b"b": -9, b"c": -9, b"ab": -2, b"bc": -1, b"abc": -3, b" a": -4}


def pieces_and_scores(extra=PIECES):
    first = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *BYTES]
    return [*first, *extra], [0.0] * len(first) + [float(s) for s in extra.values()]


def written(pieces, scores):
    records = (struct.pack("<fi", s, len(p)) + p for p, s in zip(pieces, scores, strict=True))
    return struct.pack("<i", max(map(len, pieces))) + b"".join(records)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "tokenizer.bin"
    file.write_bytes(written(*pieces_and_scores()))
    return file


def ids_of(*pieces):
    return [pieces_and_scores()[0].index(piece) for piece in pieces]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("b", [b" ", b"b"]),
        ("abc", [b" ", b"abc"]),  # "bc" is the best, then "a" + "bc" before " " + "a"
        ("cab", [b" ", b"c", b"ab"]),
        ("ac", [b" a", b"c"]),
        ("bab", [b" ", b"b", b"ab"]),
        ("é", [b" ", b"<0xC3>", b"<0xA9>"]),
        ("\n", [b" ", b"<0x0A>"]),
    ],
)
def test_merges_take_the_best_first(file, text, expected):
    tokenizer = read_llama2c(file)
    assert tokenizer.encode(text) == ids_of(*expected)
    assert tokenizer.encode(text, bos=True, eos=True) == [1, *ids_of(*expected), 2]
    assert tokenizer.decode(tokenizer.encode(text, bos=True)) == text


def test_the_leftmost_of_equals_merges(file):
    pieces, scores = pieces_and_scores({b" ": -9, b"a": -9, b"aa": -1})
    tokenizer = Llama2cTokenizer(pieces, scores)
    assert [pieces[i] for i in tokenizer.encode("aaa")] == [b" ", b"aa", b"a"]


def test_decode_takes_one_space_off_the_front(file):
    tokenizer = read_llama2c(file)
    assert tokenizer.decode(ids_of(b" ", b" a", b" ", b"b")) == " a b"
    assert tokenizer.decode([1, *ids_of(b" a", b"bc")]) == "abc"
    assert tokenizer.decode([1, *ids_of(b"<0xE2>", b"<0x82>")]) == "\ufffd"
    assert tokenizer.vocab_size == 3 + 256 + len(PIECES)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.adds_bos) == (1, 2, None, True)


def naive(ids, pieces, scores):
    """The definition: look at every neighbourhood, merge the best, start again."""
    while True:
        found = [
            (scores[pieces.index(pieces[a] + pieces[b])], -i)
            for i, (a, b) in enumerate(zip(ids, ids[1:], strict=False))
            if pieces[a] + pieces[b] in pieces
        ]
        if not found:
            return ids
        i = -max(found)[1]
        ids = [*ids[:i], pieces.index(pieces[ids[i]] + pieces[ids[i + 1]]), *ids[i + 2 :]]


@settings(max_examples=50)
@given(st.text(alphabet="abc ", min_size=1, max_size=24))
def test_the_heap_merges_as_the_definition_does(text):
    pieces, scores = pieces_and_scores()
    start = ids_of(*(bytes([byte]) for byte in b" " + text.encode()))
    assert Llama2cTokenizer(pieces, scores).encode(text) == naive(start, pieces, scores)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[:-1], "has length 2"),
        (lambda data: data[:-5], "ends within piece 266"),
        (lambda data: data[:200], "ends within piece 14"),
        (lambda data: b"", "piece 3 is not the byte <0x00>"),
        (lambda data: data.replace(b"<0x41>", b"<0x4?>"), "is not the byte <0x41>"),
        (lambda data: data[:4] + struct.pack("<fi", 0.0, -5) + data[12:], "has length -5"),
        (lambda data: data[:4] + struct.pack("<fi", float("nan"), 5) + data[12:], "score nan"),
        (lambda data: b"PK\x03\x04" + bytes(range(256)), "no tokenizer of llama2.c"),
    ],
)
def test_damage_is_told_in_one_line(file, damage, words):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(LoraxError) as caught:
        read_llama2c(file)
    assert words in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_short_vocabulary(tmp_path):
    with pytest.raises(LoraxError, match="cannot read .*No such file"):
        read_llama2c(tmp_path / "none.bin")
    with pytest.raises(LoraxError, match="2 pieces and 1 scores"):
        Llama2cTokenizer([b"a", b"b"], [0.0])


@pytest.fixture(scope="module")
def reference():
    file = shared_path("stories260K/verify_numpy.py")
    spec = importlib.util.spec_from_file_location("verify_numpy", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def excerpts():
    text = shared("tinyshakespeare/input.txt.xz").decode()
    starts = random.Random(0).sample(range(len(text) - 300), 20)
    return [text[start : start + 300] for start in starts]


def test_the_real_vocabulary_encodes_as_the_reference(reference):
    file = shared_path("stories260K/tok512.bin")
    tokenizer = read_llama2c(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file to be closed
        pieces, scores = reference.load_tok(str(file), 512)
    assert tokenizer.vocab_size == 512
    for text in [*excerpts(), "Zoë said: “naïve” 你好 🙂\t\n", "<0x41> <s> </s>", " two  spaces "]:
        ids = tokenizer.encode(text, bos=True)
        assert ids == reference.encode(text, pieces, scores)
        assert tokenizer.decode(ids) == text == tokenizer.decode(ids[1:])


def test_a_whole_text_takes_a_moment():
    text = shared("tinyshakespeare/input.txt.xz").decode()[:100_000]
    tokenizer = read_llama2c(shared_path("stories260K/tok512.bin"))
    assert tokenizer.decode(tokenizer.encode(text)) == text
