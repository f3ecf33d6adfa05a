"""How is a prompt continued? `lorax.generate`: greedy, sampled, or by beam search."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.adapter import Base, Delta
from lorax.core.errors import LoraxError
from lorax.generation import request as asked
from lorax.generation.beam import search_rows
from lorax.generation.causal import check_causal
from lorax.generation.program import Program, make_program
from lorax.generation.sampling import Result, continue_rows


def generate(
    apply: Callable[..., Any],
    base: Base,
    delta: Delta,
    prompts: Sequence[Any],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    ngram_prompt: bool = True,
    stop: int | Sequence[int] | None = None,
    key: jax.Array | None = None,
    tokenizer: Any = None,
    bos: bool | None = None,
    batch_size: int | None = None,
    init_cache: Any = None,
    max_length: int | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> list[Any]:
    """The continuation of each prompt: new tokens alone, up to a stop token, which is cut off.

    The whole loop is one compiled program, which ends as soon as every row has. It is compiled
    once for each number of rows and padded length (powers of two from 16); another delta, base,
    key, temperature, top_k, top_p or length penalty does not compile anew. Nothing is merged.

    Args:
      apply: `lorax.adapt(model.apply, adapter)`, or a function of (base, delta, tokens); with
        `delta` None, one of (base, tokens): `model.apply` itself. Logits (rows, tokens, vocabulary)
        come out.
      base: the frozen parameters, prepared by `adapter.prepare` or not.
      delta: the trained part, or None.
      prompts: lists of token ids, or strings, which `tokenizer` encodes; not empty.
      max_new_tokens: at most so many for each prompt.
      temperature: 0 takes the likeliest token; above, tokens are drawn from
        softmax(logits / temperature) with `key`.
      top_k, top_p: with a temperature, draw from the k likeliest; from the fewest whose
        probabilities reach p (after temperature and top_k).
      beams: above 1, beam search with so many: the continuation with the highest sum of
        log-probabilities / length**length_penalty, where the length counts new tokens and the
        stop token (Hugging Face's convention, with its `early_stopping=False`: a row goes on until
        it has `beams` finished candidates, the worst no worse than the best unfinished one).
      length_penalty: of beams, the exponent above, above 0 in favour of longer ones.
      no_repeat_ngram: n of the n-grams that may not come twice in a row of tokens; 0 for none.
      ngram_prompt: do the prompt's n-grams count (as in Hugging Face's), or only new ones (as in
        the LoRA paper's script)?
      stop: ids that end a row, no text. None is the tokenizer's `eos`, if any; () lets every row
        run on.
      key: of the draws. Row i's depend on the key and on i only, not on the other prompts.
      tokenizer: with `encode`, `decode` and `eos`, such as `lorax.io.tokenizer.load_tokenizer`
        returns; needed for strings.
      bos: whether strings are encoded with the tokenizer's BOS; None is what the tokenizer says.
      batch_size: rows at once; None is all of them. Prompts of like length go together, and a
        last batch is filled up, so that it does not compile anew.
      init_cache: (batch, slots) to an empty key-value cache. None takes `init_cache` of the model
        whose method `apply` is; False, or a program without one, computes everything anew for each
        token, with the rows padded on the right, which takes a causal program. None checks that
        on the first prompt, also of a plain function; False does not. With a cache the program
        is called with keywords `mask` (rows, tokens), false at padding on the left, and
        `cache`, and returns (logits, cache).
      max_length: most tokens that the program takes; None is what the model's config says, less the
        virtual tokens of the adapter.
      after_batch: called after each batch with the number of prompts done so far; what it raises
        ends the work.

    Returns:
      For each prompt a list of ids; a string where the prompt was one.

    Raises:
      LoraxError, LoraxTypeError: a prompt that is empty, too long or outside the vocabulary, a
        setting out of range or without effect, settings that exclude each other, a program that is
        not causal, or NaN logits.
    """
    settings = asked.Settings(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        beams,
        length_penalty,
        no_repeat_ngram,
        ngram_prompt,
        batch_size,
        key,
    )
    prompts = asked.as_list(prompts)
    ids = [asked.read_prompt(i, prompt, tokenizer, bos) for i, prompt in enumerate(prompts)]
    program = make_program(apply, delta, init_cache, max_length)
    asked.check_prompts(ids, max_new_tokens, program)
    stop_ids = asked.read_stop(stop, tokenizer, program)
    if ids and init_cache is None and program.init_cache is None:
        check_causal(program, base, delta, ids[0])
    answers = _continued(program, base, delta, ids, settings, stop_ids, after_batch)
    return [
        added_text(tokenizer, ids[i], answer) if isinstance(prompts[i], str) else answer
        for i, answer in enumerate(answers)
    ]


def added_text(tokenizer: Any, prompt: list[int], answer: list[int]) -> str:
    """What the ids of an answer add to the text of those of the prompt.

    Decoding it alone would lose a space in front with vocabularies that open every text with one.
    """
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *answer])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(answer)


def _continued(
    program: Program,
    base: Base,
    delta: Delta,
    prompts: list[list[int]],
    settings: asked.Settings,
    stop: np.ndarray,
    after_batch: Callable[[int], None] | None,
) -> list[list[int]]:
    """The answer to each prompt, batch by batch."""
    limit = settings.max_new_tokens
    answers: dict[int, list[int]] = {}
    for numbers in asked.batches(prompts, settings.batch_size):
        members = [prompts[i] for i in numbers]
        rows = settings.batch_size or len(members)
        width, new = asked.shape_of(max(map(len, members)), limit, program.max_length)
        request = asked.make_request(members, rows, width, limit, stop)
        plan = settings.plan(new)
        if plan.beams > 1:
            penalty = jnp.float32(settings.length_penalty)
            result = search_rows(program, plan, base, delta, request, penalty)
        else:
            draw = settings.draw(numbers, rows)
            result = continue_rows(program, plan, base, delta, request, draw)
        answers |= zip(numbers, _answers(result, numbers), strict=True)
        if after_batch is not None:
            after_batch(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _answers(result: Result, numbers: list[int]) -> list[list[int]]:
    """The rows of a batch as lists, without what fills them up."""
    tokens, kept, broken = (np.asarray(part) for part in result)
    for row, number in enumerate(numbers):
        if broken[row]:
            raise LoraxError(
                f"the program gave NaN logits for prompt {number}: expected finite ones; look for "
                "NaN in base and delta, or for a prompt beyond the program's length"
            )
    return [tokens[row, : kept[row]].tolist() for row in range(len(numbers))]
