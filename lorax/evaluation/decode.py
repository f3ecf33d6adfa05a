"""What does a program answer to each prompt? Texts, decoded in batches of like length."""

from collections.abc import Callable, Sequence
from typing import Any

from lorax.core.adapter import Base, Delta
from lorax.generation.generate import added_text, generate
from lorax.generation.request import read_prompt


def decode(
    apply: Callable[..., Any],
    base: Base,
    delta: Delta,
    prompts: Sequence[str | Sequence[int]],
    tokenizer: Any,
    *,
    max_new_tokens: int,
    until: Sequence[str] = ("\n",),
    batch_size: int = 16,
    bos: bool | None = None,
    check: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[str]:
    """The answer to each prompt as text, in their order; as the model gives it, spaces included.

    Prompts of like length share a batch, and a last batch is filled up, so that there are few
    padded tokens and at most one compilation a power of two of length.

    Args:
      apply, base, delta, max_new_tokens, bos: as for `lorax.generate`.
      prompts: texts, or ids; not empty.
      tokenizer: as for `lorax.generate`; its `eos`, if it has one, ends an answer.
      until: texts that end an answer and are no part of it; by default an answer is one line.
      batch_size: prompts at once.
      check: called after each batch; what it raises ends the work.
      progress: called after each batch with the numbers of prompts done and of all.
      **settings: others of `lorax.generate`: `beams`, `temperature` with `key`, `max_length` ...

    Raises:
      LoraxError, LoraxTypeError: as `lorax.generate`.
    """
    ids = [read_prompt(i, prompt, tokenizer, bos) for i, prompt in enumerate(prompts)]

    def after_batch(done: int) -> None:
        if progress is not None:
            progress(done, len(ids))
        if check is not None:
            check()

    answers = generate(
        apply,
        base,
        delta,
        ids,
        max_new_tokens=max_new_tokens,
        batch_size=min(batch_size, len(ids)) or 1,
        stop=_stop_ids(tokenizer, until, settings.get("beams", 1)),
        after_batch=after_batch,
        **settings,
    )
    texts = (added_text(tokenizer, *pair) for pair in zip(ids, answers, strict=True))
    return [before(text, until) for text in texts]


def before(text: str, until: Sequence[str]) -> str:
    """What of `text` comes before the first of the texts `until`; all of it where none is in it."""
    return text[: min((text.find(end) for end in until if end and end in text), default=None)]


def _stop_ids(tokenizer: Any, until: Sequence[str], beams: int) -> list[int]:
    """Ids after which nothing is worth computing.

    An end that is one token saves the tokens after it. Not with beams, where a stop token also
    enters the score of its beam: there the tokenizer's `eos` alone stops.
    """
    eos = getattr(tokenizer, "eos", None)
    stop = [] if eos is None else [eos]
    for text in until if beams == 1 else ():
        ids = tokenizer.encode(text)
        if len(ids) == 1 and tokenizer.decode(ids) == text:
            stop.append(ids[0])
    return stop
