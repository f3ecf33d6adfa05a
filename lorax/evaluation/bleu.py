"""How close are texts to their references? Corpus BLEU by sacrebleu, with its signature."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lorax.core.errors import LoraxError, check_choice


class Bleu(NamedTuple):
    """``score``, 0 to 100, and sacrebleu's ``signature``, without which it compares to nothing."""

    score: float
    signature: str


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    lowercase: bool = False,
    tokenize: str = "13a",
) -> Bleu:
    """BLEU of a whole corpus, each text against one or several references.

    Args:
      hypotheses: (N,) texts.
      references: (N,) groups of one or more; groups may differ in size.
      lowercase: compare without case.
      tokenize: sacrebleu's name of a tokenizer, "13a" or "none" say.

    Raises:
      LoraxError: no texts, as many groups as texts are not there, a text without a reference, a
        tokenizer that is unknown or not installed, or sacrebleu is missing.

    Source: Papineni et al. (2002); Post, "A Call for Clarity in Reporting BLEU Scores",
    arXiv:1804.08771. The official E2E scorer tokenises otherwise: its BLEU is another number.
    """
    check_groups(hypotheses, references)
    scorer = _scorer(lowercase, tokenize)
    most = max(map(len, references))
    # sacrebleu wants the first references of all texts, then the second ones; None where none is
    streams = [[group[i] if i < len(group) else None for group in references] for i in range(most)]
    score = scorer.corpus_score(list(hypotheses), streams).score
    return Bleu(float(score), str(scorer.get_signature()))


def check_groups(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises LoraxError unless each of the texts, of which there are some, has references."""
    if isinstance(references, str) or len(hypotheses) != len(references) or not len(hypotheses):
        raise LoraxError(
            f"{len(hypotheses)} texts for {len(references)} groups of references: expected as "
            "many, and at least one"
        )
    for number, group in enumerate(references):
        if isinstance(group, str) or not len(group) or not all(map(str.strip, group)):
            raise LoraxError(
                f"the references of text {number} are {group!r}: expected a list of one or more "
                "texts that are not blank"
            )


def _scorer(lowercase: bool, tokenize: str) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise LoraxError("BLEU needs sacrebleu: pip install 'lorax-flax[eval]'") from None
    check_choice("tokenize", tokenize, tuple(BLEU.TOKENIZERS))
    try:
        # force: data that is tokenised already is no reason to print a warning
        return BLEU(lowercase=lowercase, tokenize=tokenize, force=True)
    except (ImportError, RuntimeError, OSError) as error:
        raise LoraxError(
            f"sacrebleu cannot tokenize with '{tokenize}' ({' '.join(str(error).split())}): "
            'install what it asks for, or choose "13a"'
        ) from None
