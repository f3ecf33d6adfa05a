"""Training: losses, the pure step, the loop around it, metrics on disk.

from lorax.train.loop import Plan, train
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.schedules import schedule
from lorax.train.step import init_state, make_step

tx = adamw(schedule("linear", 1e-3, steps=400, warmup_ratio=0.06))
step = make_step(next_token_loss(model.apply, adapter), tx, accumulate=2)
state = init_state(delta, tx, jax.random.key(0))
outcome = train(step, state, base, batches, Plan(steps=400))
delta = outcome.state.delta

`batches` yields `lorax.data.batch.Batch`; `lorax.data.text` makes them of a text.
"""
