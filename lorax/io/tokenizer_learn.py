"""How is a tokenizer made for a text that has none? Byte-level BPE, learnt from the text."""

from collections.abc import Iterable

from lorax.core.errors import LoraxError
from lorax.io.tokenizer_hf import HFTokenizer, tokenizers_for

SPECIAL = ("<s>", "<pad>", "</s>")
"""Ids 0, 1 and 2, as in RoBERTa: what opens, fills and ends a text."""

SMALLEST = 256 + len(SPECIAL)


def learn_bpe(texts: Iterable[str], pieces: int) -> HFTokenizer:
    """A byte-level BPE of at most `pieces` entries, the 256 bytes and 3 special ones included.

    The same texts in the same order give the same tokenizer. Any text can be encoded.

    Args:
      texts: what is learnt from.
      pieces: size of the vocabulary, at least 259; smaller where the texts hold fewer pairs.

    Raises:
      LoraxError: too few pieces, no text at all, or the tokenizers library is not installed.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, 2.2.
    """
    library = tokenizers_for("learning a tokenizer")
    if pieces < SMALLEST:
        raise LoraxError(
            f"a tokenizer of {pieces} pieces: expected at least {SMALLEST}, the bytes and "
            f"{len(SPECIAL)} special ids; raise the number"
        )
    texts = list(texts)
    if not any(texts):
        raise LoraxError("no text to learn a tokenizer from: expected at least one that is not ''")
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=list(SPECIAL),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    ids = {
        name: inner.token_to_id(token)
        for name, token in zip(("bos", "pad", "eos"), SPECIAL, strict=True)
    }
    return HFTokenizer(inner, ids, adds_bos=True)
