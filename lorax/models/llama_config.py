"""Which LLaMA? Its configuration, its public sizes, its parameter count."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

_SIZES = ("vocab_size", "dim", "layers", "heads", "kv_heads", "hidden_dim", "max_length")


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Everything that decides the shapes and arithmetic of `Llama`; hashable, and JSON by `asdict`.

    ``dim`` is the model width, ``hidden_dim`` the width inside SwiGLU, ``max_length`` the context
    in tokens, ``rope_theta`` the base of the rotary wavelengths. ``kv_heads`` < ``heads`` is
    grouped-query attention. ``tied`` uses the embedding as the head. ``scan`` keeps all layers in
    one stacked ``layers`` (fast compilation), ``remat`` recomputes each layer in the backward pass
    (little memory). ``dtype`` is what is computed in and ``param_dtype`` what parameters are
    initialised in; both are kept as names, such as "bfloat16".

    Raises ValueError, naming the field and the cure, for values that make no model.
    Source: Touvron et al., "LLaMA", arXiv:2302.13971; grouped queries: Ainslie et al.,
    arXiv:2305.13245.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden_dim: int
    max_length: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = False
    scan: bool = False
    remat: bool = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(
                    f"{name} must be a positive integer, got {value!r}: set {name} to 1 or more"
                )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be a finite number above 0, got {value!r}: change {name}"
                )
        for name in ("tied", "scan", "remat"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be True or False, got {getattr(self, name)!r}: set {name}=True"
                )
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, _float_name(name, getattr(self, name)))
        self._check_heads()

    def _check_heads(self) -> None:
        if self.dim % self.heads:
            raise ValueError(
                f"dim must be a multiple of heads, got dim={self.dim} and heads={self.heads}: "
                f"set dim={self.heads * math.ceil(self.dim / self.heads)} or change heads"
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

    @property
    def head_dim(self) -> int:
        """Width of one head, ``dim / heads``."""
        return self.dim // self.heads


def _float_name(field: str, dtype: DTypeLike) -> str:
    """Canonical name of a floating dtype; ValueError naming ``field`` for anything else."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(
            f'{field} must be a floating dtype, got {dtype!r}: set {field}="float32" or "bfloat16"'
        )
    return found.name


def param_count(config: LlamaConfig) -> int:
    """Number of parameters of ``Llama(config)``, in closed form.

    ``L (2 D D + 2 D K H + 3 D F + 2 D) + V D (1 if tied else 2) + D``: attention, SwiGLU and two
    norms a layer, then embedding, head and final norm. Example: 6,738,415,616 for `LLAMA_7B`.
    """
    dim = config.dim
    attention = 2 * dim * dim + 2 * dim * config.kv_heads * config.head_dim
    layer = attention + 3 * dim * config.hidden_dim + 2 * dim
    tables = config.vocab_size * dim * (1 if config.tied else 2)
    return config.layers * layer + tables + dim


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
