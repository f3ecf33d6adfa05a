"""Is a program causal? What stands after a token must not change that token's logits.

Without a cache the rows are padded on the right and computed anew for each token; a program that
looks ahead, a masked language model for instance, would answer nonsense without a complaint.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from lorax.core.adapter import Base, Delta
from lorax.core.errors import LoraxError
from lorax.generation.program import Program

TOLERANCE = 1e-3
"""Of the largest logit. One compiled program on other padding differs by nothing if it is causal,
and by far more if it is not."""

PADDINGS = (0, 1)
"""Ids that are put behind the prompt, one after the other; both lie in every vocabulary."""


def check_causal(program: Program, base: Base, delta: Delta, prompt: Sequence[int]) -> None:
    """Raises LoraxError if the logits of `prompt` change with what stands behind it.

    Computes it twice, with one compiled program for each power of two of its length.
    """
    slots = max(16, 1 << len(prompt).bit_length())
    if program.max_length is not None:
        slots = min(slots, program.max_length)
    first, second = (
        np.asarray(_logits(program, base, delta, _padded(prompt, slots, token))[0, : len(prompt)])
        for token in PADDINGS
    )
    largest = np.nanmax(np.abs(first), initial=0.0)
    # NaN on both sides is for `generate` to tell
    if np.any(np.abs(first - second) > TOLERANCE * largest):
        raise LoraxError(
            "apply is not causal, the logits of the prompt change with the tokens after it: "
            "expected a causal language model (a masked one such as RoBERTa cannot continue a "
            "text); pass init_cache=False to decode all the same"
        )


def _padded(prompt: Sequence[int], slots: int, token: int) -> np.ndarray:
    return np.asarray([[*prompt, *[token] * (slots - len(prompt))]], np.int32)


@functools.partial(jax.jit, static_argnames="program")
def _logits(program: Program, base: Base, delta: Delta, tokens: jax.Array) -> jax.Array:
    logits = program.logits(program.prepare(base, delta), delta, tokens)
    return logits.astype(jax.numpy.float32)
