"""How does the learning rate change over a run? Warm-up, then one of three shapes."""

import math

import optax

from lorax.core._jax import is_traced
from lorax.core.errors import LoraxError, check_choice

SCHEDULES = ("linear", "cosine", "constant")


def schedule(
    name: str,
    peak: float,
    steps: int,
    *,
    warmup: int = 0,
    warmup_ratio: float = 0.0,
    final: float = 0.0,
) -> optax.Schedule:
    """Learning rate by the number of updates made: linear from 0 to `peak`, then `name`'s shape.

    Args:
      name: "linear" and "cosine" (half a wave) fall from `peak` to its share `final`, which is
        reached at `steps`; "constant" stays. These are the curves of Hugging Face's schedulers of
        the same names, and linear is that of the LoRA paper.
      peak: the highest rate; a traced number is allowed inside a transformation.
      steps: of the whole run, warm-up included.
      warmup: updates until the peak, fewer than `steps`.
      warmup_ratio: the same as a share of `steps`, rounded up; one of the two.
      final: rate after the last step, as a share of `peak`.

    Raises:
      LoraxError: an unknown name, a peak that is no positive finite number, a warm-up that leaves
        no step after it, or values that contradict each other.
    """
    check_choice("schedule", name, SCHEDULES)
    if not is_traced(peak) and not (math.isfinite(peak) and peak > 0):
        raise LoraxError(f"learning rate is {peak}: expected a positive finite number such as 1e-3")
    if not 0 <= final <= 1 or (name == "constant" and final):
        raise LoraxError(
            f"final is {final} of a {name} schedule: expected a share of the highest rate from 0 "
            "to 1, and 0 with constant, which does not fall"
        )
    warmup = _warmup(steps, warmup, warmup_ratio)
    shapes = {
        "linear": lambda: optax.linear_schedule(1.0, final, steps - warmup),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, steps - warmup, final),
        "constant": lambda: optax.constant_schedule(1.0),
    }
    shape = shapes[name]()
    if warmup:
        shape = optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), shape], [warmup])
    return lambda count: peak * shape(count)


def _warmup(steps: int, warmup: int, ratio: float) -> int:
    if warmup and ratio:
        raise LoraxError(
            f"warmup is {warmup} and warmup_ratio {ratio}: expected one of them, the other 0"
        )
    if not 0 <= ratio < 1:
        raise LoraxError(f"warmup_ratio is {ratio}: expected at least 0 and below 1, 0.06 say")
    if not 0 <= warmup < steps:
        raise LoraxError(
            f"warmup is {warmup} of {steps} steps: expected 0 to {max(steps - 1, 0)}; lower warmup "
            "or raise steps"
        )
    return min(math.ceil(ratio * steps), steps - 1) if ratio else warmup
