"""Which LLaMA? Its configuration and its public sizes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from lorax.models.config import TransformerConfig, check_positive
from lorax.models.rotary import RopeScaling


@dataclasses.dataclass(frozen=True)
class LlamaConfig(TransformerConfig):
    """Everything that decides the shapes and arithmetic of `Llama`, besides `TransformerConfig`.

    ``kv_heads`` < ``heads`` is grouped-query attention, ``hidden_dim`` the width inside SwiGLU,
    ``max_length`` the context in tokens, ``rope_theta`` the base of the rotary wavelengths,
    ``rope_scaling`` how long ones are stretched (a `RopeScaling`, or a mapping of its fields).

    Source: Touvron et al., "LLaMA", arXiv:2302.13971; grouped queries: Ainslie et al.,
    arXiv:2305.13245.
    """

    kv_heads: int
    hidden_dim: int
    max_length: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    _SIZES: ClassVar[tuple[str, ...]] = (
        *TransformerConfig._SIZES, "kv_heads", "hidden_dim", "max_length"
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        super().__post_init__()
        check_positive("rope_theta", self.rope_theta)
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            raise ValueError(
                f"rope_scaling must be a RopeScaling or None, got {self.rope_scaling!r}: "
                "write RopeScaling(factor=8.0)"
            )
        if self.heads % self.kv_heads:
            divisors = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise ValueError(
                f"heads must be a multiple of kv_heads, got heads={self.heads} and "
                f"kv_heads={self.kv_heads}: set kv_heads to one of {divisors}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"dim / heads must be even for rotary positions, got {self.dim} / {self.heads} = "
                f"{self.head_dim}: set dim={self.heads * (self.head_dim + 1)} or change heads"
            )


TOY = LlamaConfig(256, 96, 3, 4, 2, 224, max_length=256, tied=True)
"""0.3M parameters on bytes: for tests."""

BYTE_1M = LlamaConfig(256, 128, 5, 4, 2, 384, max_length=512, tied=True)
"""1.0M parameters on bytes: pre-trains in about a minute on two CPU cores."""

STORIES_260K = LlamaConfig(512, 64, 5, 8, 4, 172, max_length=512, tied=True)
"""0.26M: Karpathy's smallest TinyStories model (github.com/karpathy/llama2.c)."""

STORIES_15M = LlamaConfig(32000, 288, 6, 6, 6, 768, max_length=256, tied=True)
"""15M: llama2.c's stories15M."""

STORIES_110M = LlamaConfig(32000, 768, 12, 12, 12, 2048, max_length=1024, tied=True)
"""110M: llama2.c's stories110M."""

# From here on a model is too large to compile layer by layer or to keep every activation, and its
# weights are published in 16 bits.
_LARGE: dict[str, Any] = {
    "scan": True,
    "remat": True,
    "dtype": "bfloat16",
    "param_dtype": "bfloat16",
}

TINYLLAMA_1B = LlamaConfig(32000, 2048, 22, 32, 4, 5632, **_LARGE)
"""1.1B with grouped-query attention: Zhang et al., "TinyLlama", arXiv:2401.02385."""

LLAMA_7B = LlamaConfig(32000, 4096, 32, 32, 32, 11008, norm_eps=1e-6, **_LARGE)
"""6.7B: Touvron et al., arXiv:2302.13971, table 2. Scanned, rematerialised, bfloat16."""

LLAMA_13B = LlamaConfig(32000, 5120, 40, 40, 40, 13824, norm_eps=1e-6, **_LARGE)
"""13.0B: as `LLAMA_7B`."""

LLAMA_33B = LlamaConfig(32000, 6656, 60, 52, 52, 17920, norm_eps=1e-6, **_LARGE)
"""32.5B: as `LLAMA_7B`."""

LLAMA_65B = LlamaConfig(32000, 8192, 80, 64, 64, 22016, norm_eps=1e-5, **_LARGE)
"""65.2B: as `LLAMA_7B`, but with the norm_eps of its own checkpoint."""

LLAMA2_7B = LlamaConfig(32000, 4096, 32, 32, 32, 11008, max_length=4096, **_LARGE)
"""6.7B: Touvron et al., "Llama 2", arXiv:2307.09288, table 1."""

LLAMA2_13B = LlamaConfig(32000, 5120, 40, 40, 40, 13824, max_length=4096, **_LARGE)
"""13.0B: as `LLAMA2_7B`."""

LLAMA2_70B = LlamaConfig(32000, 8192, 80, 64, 8, 28672, max_length=4096, **_LARGE)
"""69.0B with grouped-query attention: as `LLAMA2_7B`."""

_LLAMA3: dict[str, Any] = {**_LARGE, "rope_theta": 500000.0}

LLAMA3_8B = LlamaConfig(128256, 4096, 32, 32, 8, 14336, max_length=8192, **_LLAMA3)
"""8.0B: Grattafiori et al., "The Llama 3 Herd of Models", arXiv:2407.21783, table 3."""

LLAMA3_70B = LlamaConfig(128256, 8192, 80, 64, 8, 28672, max_length=8192, **_LLAMA3)
"""70.6B: as `LLAMA3_8B`."""

_LLAMA32: dict[str, Any] = {
    **_LLAMA3,
    "max_length": 131072,
    "rope_scaling": RopeScaling(factor=32.0),
    "tied": True,
}

LLAMA32_1B = LlamaConfig(128256, 2048, 16, 32, 8, 8192, **_LLAMA32)
"""1.2B, tied, with stretched wavelengths: the config published with Llama 3.2."""

LLAMA32_3B = LlamaConfig(128256, 3072, 28, 24, 8, 8192, **_LLAMA32)
"""3.2B: as `LLAMA32_1B`."""
