"""How is a row continued token by token? Greedy decoding and sampling, one compiled loop.

Shape suffixes: R rows, P prompt (padded), N new tokens (padded), S = P + N slots, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.core.adapter import Base, Delta
from lorax.generation.choose import Draw, greedy, is_any_of, sample, without_repeats
from lorax.generation.program import Program, left_padded


class Plan(NamedTuple):
    """What the compiled loop is specialised on; hashable.

    ``new`` is N. ``truncate`` says that top-k or top-p are in use. ``ngram`` is the size of the
    n-grams that may not come twice, 0 for none; ``ngram_prompt`` whether the prompt's count.
    ``beams`` is the width of beam search.
    """

    new: int
    truncate: bool = False
    ngram: int = 0
    ngram_prompt: bool = True
    beams: int = 1


class Request(NamedTuple):
    """What the compiled loop is given; arrays.

    ``prompts`` (R, P) int32 with padding on the right, ``lengths`` (R,) of them without it,
    ``live`` (R,) bool, false for rows that only fill the batch; ``limit`` new tokens at most, an
    integer scalar; ``stop`` (n,) ids.
    """

    prompts: jax.Array
    lengths: jax.Array
    live: jax.Array
    limit: jax.Array
    stop: jax.Array


class Result(NamedTuple):
    """``tokens`` (R, N), of which the first ``kept`` (R,) are the answer; ``broken`` (R,) bool,
    the program gave NaN logits."""

    tokens: jax.Array
    kept: jax.Array
    broken: jax.Array


class _State(NamedTuple):
    step: jax.Array  # tokens chosen so far
    tokens: jax.Array  # (R, S), the prompts on the left
    kept: jax.Array  # (R,) of them before a stop token
    done: jax.Array  # (R,)
    broken: jax.Array  # (R,)
    memory: Any


@functools.partial(jax.jit, static_argnames=("program", "plan"))
def continue_rows(
    program: Program, plan: Plan, base: Base, delta: Delta, request: Request, draw: Draw | None
) -> Result:
    """Continue every row to a stop token, to `limit` tokens, or until every token is banned.

    Without a `draw`, greedily.
    """
    rows, width = request.prompts.shape
    slots = width + plan.new
    base = program.prepare(base, delta)
    padded_RP, _ = left_padded(request.prompts, request.lengths)
    begin_R = width - request.lengths if plan.ngram_prompt else jnp.full(rows, width)

    def extend(state: _State, logits_RV: jax.Array) -> _State:
        """Choose the next token of every row."""
        end = width + state.step
        scores_RV = without_repeats(logits_RV, state.tokens, begin_R, end, size=plan.ngram)
        if draw is None:
            chosen_R = greedy(scores_RV)
        else:
            chosen_R = sample(scores_RV, draw, state.step, truncate=plan.truncate)
        broken = state.broken | (~state.done & jnp.any(jnp.isnan(logits_RV), axis=-1))
        stuck = jnp.all(scores_RV == -jnp.inf, axis=-1)
        done = state.done | broken | stuck | is_any_of(chosen_R, request.stop)
        tokens = jax.lax.dynamic_update_slice(state.tokens, chosen_R[:, None], (0, end))
        return _State(state.step + 1, tokens, state.kept + ~done, done, broken, state.memory)

    def advance(state: _State) -> _State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, width + state.step - 1, 1, axis=1)
        memory, logits_RV = program.step(base, delta, state.memory, last[:, 0])
        return extend(state._replace(memory=memory), logits_RV)

    memory, logits_RV = program.start(base, delta, request.prompts, request.lengths, slots)
    state = _State(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.pad(padded_RP, ((0, 0), (0, plan.new))),
        kept=jnp.zeros(rows, jnp.int32),
        done=~request.live,
        broken=jnp.zeros(rows, bool),
        memory=memory,
    )
    unfinished = lambda state: (state.step < request.limit) & ~jnp.all(state.done)
    state = jax.lax.while_loop(unfinished, advance, extend(state, logits_RV))
    return Result(state.tokens[:, width:], state.kept, state.broken)
