"""Finding the tokenizer: every kind of file, by directory and by name."""

import json
import struct

import pytest

from lorax.core.errors import LoraxError
from lorax.io.tokenizer import HFTokenizer, Llama2cTokenizer, Tokenizer, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")


def llama2c_file(file):
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
    records = (struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    file.write_bytes(struct.pack("<i", 6) + b"".join(records))


def pair_files(vocabulary, merges):
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary.write_text(json.dumps({c: i for i, c in enumerate(sorted(alphabet))}))
    merges.write_text("#version: 0.2\n")


def json_file(file):
    file.write_text(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).to_str())


def test_a_directory_holds_one_kind_or_another(tmp_path):
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "stories.bin").write_bytes(b"weights")
    assert load_tokenizer(tmp_path) is None
    llama2c_file(tmp_path / "tok512.bin")
    assert isinstance(load_tokenizer(tmp_path), Llama2cTokenizer)
    pair_files(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    assert load_tokenizer(tmp_path).vocab_size == 256
    json_file(tmp_path / "tokenizer.json")
    found = load_tokenizer(str(tmp_path))
    assert isinstance(found, HFTokenizer) and isinstance(found, Tokenizer)
    assert found.vocab_size == 1


@pytest.mark.parametrize("pair", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_either_file_stands_for_the_pair(tmp_path, pair):
    pair_files(*(tmp_path / name for name in pair))
    for name in pair:
        assert load_tokenizer(tmp_path / name).encode('!"') == [0, 1]
    (tmp_path / pair[1]).unlink()
    for path in (tmp_path, tmp_path / pair[0]):
        with pytest.raises(LoraxError, match=f"lacks {pair[1]}: expected {pair[0]} and"):
            load_tokenizer(path)


def test_a_file_goes_by_its_ending(tmp_path):
    llama2c_file(tmp_path / "any.bin")
    json_file(tmp_path / "any.json")
    assert isinstance(load_tokenizer(tmp_path / "any.bin"), Llama2cTokenizer)
    assert isinstance(load_tokenizer(tmp_path / "any.json"), HFTokenizer)


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(LoraxError, match="no tokenizer at .*check the path"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(LoraxError, match="tokenizer.model' is no tokenizer that can be read"):
        load_tokenizer(tmp_path / "tokenizer.model")
    for name in ("tok1.bin", "tok2.bin"):
        llama2c_file(tmp_path / name)
    with pytest.raises(LoraxError, match="holds 2 tokenizers, tok1.bin and tok2.bin"):
        load_tokenizer(tmp_path)
    llama2c_file(tmp_path / "tokenizer.bin")
    assert isinstance(load_tokenizer(tmp_path), Llama2cTokenizer)
