"""How does lm-eval see an adapted program? As one of its models: log-likelihoods and texts.

Shape suffixes: R rows, T tokens, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.core.adapter import Base, Delta
from lorax.core.errors import LoraxError
from lorax.evaluation.decode import decode
from lorax.evaluation.language import cross_entropies
from lorax.generation.program import Program, make_program

SMALLEST_BUCKET = 16
"""Requests are padded to a power of two, and to no less than this, so that few shapes compile."""

NEW_TOKENS = 256
"""Of an answer where a task does not say; half the model's length where that is less."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def make_lm_eval_model(
    apply: Callable[..., Any],
    base: Base,
    delta: Delta,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    check: Callable[[], None] | None = None,
) -> Any:
    """An `lm_eval.api.model.LM` for `lm_eval.simple_evaluate(model=..., tasks=[...])`.

    Nothing is merged, and each padded length compiles once. A text that is too long loses its
    beginning; one without a context is scored behind the tokenizer's BOS, or else its EOS. Where a
    task samples, the draws depend on `seed`.

    Args:
      apply, base, delta: as for `lorax.generate`.
      tokenizer: with `encode`, `decode`, `bos` and `eos`.
      max_length: most tokens that the program takes; None is what the model's config says.
      batch_size: requests at once.
      seed: of sampled texts.
      check: called after each batch; what it raises ends the evaluation.

    Raises:
      LoraxError: lm-eval is not installed, or nothing says how many tokens the program takes.
    """
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError:
        raise LoraxError("lm-eval is not installed: pip install 'lorax-flax[lm-eval]'") from None
    program = make_program(apply, delta, None, max_length)
    if program.max_length is None:
        raise LoraxError(
            "nothing says how many tokens apply takes: pass max_length=, or a model's own apply"
        )
    cls = type("LoraxLM", (_Methods, TemplateLM), {"__doc__": "A program of JAX for lm-eval."})
    generate = functools.partial(
        decode, apply, base, delta, tokenizer=tokenizer, batch_size=batch_size,
        max_length=program.max_length, check=check,
    )  # fmt: skip
    score = functools.partial(_log_likelihoods, program, base, delta, batch_size, check)
    return cls(tokenizer, program.max_length, score, generate, seed)


class _Methods:
    """What lm-eval calls; joined with its base class when that is there."""

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        score: Callable[..., list[tuple[float, bool]]],
        generate: Callable[..., list[str]],
        seed: int,
    ):
        super().__init__()
        self._tokenizer, self._seed = tokenizer, seed
        self._score, self._generate = score, generate
        self.max_length = max_length

    @property
    def eot_token_id(self) -> int | None:
        return self._tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        for token in (self._tokenizer.bos, self._tokenizer.eos):
            if token is not None:
                return token
        raise LoraxError(
            "this task scores texts without a context and the tokenizer has neither BOS nor EOS to "
            "stand before them: choose another task, or a tokenizer that has one"
        )

    @property
    def tokenizer_name(self) -> str:
        return type(self._tokenizer).__name__

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        bos = self._tokenizer.adds_bos if add_special_tokens is None else add_special_tokens
        return self._tokenizer.encode(string, bos=bos and self._tokenizer.bos is not None)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(c or [self.prefix_token_id], ids) for _, c, ids in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        from lm_eval import utils

        pairs, owners = list[Any](), list[int]()
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            prefix = self.prefix_token_id
            windows = utils.get_rolling_token_windows(ids, prefix, self.max_length, 1)
            found = [utils.make_disjoint_window(window) for window in windows]
            pairs, owners = pairs + found, owners + [number] * len(found)
        totals = np.zeros(len(requests))
        np.add.at(totals, np.asarray(owners, int), [nats for nats, _ in self._score(pairs)])
        return totals.tolist()

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        groups: dict[str, list[int]] = {}
        wanted = [self._settings(request.args[1]) for request in requests]
        for number, settings in enumerate(wanted):
            groups.setdefault(repr(settings), []).append(number)
        found: dict[int, str] = {}
        for numbers in groups.values():
            settings = wanted[numbers[0]]
            room = self.max_length - settings["max_new_tokens"]
            contexts = [self.tok_encode(requests[i].args[0])[-room:] for i in numbers]
            prompts = [ids or [self.prefix_token_id] for ids in contexts]
            if settings.get("temperature"):
                settings = settings | {"key": jax.random.key(self._seed)}
            found |= zip(numbers, self._generate(prompts=prompts, **settings), strict=True)
        return [found[i] for i in range(len(requests))]

    def _settings(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Those of `decode` for what a task asks for."""
        rest = {name: value for name, value in asked.items() if value is not None}
        until = rest.pop("until", [])
        lengths = [int(rest.pop(name)) for name in _LENGTHS if name in rest]
        new = lengths[0] if lengths else min(NEW_TOKENS, self.max_length // 2)
        if new >= self.max_length:
            raise LoraxError(
                f"the task asks for {new} new tokens and the model takes {self.max_length} in all: "
                "give the task a smaller max_gen_toks, or take a longer model"
            )
        temperature = float(rest.pop("temperature", 0.0))
        draws = {name: rest.pop(name) for name in ("top_k", "top_p") if name in rest}
        settings: dict[str, Any] = {
            "until": [until] if isinstance(until, str) else list(until),
            "max_new_tokens": new,
            "beams": int(rest.pop("num_beams", 1)),
        }
        if rest.pop("do_sample", temperature > 0) and temperature > 0:
            settings |= {"temperature": temperature} | draws
        if rest:
            raise LoraxError(
                f"the task asks for {', '.join(sorted(rest))}, which is not supported: leave that "
                "out of its generation_kwargs"
            )
        return settings


def _log_likelihoods(
    program: Program,
    base: Base,
    delta: Delta,
    rows: int,
    check: Callable[[], None] | None,
    pairs: Sequence[tuple[list[int], list[int]]],
) -> list[tuple[float, bool]]:
    """For each (context, continuation) its log-likelihood in nats, and whether greedy gives it."""
    most = program.max_length or 0
    for context, continuation in pairs:
        if len(continuation) > most or not context:
            raise LoraxError(
                f"a text to score has {len(continuation)} tokens behind {len(context)} of context: "
                f"expected at most {most} behind at least one; choose another task, or a longer "
                "model"
            )
    found: dict[int, tuple[float, bool]] = {}
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        arrays = _padded([pairs[i] for i in numbers], rows, most)
        nats, greedy = map(np.asarray, _score(program, base, delta, *arrays))
        if np.isnan(nats).any():
            raise LoraxError(
                "the program gave NaN logits: expected finite ones; look for NaN in base and delta"
            )
        for row, number in enumerate(numbers):
            found[number] = (float(nats[row]), bool(greedy[row]))
        if check is not None:
            check()
    return [found[i] for i in range(len(pairs))]


def _padded(
    pairs: Sequence[tuple[list[int], list[int]]], rows: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs without the last token, what follows each, and where that is the continuation."""
    texts = [[*context, *continuation][-(most + 1) :] for context, continuation in pairs]
    longest = max(len(ids) - 1 for ids in texts)
    width = min(max(SMALLEST_BUCKET, 1 << (longest - 1).bit_length()), most)
    inputs, targets = np.zeros((2, rows, width), np.int32)
    mask = np.zeros((rows, width), bool)
    for row, (ids, (_, continuation)) in enumerate(zip(texts, pairs, strict=True)):
        last = len(ids) - 1
        inputs[row, :last], targets[row, :last] = ids[:-1], ids[1:]
        mask[row, last - len(continuation) : last] = True
    return inputs, targets, mask


@functools.partial(jax.jit, static_argnames="program")
def _score(
    program: Program,
    base: Base,
    delta: Delta,
    inputs_RT: jax.Array,
    targets_RT: jax.Array,
    mask_RT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    logits_RTV = program.logits(program.prepare(base, delta), delta, inputs_RT)
    nats_RT = jnp.where(mask_RT, -cross_entropies(logits_RTV, targets_RT), 0)
    likeliest_RT = jnp.argmax(logits_RTV, axis=-1) == targets_RT
    return nats_RT.sum(axis=1), jnp.all(likeliest_RT | ~mask_RT, axis=1)
