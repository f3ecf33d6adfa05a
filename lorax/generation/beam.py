"""Which continuation is likeliest as a whole? Beam search, one compiled loop.

Shape suffixes: R rows, K beams, C candidates, P prompt (padded), N new tokens (padded), S = P + N
slots, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.core.adapter import Base, Delta
from lorax.generation.choose import is_any_of, without_repeats
from lorax.generation.program import Program, left_padded
from lorax.generation.sampling import Plan, Request, Result


class _Beams(NamedTuple):
    tokens: jax.Array  # (R, K, S), the prompt on the left
    scores: jax.Array  # (R, K), best first; -inf where there is none


class _Finished(NamedTuple):
    tokens: jax.Array  # (R, K, N)
    scores: jax.Array  # (R, K), with the length penalty, best first; -inf where there is none
    kept: jax.Array  # (R, K) tokens, without the stop token


class _State(NamedTuple):
    step: jax.Array  # tokens chosen so far
    running: _Beams
    finished: _Finished
    open: jax.Array  # (R,) can the row's answer still improve?
    broken: jax.Array  # (R,)
    memory: Any


@functools.partial(jax.jit, static_argnames=("program", "plan"))
def search_rows(
    program: Program, plan: Plan, base: Base, delta: Delta, request: Request, penalty: jax.Array
) -> Result:
    """The best finished beam of every row: highest (sum of log-probabilities) / length**penalty.

    Semantics are those of Hugging Face's `generate` with `early_stopping=False`. The length counts
    new tokens, the stop token included. Of the candidates of a step, those among the best K that
    end are kept if they are among the row's best K finished; the best K that do not end run on. A
    row is finished when it has K finished beams and its best running one, scored at its present
    length, is no better than the worst of them; or at `limit`, where all end; or where every token
    of every beam is banned. Banned n-grams lose their probability; the rest is not normalised
    anew.
    """
    width, beams = request.prompts.shape[1], plan.beams
    base = program.prepare(base, delta)
    memory, logits_RV = program.start(
        base, delta, request.prompts, request.lengths, width + plan.new
    )
    memory = program.select(memory, jnp.repeat(jnp.arange(len(logits_RV)), beams), width + plan.new)
    state = _first_state(plan, request, memory)

    def extend(state: _State, logits: jax.Array) -> _State:
        return _extend(program, plan, request, penalty, state, logits)

    def advance(state: _State) -> _State:
        at = width + state.step - 1
        last_RK = jax.lax.dynamic_index_in_dim(state.running.tokens, at, axis=2, keepdims=False)
        memory, logits = program.step(base, delta, state.memory, last_RK.reshape(-1))
        return extend(state._replace(memory=memory), logits)

    unfinished = lambda state: (state.step < request.limit) & jnp.any(state.open)
    state = extend(state, jnp.repeat(logits_RV, beams, axis=0))
    state = jax.lax.while_loop(unfinished, advance, state)
    return Result(state.finished.tokens[:, 0], state.finished.kept[:, 0], state.broken)


def _first_state(plan: Plan, request: Request, memory: Any) -> _State:
    """One beam a row, the prompt; nothing finished."""
    rows, beams, new = len(request.prompts), plan.beams, plan.new
    padded_RP, _ = left_padded(request.prompts, request.lengths)
    tokens_RS = jnp.pad(padded_RP, ((0, 0), (0, new)))
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    return _State(
        step=jnp.zeros((), jnp.int32),
        running=_Beams(jnp.repeat(tokens_RS[:, None], beams, axis=1), jnp.tile(first, (rows, 1))),
        finished=_Finished(
            jnp.zeros((rows, beams, new), jnp.int32),
            jnp.full((rows, beams), -jnp.inf),
            jnp.zeros((rows, beams), jnp.int32),
        ),
        open=request.live,
        broken=jnp.zeros(rows, bool),
        memory=memory,
    )


def _extend(
    program: Program,
    plan: Plan,
    request: Request,
    penalty: jax.Array,
    state: _State,
    logits: jax.Array,
) -> _State:
    """One more token for every beam; ``logits`` (R K, V)."""
    rows, beams = state.running.scores.shape
    width = request.prompts.shape[1]
    step = state.step + 1
    candidates, parents_RC = _candidates(plan, request, state, logits)
    last_RC = jax.lax.dynamic_index_in_dim(
        candidates.tokens, width + state.step, axis=2, keepdims=False
    )
    stopped_RC = is_any_of(last_RC, request.stop)
    ended_RC = stopped_RC | (step >= request.limit)

    length_penalty = step.astype(jnp.float32) ** penalty
    best = jnp.arange(ended_RC.shape[1]) < beams
    taken = ended_RC & best & state.open[:, None]
    ended = _Finished(
        candidates.tokens[:, :, width:],
        jnp.where(taken, candidates.scores / length_penalty, -jnp.inf),
        step - stopped_RC,
    )
    finished = _best_finished(state.finished, ended, _stuck(state, candidates, penalty, width))
    scores_RK, kept_RK = jax.lax.top_k(jnp.where(ended_RC, -jnp.inf, candidates.scores), beams)
    running = _Beams(_rows_of(candidates.tokens, kept_RK), scores_RK)
    source = jnp.arange(rows)[:, None] * beams + _rows_of(parents_RC, kept_RK)
    nan_R = jnp.any(jnp.isnan(logits).reshape(rows, -1), axis=-1)
    broken = state.broken | (state.open & nan_R)
    improves = scores_RK[:, 0] / length_penalty > jnp.min(finished.scores, axis=1)
    return _State(
        step=step,
        running=running,
        finished=finished,
        open=state.open & improves & ~broken,
        broken=broken,
        memory=program.select(state.memory, source.reshape(-1), width + plan.new),
    )


def _candidates(
    plan: Plan, request: Request, state: _State, logits: jax.Array
) -> tuple[_Beams, jax.Array]:
    """The best continuations by one token, enough that K of them do not end; and whose they are."""
    rows, beams, slots = state.running.tokens.shape
    width = request.prompts.shape[1]
    end = width + state.step
    begin_R = width - request.lengths if plan.ngram_prompt else jnp.full(rows, width)
    log_probabilities = without_repeats(
        jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1),
        state.running.tokens.reshape(-1, slots),
        jnp.repeat(begin_R, beams),
        end,
        size=plan.ngram,
    )
    vocabulary = logits.shape[-1]
    scores_RKV = state.running.scores[:, :, None] + log_probabilities.reshape(rows, beams, -1)
    number = min(beams * max(2, 1 + len(request.stop)), beams * vocabulary)
    scores_RC, flat_RC = jax.lax.top_k(scores_RKV.reshape(rows, -1), number)
    parents_RC = flat_RC // vocabulary
    tokens_RCS = jax.lax.dynamic_update_slice(
        _rows_of(state.running.tokens, parents_RC), (flat_RC % vocabulary)[:, :, None], (0, 0, end)
    )
    return _Beams(tokens_RCS, scores_RC), parents_RC


def _stuck(state: _State, candidates: _Beams, penalty: jax.Array, width: int) -> _Finished:
    """The running beams of rows where every token of every beam is banned: they end as they are."""
    stuck_R1 = (state.open & jnp.all(candidates.scores == -jnp.inf, axis=1))[:, None]
    length_penalty = jnp.maximum(state.step, 1).astype(jnp.float32) ** penalty
    scores_RK = jnp.where(stuck_R1, state.running.scores / length_penalty, -jnp.inf)
    kept_RK = jnp.full(scores_RK.shape, state.step)
    return _Finished(state.running.tokens[:, :, width:], scores_RK, kept_RK)


def _best_finished(*parts: _Finished) -> _Finished:
    """The best K of all, the first among equals; K is what the first part has."""
    merged = jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *parts)
    scores_RK, kept_RK = jax.lax.top_k(merged.scores, parts[0].scores.shape[1])
    return _Finished(_rows_of(merged.tokens, kept_RK), scores_RK, _rows_of(merged.kept, kept_RK))


def _rows_of(array: jax.Array, index: jax.Array) -> jax.Array:
    """``array[r, index[r, c]]`` for every r and c."""
    return jax.vmap(lambda one, at: one[at])(array, index)
