"""Which GPT-2? Its configuration and its published sizes."""

import dataclasses
from typing import Any, ClassVar

from lorax.models.config import TransformerConfig, check_rate


@dataclasses.dataclass(frozen=True)
class GPT2Config(TransformerConfig):
    """Everything that decides the shapes and arithmetic of `GPT2`, besides `TransformerConfig`.

    ``max_length`` is the context in tokens and the number of rows of the table of positions,
    ``hidden_dim`` the width inside the feed-forward (None: ``4 * dim``), ``dropout`` the rate on
    the embeddings, the attention weights and what each half of a layer adds to the stream.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """

    max_length: int = 1024
    hidden_dim: int = None  # type: ignore[assignment]  # never None once __post_init__ has run
    dropout: float = 0.0
    tied: bool = dataclasses.field(default=True, kw_only=True)

    _SIZES: ClassVar[tuple[str, ...]] = (*TransformerConfig._SIZES, "max_length", "hidden_dim")

    def __post_init__(self) -> None:
        if self.hidden_dim is None and isinstance(self.dim, int):
            object.__setattr__(self, "hidden_dim", 4 * self.dim)
        super().__post_init__()
        check_rate("dropout", self.dropout)

    @property
    def kv_heads(self) -> int:
        """Key-value heads, one a query head."""
        return self.heads


GPT2_TOY = GPT2Config(256, 64, 2, 4, max_length=128)
"""0.1M parameters on bytes: for tests."""

GPT2_SMALL = GPT2Config(50257, 768, 12, 12)
"""124M: Radford et al., table 2; the sizes of the published checkpoints, counted in full."""

# From here on a model is too large to compile layer by layer or to keep every activation.
_LARGE: dict[str, Any] = {"scan": True, "remat": True}

GPT2_MEDIUM = GPT2Config(50257, 1024, 24, 16, **_LARGE)
"""355M: as `GPT2_SMALL`, scanned and rematerialised."""

GPT2_LARGE = GPT2Config(50257, 1280, 36, 20, **_LARGE)
"""774M: as `GPT2_MEDIUM`."""

GPT2_XL = GPT2Config(50257, 1600, 48, 25, **_LARGE)
"""1.6B: as `GPT2_MEDIUM`."""
