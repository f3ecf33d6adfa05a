"""Which optimizer? AdamW under warm-up and cosine decay, the usual choice for fine-tuning."""

import math

import optax

from lorax.core.errors import LoraxError


def warmup_cosine(peak: float, steps: int, warmup: int = 0, final: float = 0.0) -> optax.Schedule:
    """Learning rate: linear from 0 to `peak` in `warmup` steps, then a half cosine to `final`.

    Args:
      peak: the highest rate.
      steps: of the whole run, warm-up included.
      warmup: at most `steps - 1`.
      final: the rate after the last step, as a share of `peak`.

    Raises:
      LoraxError: `peak` is not a positive finite number, or `warmup` leaves no step to decay in.
    """
    if not math.isfinite(peak) or peak <= 0:
        raise LoraxError(f"learning rate is {peak}: expected a positive finite number such as 1e-3")
    if not 0 <= warmup < steps:
        raise LoraxError(
            f"warmup is {warmup} of {steps} steps: expected 0 to {max(steps - 1, 0)}; lower warmup "
            "or raise steps"
        )
    start = 0.0 if warmup else peak
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, steps, final * peak)


def adamw(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float = 0.0, clip: float | None = 1.0
) -> optax.GradientTransformation:
    """AdamW (b1 0.9, b2 0.999), gradients first clipped to a global norm of `clip` unless None.

    For a delta of n bytes its state takes 2 n bytes and one or two int32 counts.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """
    tx = optax.adamw(learning_rate, weight_decay=weight_decay)
    return tx if clip is None else optax.chain(optax.clip_by_global_norm(clip), tx)
