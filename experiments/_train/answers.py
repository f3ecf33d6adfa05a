"""What does the trained model write? Answers to held-out prompts, their scores, and samples."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from lorax.data.e2e import group
from lorax.evaluation import e2e
from lorax.evaluation.bleu import corpus_bleu
from lorax.evaluation.decode import decode
from lorax.evaluation.scores import exact_match
from lorax.train.progress import progress

SAMPLES = "samples.jsonl"


def answer(
    config: Any,
    workdir: pathlib.Path,
    apply: Callable[..., Any],
    base: Any,
    delta: Any,
    tokenizer: Any,
    records: Sequence[Mapping[str, Any]],
    split: str,
    check: Callable[[], None],
) -> dict[str, Any]:
    """Decodes the prompts of `records`, writes samples.jsonl, and returns the scores.

    Of several processes all decode together, since the base may be spread over them; process 0
    writes and scores.

    Several references of one prompt count together. For E2E the two files of the official scorer
    are written too, and its scores are told where it is installed.

    Args:
      config: of the run; its part eval says how many and how.
      apply, base, delta, tokenizer: as for `lorax.generate`.
      records: with `prompt` and `response`.
      split: their name, the prefix of the scores.
      check: called between batches.
    """
    asked = group(records)
    if config.eval.generate > 0:
        asked = asked[: config.eval.generate]
    prompts = [record["prompt"] for record in asked]
    with progress(f"{split}: answers", len(prompts)) as report:
        texts = decode(
            apply, base, delta, prompts, tokenizer,
            batch_size=config.eval.batch or config.train.batch,
            check=check, progress=lambda done, _: report(done, ""), **_settings(config),
        )  # fmt: skip
    if jax.process_index() != 0:
        return {}
    texts = [text.strip() for text in texts]
    references = [list(record["references"]) for record in asked]
    write_samples(workdir, [
        {"prompt": p, "text": t, "references": r}
        for p, t, r in zip(prompts, texts, references, strict=True)
    ])  # fmt: skip
    return {f"{split}/{name}": value for name, value in _scores(config, workdir, texts, asked)}


def continue_prompt(
    config: Any, workdir: pathlib.Path, programs: Mapping[str, tuple[Any, Any, Any]],
    tokenizer: Any,
) -> None:  # fmt: skip
    """Writes what each of `programs`, (apply, base, delta) by name, makes of `config.eval.prompt`
    to samples.jsonl, to be read."""
    prompt = config.eval.prompt
    texts = {
        name: decode(*program, [prompt], tokenizer, until=(), **_settings(config))[0]
        for name, program in programs.items()
    }
    samples = [{"prompt": prompt, "text": t, "by": name} for name, t in texts.items()]
    if jax.process_index() == 0:
        write_samples(workdir, samples)


def write_samples(workdir: pathlib.Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """samples.jsonl, whole or not at all."""
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    partial = workdir / f".{SAMPLES}.partial"
    partial.write_text("".join(lines), "utf-8")
    partial.replace(workdir / SAMPLES)


def _settings(config: Any) -> dict[str, Any]:
    part = config.eval
    settings: dict[str, Any] = {
        "max_new_tokens": part.max_new_tokens,
        "beams": part.beams,
        "no_repeat_ngram": part.no_repeat_ngram,
        "ngram_prompt": False,  # an answer may repeat what it was asked
    }
    if part.beams > 1:
        settings["length_penalty"] = part.length_penalty
    if part.temperature:
        settings["temperature"] = part.temperature
        settings["key"] = jax.random.key(config.seed.sample)
    return settings


def _scores(
    config: Any, workdir: pathlib.Path, texts: Sequence[str], asked: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Any]]:
    references = [record["references"] for record in asked]
    bleu = corpus_bleu(texts, references)
    found: list[tuple[str, Any]] = [("bleu", bleu.score), ("bleu_signature", bleu.signature)]
    numeric = "answer" in asked[0]
    right = [[record["answer"]] for record in asked] if numeric else references
    found.append(("exact_match", exact_match(texts, right, numeric=numeric)))
    if config.data.format == "e2e" and len(texts) > 1:
        folder = workdir / "e2e"
        folder.mkdir(exist_ok=True)
        official = e2e.official_scores(e2e.export(folder, texts, references))
        found += [(f"official_{name}", value) for name, value in (official or {}).items()]
    return found
