"""BLEU by hand, its signature, and groups of references."""

import math
import sys

import pytest

from lorax.core.errors import LoraxError
from lorax.evaluation.bleu import Bleu, check_groups, corpus_bleu

TEXT = "the cat sat on the mat today"


def test_bleu_by_hand():
    pytest.importorskip("sacrebleu")
    found = corpus_bleu(["the cat sat on the mat"], [["the cat sat on a mat"]])
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples, same length
    assert found.score == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # too short: the brevity penalty alone
    found = corpus_bleu(["the cat sat on the mat"], [[TEXT]])
    assert found.score == pytest.approx(100 * math.exp(1 - 7 / 6))


def test_the_value_that_sacrebleu_publishes():
    """From sacrebleu's own README: two references for three texts."""
    pytest.importorskip("sacrebleu")
    first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    texts = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    found = corpus_bleu(texts, list(zip(first, second, strict=True)))
    assert round(found.score, 2) == 48.53
    parts = dict(part.split(":") for part in found.signature.split("|"))
    assert parts.pop("version")
    assert parts == {"nrefs": "2", "case": "mixed", "eff": "no", "tok": "13a", "smooth": "exp"}


def test_groups_of_unequal_size():
    pytest.importorskip("sacrebleu")
    found = corpus_bleu([TEXT, "a small dog ran far away"], [[TEXT], ["x", TEXT, "a dog ran away"]])
    assert "nrefs:var" in found.signature and 0 < found.score < 100
    perfect = corpus_bleu([TEXT, TEXT], [["something else"] * 2 + [TEXT], [TEXT]])
    assert perfect.score == pytest.approx(100)


def test_case_and_tokenizer_are_options_and_recorded():
    pytest.importorskip("sacrebleu")
    upper = corpus_bleu([TEXT.upper()], [[TEXT]])
    lower = corpus_bleu([TEXT.upper()], [[TEXT]], lowercase=True)
    assert upper.score == 0 and lower.score == pytest.approx(100)
    assert "case:mixed" in upper.signature and "case:lc" in lower.signature
    assert "tok:none" in corpus_bleu([TEXT], [[TEXT]], tokenize="none").signature
    with pytest.raises(LoraxError, match="tokenize is 'words': expected one of .*'13a'"):
        corpus_bleu([TEXT], [[TEXT]], tokenize="words")


def test_a_tokenizer_that_is_not_installed_is_told():
    pytest.importorskip("sacrebleu")
    if "MeCab" in sys.modules or __import__("importlib.util").util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    with pytest.raises(LoraxError, match="cannot tokenize with 'ja-mecab'"):
        corpus_bleu([TEXT], [[TEXT]], tokenize="ja-mecab")


def test_texts_without_a_word_score_nothing_and_tokenised_ones_are_quiet(capfd):
    pytest.importorskip("sacrebleu")
    assert corpus_bleu(["", ""], [["a b c d"], ["e f g h"]]).score == 0
    assert isinstance(corpus_bleu(["a b c d ."] * 120, [["a b c d ."]] * 120), Bleu)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "texts, groups, words",
    [
        ([], [], "0 texts for 0 groups"),
        (["a"], [["a"], ["b"]], "1 texts for 2 groups"),
        (["a", "b"], [["a"], []], r"of text 1 are \[\]"),
        (["a"], ["a"], "of text 0 are 'a': expected a list"),
        (["a"], [["b", " "]], "not blank"),
    ],
)
def test_groups_that_cannot_be_scored(texts, groups, words):
    for function in (check_groups, corpus_bleu):
        with pytest.raises(LoraxError, match=words):
            function(texts, groups)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(LoraxError, match=r"pip install 'lorax-flax\[eval\]'"):
        corpus_bleu([TEXT], [[TEXT]])
