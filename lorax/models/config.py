"""Which fields do all transformer configs share, and which values make no model?"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jax.typing import DTypeLike

ATTENTIONS = ("auto", "xla", "cudnn")
REMATS = ("full", "dots", "offload")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What `LlamaConfig`, `GPT2Config` and `RobertaConfig` have in common; never used alone.

    ``dim`` is the model width, ``norm_eps`` what normalisation adds to the variance. ``tied`` uses
    the embedding as the head. ``scan`` keeps all layers in one stacked ``layers`` (fast
    compilation). ``remat`` says what is computed again in the backward pass instead of being kept:
    False or "" nothing, True or "full" whole layers (least memory), "dots" all but the products
    with weights, "offload" as "dots" with these kept in the host's memory. ``dtype`` is
    what is computed in and ``param_dtype`` what parameters are initialised in; both are kept as
    names, such as "bfloat16". ``attention`` says who computes attention: "xla", "cudnn" (flash
    attention, on a GPU in 16 bits), or "auto", cuDNN where it can. Hashable, and JSON by `asdict`.

    Raises ValueError, in one line naming the field and the cure, for values that make no model.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    _: dataclasses.KW_ONLY
    norm_eps: float = 1e-5
    tied: bool = False
    scan: bool = False
    remat: bool | str = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"
    attention: str = "auto"

    _SIZES: ClassVar[tuple[str, ...]] = ("vocab_size", "dim", "layers", "heads")

    def __post_init__(self) -> None:
        for name in self._SIZES:
            check_size(name, getattr(self, name))
        check_positive("norm_eps", self.norm_eps)
        for name in ("tied", "scan"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be True or False, got {getattr(self, name)!r}: set {name}=True"
                )
        if not isinstance(self.remat, bool) and self.remat not in ("", *REMATS):
            raise ValueError(
                f"remat must be empty, one of {', '.join(REMATS)}, or a bool, got {self.remat!r}: "
                'set remat="full"'
            )
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, _float_name(name, getattr(self, name)))
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"attention must be one of {', '.join(ATTENTIONS)}, got {self.attention!r}: "
                'set attention="auto"'
            )
        if self.dim % self.heads:
            raise ValueError(
                f"dim must be a multiple of heads, got dim={self.dim} and heads={self.heads}: "
                f"set dim={self.heads * math.ceil(self.dim / self.heads)} or change heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head, ``dim / heads``."""
        return self.dim // self.heads


def check_size(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` of field ``name`` is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(
            f"{name} must be a positive integer, got {value!r}: set {name} to 1 or more"
        )


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` of field ``name`` is a finite number above 0."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}: change {name}")


def check_rate(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` of field ``name`` is a dropout rate, 0 <= rate < 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}: set {name}=0.1")


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
