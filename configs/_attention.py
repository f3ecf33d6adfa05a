"""Which matrices of attention does a sweep adapt? Those that letters name, as in the LoRA paper."""

from configs._sweeps import Labelled, label

_NAMES = {"q": "query", "k": "key", "v": "value", "o": "out"}


def attention(letters: str) -> Labelled:
    """`where` for "q,v" say, labelled by it, where q, k and v lie apart, as in RoBERTa and LLaMA.

    Args:
      letters: some of q, k, v and o, with commas.
    """
    names = "|".join(_NAMES[letter] for letter in letters.split(","))
    return label(letters, (rf".*/attention/({names})/kernel",))
