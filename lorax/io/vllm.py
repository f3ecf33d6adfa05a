"""What of an adapter does vLLM serve? One rank and one scale for all of Llama's matrices.

vLLM reads r, lora_alpha, use_rslora and target_modules of adapter_config.json and passes over
rank_pattern and alpha_pattern in silence; it refuses trained biases and whole modules.
Source: github.com/vllm-project/vllm, vllm/lora/peft_helper.py, lora_model.py and config/lora.py.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorax.core.errors import LoraxError
from lorax.io.names import architecture
from lorax.io.pairs import Pair, Parts
from lorax.io.parts import check_plain
from lorax.io.peft_names import Tensor, matrices

MAX_RANK = 512
"""The largest `--max-lora-rank` that vLLM takes."""

_MERGE = "merge it and serve the merged model (lorax.io.pretrained.save)"


def for_vllm(model: Any, table: Mapping[str, Tensor], parts: Parts) -> Parts:
    """`parts` with one rank and one scale: the same updates, in the form that vLLM applies.

    Where ranks or scales differ, A and B get zeros up to the largest rank, each B its own scale,
    and alpha becomes r, so that the common scale is 1. Nothing changes where they agree.

    Raises:
      LoraxError: something that vLLM does not serve; it is named.
    """
    if architecture(model) != "llama":
        raise LoraxError(
            f"target='vllm' with a {type(model).__name__}: vLLM applies adapters to Llama alone of "
            f"these models; {_MERGE}"
        )
    check_plain(parts, "vLLM")
    for name in parts.whole:
        raise LoraxError(
            f"'{table[name].path}' is trained whole: vLLM serves low-rank updates alone, no "
            f"modules_to_save and no biases; {_MERGE}"
        )
    weights = matrices(table)
    tied = [weights[name].path for name in parts.pairs if weights[name].tied]
    if tied:
        raise LoraxError(f"'{tied[0]}' is tied, which vLLM cannot adapt as one; {_MERGE}")
    rank = max(pair.rank for pair in parts.pairs.values())
    if rank > MAX_RANK:
        raise LoraxError(f"rank is {rank}: vLLM serves at most {MAX_RANK}; {_MERGE}")
    forms = {(pair.rank, pair.alpha) for pair in parts.pairs.values()}
    if len(forms) == 1:
        alpha = next(iter(forms))[1]
        return dataclasses.replace(parts, rank=rank, alpha=alpha)
    pairs = {name: _padded(pair, parts.scaling, rank) for name, pair in parts.pairs.items()}
    return dataclasses.replace(parts, pairs=pairs, rank=rank, alpha=float(rank), scaling="standard")


def _padded(pair: Pair, scaling: str, rank: int) -> Pair:
    scale = pair.alpha / (math.sqrt(pair.rank) if scaling == "rslora" else pair.rank)
    more = rank - pair.rank
    scaled = (pair.B.astype(np.float64) * scale).astype(pair.B.dtype)
    return Pair(
        np.pad(pair.A, ((0, more), (0, 0))), np.pad(scaled, ((0, 0), (0, more))), float(rank)
    )
