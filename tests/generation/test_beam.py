"""Beam search against a beam in plain Python, and against looking at every continuation."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.generation.generate import generate
from tests.generation.toys import LLAMA, PROMPTS, TOY, banned, llama, logits_after, params, plain

BASE = params(seed=1, size=0.7)


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def continuations(base, prompt, beams, ngram):
    """Every running beam with every next token, best first: (score, ids)."""
    found = []
    for score, ids in beams:
        scores = log_softmax(logits_after(base, prompt + ids).astype(np.float64))
        scores[banned(prompt + ids, ngram)] = -np.inf
        found += [(score + s, [*ids, i]) for i, s in enumerate(scores) if s > -np.inf]
    return sorted(found, key=lambda pair: -pair[0])


def beam_search(base, prompt, new, width, penalty, stop=(), ngram=0):
    """Hugging Face's beam search with early_stopping=False, for one prompt."""
    running, finished = [(0.0, [])], []
    for length in range(1, new + 1):
        found = continuations(base, prompt, running, ngram)
        found = found[: width * max(2, 1 + len(stop))]
        ended = [(s / length**penalty, ids) for s, ids in found[:width]]
        finished += [pair for pair in ended if pair[1][-1] in stop or length == new]
        finished = sorted(finished, key=lambda pair: -pair[0])[:width]
        running = [(s, ids) for s, ids in found if ids[-1] not in stop and length < new][:width]
        full = len(finished) == width
        if not running or (full and running[0][0] / length**penalty <= finished[-1][0]):
            break
    best = finished[0][1]
    return best[:-1] if best[-1] in stop else best


@pytest.mark.parametrize(
    "apply, beams, penalty, stop, ngram",
    [
        (plain, 4, 0.8, (0,), 2),
        (TOY.apply, 10, 0.8, (3,), 4),
        (TOY.apply, 3, -1.0, (0, 1, 2), 0),
        (TOY.apply, 20, 0.0, (7, 0), 0),
    ],
)
def test_equals_a_beam_in_plain_python(apply, beams, penalty, stop, ngram):
    fields = {"beams": beams, "length_penalty": penalty, "stop": stop, "no_repeat_ngram": ngram}
    found = generate(apply, BASE, None, PROMPTS, max_new_tokens=9, **fields)
    expected = [beam_search(BASE, p, 9, beams, penalty, stop, ngram) for p in PROMPTS]
    assert found == expected


def test_wide_enough_it_finds_the_best_of_all():
    base = params(seed=3, vocabulary=4)
    found = generate(plain, base, None, [[1], [2, 3]], max_new_tokens=4, beams=64, stop=())
    for prompt, answer in zip([[1], [2, 3]], found, strict=True):

        def score(ids, prompt=prompt):
            steps = [log_softmax(logits_after(base, prompt + ids[:i]))[ids[i]] for i in range(4)]
            return sum(steps)

        best = max(itertools.product(range(4), repeat=4), key=lambda ids: score(list(ids)))
        assert answer == list(best)


def test_a_row_alone_and_in_a_batch_of_a_llama():
    base, _ = llama()
    fields = {"beams": 4, "length_penalty": 0.8, "no_repeat_ngram": 3, "stop": (0, 1, 2)}
    together = generate(LLAMA.apply, base, None, PROMPTS, max_new_tokens=12, **fields)
    alone = [
        generate(LLAMA.apply, base, None, [p], max_new_tokens=12, batch_size=4, **fields)[0]
        for p in PROMPTS
    ]
    assert together == alone


def test_the_stop_token_may_come_at_once():
    base = params()
    eager = lambda base, tokens: plain(base, tokens).at[..., 0].add(50.0)
    assert generate(eager, base, None, [[1], [2]], max_new_tokens=5, beams=3, stop=0) == [[], []]


def test_every_token_banned_ends_a_row():
    base = params(vocabulary=3)
    fields = {"max_new_tokens": 9, "no_repeat_ngram": 1, "ngram_prompt": False, "stop": ()}
    beam = generate(plain, base, None, [[1], [2]], beams=2, **fields)
    assert [sorted(ids) for ids in beam] == [[0, 1, 2]] * 2


def test_nan_is_told():
    broken = BASE | {"head": jnp.full_like(BASE["head"], jnp.nan)}
    with pytest.raises(ValueError, match="NaN logits for prompt 0"):
        generate(plain, broken, None, [[1], [2]], max_new_tokens=3, beams=2)
