"""Hugging Face's tokenizers: the files, their special ids, GPT-2's real vocabulary."""

import json
import sys

import pytest

from lorax.core.errors import LoraxError
from lorax.io.tokenizer_hf import read_byte_bpe, read_tokenizer_json
from tests.shared_data import shared

tokenizers = pytest.importorskip("tokenizers")

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {c: i for i, c in enumerate([*ALPHABET, "he", "ll", "hell", "<|endoftext|>"])}
MERGES = "#version: 0.2\nh e\nl l\nhe ll\n"


def write(folder, **files):
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, "utf-8")


@pytest.fixture
def pair(tmp_path):
    write(tmp_path, vocab__json=VOCABULARY, merges__txt=MERGES)
    return tmp_path / "vocab.json", tmp_path / "merges.txt"


def words(**changes):
    """A tokenizer.json of whole words, with BOS put in front by its template."""
    names = ["<unk>", "<s>", "</s>", "hello", "world"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    inner.enable_truncation(3)
    inner.enable_padding(length=8)
    return json.loads(inner.to_str()) | changes


def test_a_pair_is_byte_level_bpe(pair):
    tokenizer = read_byte_bpe(*pair)
    assert tokenizer.encode("hello") == [VOCABULARY["hell"], VOCABULARY["o"]]
    assert tokenizer.vocab_size == 260
    end = VOCABULARY["<|endoftext|>"]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (end, end, None)
    assert not tokenizer.adds_bos
    assert tokenizer.encode("hell<|endoftext|>hell") == [258, end, 258]
    for text in ("", " hello  wörld\n", "你好 🙂", "\x00"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("\ud800") == tokenizer.encode("?")


def test_tokenizer_json_is_never_cut_or_padded(tmp_path):
    write(tmp_path, tokenizer__json=words())
    tokenizer = read_tokenizer_json(tmp_path / "tokenizer.json")
    assert tokenizer.encode("hello world hello world") == [3, 4, 3, 4]
    assert tokenizer.encode("hello", bos=True, eos=True) == [1, 3, 2]
    assert tokenizer.decode([1, 3, 4, 2]) == "hello world"
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, None)
    assert tokenizer.adds_bos


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, (1, 2, None)),
        ({"tokenizer_config__json": {"bos_token": "hello", "pad_token": None}}, (3, 2, None)),
        ({"tokenizer_config__json": {"pad_token": {"content": "</s>"}}}, (1, 2, 2)),
        ({"special_tokens_map__json": {"eos_token": {"content": "world"}}}, (1, 4, None)),
        ({"config__json": {"eos_token_id": [4, 2], "pad_token_id": -1}}, (1, 4, None)),
        ({"config__json": {"pad_token_id": 99, "bos_token_id": 3}}, (3, 2, None)),
        (
            {
                "tokenizer_config__json": {"eos_token": "hello"},
                "special_tokens_map__json": {"eos_token": "world"},
                "config__json": {"eos_token_id": 2},
            },
            (1, 3, None),
        ),
    ],
)
def test_special_ids_come_from_the_files_beside(tmp_path, files, expected):
    write(tmp_path, tokenizer__json=words(), **files)
    tokenizer = read_tokenizer_json(tmp_path / "tokenizer.json")
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == expected


def test_the_settings_decide_about_bos_and_the_space_in_front(tmp_path, pair):
    write(tmp_path, tokenizer_config__json={"add_bos_token": True, "add_prefix_space": True})
    tokenizer = read_byte_bpe(*pair)
    assert tokenizer.adds_bos
    assert tokenizer.encode("hell") == [VOCABULARY["Ġ"], VOCABULARY["hell"]]


def test_added_tokens_follow_the_vocabulary(tmp_path, pair):
    write(tmp_path, added_tokens__json={"<two>": 261, "<one>": 260})
    tokenizer = read_byte_bpe(*pair)
    assert tokenizer.encode("<one><two>") == [260, 261] and tokenizer.vocab_size == 262
    write(tmp_path, added_tokens__json={"<far>": 300})
    with pytest.raises(LoraxError, match="'<far>' cannot have the id 300"):
        read_byte_bpe(*pair)


@pytest.mark.parametrize(
    "files, words",
    [
        ({"vocab__json": "{"}, "vocab.json' is no tokenizer, or is damaged (not JSON"),
        ({"vocab__json": [1, 2]}, "no JSON object"),
        ({"vocab__json": {"a": "b"}}, "an id is no integer"),
        ({"vocab__json": {"he</w>": 0}}, "256 of 256 byte characters"),
        ({"merges__txt": "#version\nh e l\n"}, "line 2 is no pair: 'h e l'"),
        ({"merges__txt": "h\n"}, "line 1 is no pair"),
        ({"merges__txt": "o x\n"}, "merges.txt' is no tokenizer"),
        ({"tokenizer_config__json": {"eos_token": "<no>"}}, "eos_token '<no>' is not in the voc"),
        ({"special_tokens_map__json": "<html>"}, "special_tokens_map.json' is no tokenizer"),
    ],
)
def test_damage_of_a_pair_is_told_in_one_line(tmp_path, pair, files, words):
    write(tmp_path, **files)
    with pytest.raises(LoraxError) as caught:
        read_byte_bpe(*pair)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_damage_of_tokenizer_json_is_told_in_one_line(tmp_path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(LoraxError, match="cannot read .*No such file"):
        read_tokenizer_json(file)
    whole = json.dumps(words())
    for damaged in (whole[:200], "{}", "version https://git-lfs.github.com/spec/v1\n", ""):
        file.write_text(damaged)
        with pytest.raises(LoraxError, match="tokenizer.json' is no tokenizer, or is damaged"):
            read_tokenizer_json(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(LoraxError, match="no UTF-8 text"):
        read_tokenizer_json(file)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("encoder.json", "vocab.bpe"):
        (folder / name).write_bytes(shared(f"gpt2_bpe/{name}.xz"))
    return read_byte_bpe(folder / "encoder.json", folder / "vocab.bpe")


def test_the_real_gpt2_vocabulary(gpt2):
    assert gpt2.vocab_size == 50257
    assert (gpt2.bos, gpt2.eos, gpt2.pad) == (50256, 50256, None)
    assert gpt2.encode("Hello world") == [15496, 995]  # known from any use of GPT-2
    assert gpt2.encode("hello<|endoftext|>") == [31373, 50256]
    text = shared("tinyshakespeare/input.txt.xz").decode()[:50_000]
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text and len(ids) < len(text) / 2


def test_without_the_library(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LoraxError, match="needs the tokenizers library: pip install"):
        read_byte_bpe(*pair)
