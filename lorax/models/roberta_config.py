"""Which RoBERTa? Its configuration and its published sizes."""

import dataclasses
from typing import Any, ClassVar

from lorax.models.config import TransformerConfig, check_rate, check_size

HEADS = ("none", "classification", "masked_lm")


@dataclasses.dataclass(frozen=True)
class RobertaConfig(TransformerConfig):
    """Everything that decides the shapes and arithmetic of `Roberta`, besides `TransformerConfig`.

    ``hidden_dim`` is the width inside the feed-forward; ``max_length`` the context in tokens (the
    table of positions has ``pad_id + 1`` rows more); ``types`` the number of token types;
    ``pad_id`` the token that is padding; ``dropout`` the rate on the embeddings, the attention
    weights, what each half of a layer adds, and in the classifier. ``head`` is "none" (hidden
    states), "classification" (``labels`` classes; one label is regression) or "masked_lm" (logits
    over the vocabulary, by the embedding itself if ``tied``).

    Source: Liu et al., "RoBERTa", arXiv:1907.11692.
    """

    hidden_dim: int
    max_length: int = 512
    types: int = 1
    pad_id: int = 1
    dropout: float = 0.0
    head: str = "none"
    labels: int = 2
    tied: bool = dataclasses.field(default=True, kw_only=True)

    _SIZES: ClassVar[tuple[str, ...]] = (
        *TransformerConfig._SIZES, "hidden_dim", "max_length", "types", "labels"
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate("dropout", self.dropout)
        if self.head not in HEADS:
            raise ValueError(
                f"head must be one of {', '.join(HEADS)}, got {self.head!r}: "
                'set head="classification"'
            )
        if self.pad_id != 0:
            check_size("pad_id", self.pad_id)
        if self.pad_id >= self.vocab_size:
            raise ValueError(
                f"pad_id must be below vocab_size={self.vocab_size}, got {self.pad_id}: "
                "set pad_id to the tokenizer's padding token"
            )

    @property
    def position_rows(self) -> int:
        """Rows of the table of positions: ``max_length + pad_id + 1``; the first are padding's."""
        return self.max_length + self.pad_id + 1


ROBERTA_TOY = RobertaConfig(256, 64, 2, 4, 128, max_length=128)
"""0.1M parameters: for tests."""

ROBERTA_BASE = RobertaConfig(50265, 768, 12, 12, 3072)
"""124M: Liu et al., arXiv:1907.11692, section 5."""

# Too large to compile layer by layer or to keep every activation.
_LARGE: dict[str, Any] = {"scan": True, "remat": True}

ROBERTA_LARGE = RobertaConfig(50265, 1024, 24, 16, 4096, **_LARGE)
"""354M: as `ROBERTA_BASE`, scanned and rematerialised."""
