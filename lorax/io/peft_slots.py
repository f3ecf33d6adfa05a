"""Which tensors does one module have, by PEFT's method? A table from our arrays to their tensors.

Theirs are in torch's orientation, so that ours are their transposes, both ways:

  LORA, DORA  A (in, r), B (r, out); of DoRA also m (out,)
  VERA        d (r,), b (out,); A (in, r) and B (r, out) are one pair for the whole model
  LOHA        A1, A2 (in, r), B1, B2 (r, out)
  LOKR        W1 (in1, out1) and W2 (in2, out2), or A2 (in2, r) and B2 (r, out2) in W2's place
  IA3         inputs (in,) or outputs (out,): the gain of one side

Source: github.com/huggingface/peft, version 0.21, tuners/*/layer.py.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorax.adapters.lokr import split
from lorax.io.peft_config import PeftConfig
from lorax.io.peft_names import Tensor

SHARED = ("base_model.vera_A", "base_model.vera_B")
"""Keys of VeRA's frozen A (r, in) and B (out, r), `in` and `out` being the largest of any module,
which takes the first columns and rows."""

Arrays = Mapping[str, np.ndarray]
Matrix = Callable[[], np.ndarray]


class Slot(NamedTuple):
    """A tensor of a module.

    Attributes:
      name: of our array.
      key: the tensor's canonical key, "model.layers.0.self_attn.q_proj.lora_A.weight".
      shape: the tensor's.
    """

    name: str
    key: str
    shape: tuple[int, ...]


# Our array, their suffix, the sides of their tensor.
_Rows = tuple[tuple[str, str, str], ...]
_LINEAR: _Rows = (("A", "lora_A.weight", "r in"), ("B", "lora_B.weight", "out r"))
_LOOKUP: _Rows = (("A", "lora_embedding_A", "r in"), ("B", "lora_embedding_B", "out r"))
_MAGNITUDE: _Rows = (("m", "lora_magnitude_vector", "out"),)
_LOHA: _Rows = (
    ("A1", "hada_w1_b", "r in"),
    ("B1", "hada_w1_a", "out r"),
    ("A2", "hada_w2_b", "r in"),
    ("B2", "hada_w2_a", "out r"),
)
_VERA: _Rows = (("d", "vera_lambda_d", "r"), ("b", "vera_lambda_b", "out"))
_LOKR: dict[tuple[int, bool], _Rows] = {  # by the factor and whether it is whole
    (1, True): (("W1", "lokr_w1", "out1 in1"),),
    (1, False): (("A1", "lokr_w1_b", "r in1"), ("B1", "lokr_w1_a", "out1 r")),
    (2, True): (("W2", "lokr_w2", "out2 in2"),),
    (2, False): (("A2", "lokr_w2_b", "r in2"), ("B2", "lokr_w2_a", "out2 r")),
}
_IA3: dict[bool, _Rows] = {  # by whether the module is a feed-forward one
    True: (("inputs", "ia3_l", "1 in"),),
    False: (("outputs", "ia3_l", "out 1"),),
}


def slots(config: PeftConfig, tensor: Tensor, rank: int) -> tuple[Slot, ...]:
    """The tensors on the module of `tensor`, a matrix, where its rank is `rank`."""
    fan_in, fan_out = tensor.sides
    sides = {"in": fan_in, "out": fan_out, "r": rank, "1": 1}
    if config.method == "LOKR":
        sides |= _kronecker_sides(fan_in, fan_out, config.own["decompose_factor"])
    rows = _rows(config, tensor, sides)
    shape = lambda text: tuple(sides[side] for side in text.split())
    return tuple(Slot(name, f"{tensor.module}.{end}", shape(text)) for name, end, text in rows)


def _rows(config: PeftConfig, tensor: Tensor, sides: Mapping[str, int]) -> _Rows:
    method, own = config.method, config.own
    if method in ("LORA", "DORA"):
        pair = _LOOKUP if tensor.kind == "embedding" else _LINEAR
        return pair + (_MAGNITUDE if method == "DORA" else ())
    if method == "LOKR":
        r, whole1 = sides["r"], not own["decompose_both"]
        first = whole1 or r >= max(sides["out1"], sides["in1"]) / 2
        second = r >= max(sides["out2"], sides["in2"]) / 2
        return _LOKR[1, first] + _LOKR[2, second]
    if method == "IA3":
        return _IA3[is_feedforward(own["feedforward_modules"], tensor.module)]
    return {"LOHA": _LOHA, "VERA": _VERA}[method]


def is_feedforward(names: Any, module: str) -> bool:
    """Whether IA3 scales the inputs of `module` instead of its outputs: by the end of its name."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return module.endswith(tuple(names or ()))


def _kronecker_sides(fan_in: int, fan_out: int, factor: int) -> dict[str, int]:
    """The sides of the two matrices whose Kronecker product is (in, out), as LyCORIS splits."""
    (in1, in2), (out1, out2) = (split(side, factor) for side in (fan_in, fan_out))
    return {"in1": in1, "in2": in2, "out1": out1, "out2": out2}


def ours(method: str, tensors: Arrays, matrix: Matrix) -> dict[str, np.ndarray]:
    """Our arrays of a module from its tensors, both by our names.

    What we count from where training starts is absolute in a file: the gains of IA3 from 1, the m
    of DoRA from the norms of the base's columns.

    Args:
      matrix: gives the base's matrix (in, out); asked for DoRA alone.
    """
    found = {name: array.T for name, array in tensors.items()}
    if method == "LOKR" and "A1" in found:  # W1 = A1 B1, which is one matrix here
        return {"W1": found.pop("A1") @ found.pop("B1"), **found}
    start = _start(method, matrix)
    return {name: x.reshape(-1) - start[name] if name in start else x for name, x in found.items()}


def theirs(
    method: str, arrays: Arrays, own: Sequence[Slot], matrix: Matrix
) -> dict[str, np.ndarray]:
    """The tensors of a module from our arrays, by canonical key: the inverse of `ours`."""
    start = _start(method, matrix)
    shifted = {name: x + start[name] if name in start else x for name, x in arrays.items()}
    return {slot.key: shifted[slot.name].T.reshape(slot.shape) for slot in own}


def _start(method: str, matrix: Matrix) -> dict[str, Any]:
    if method == "DORA":
        return {"m": np.linalg.norm(matrix().astype(np.float32), axis=0)}
    return {"inputs": np.float32(1), "outputs": np.float32(1)} if method == "IA3" else {}
