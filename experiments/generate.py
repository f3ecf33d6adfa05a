"""Continues prompts with a model, with or without an adapter, which stays factored.

    python -m experiments.generate --model=DIR [--adapter=DIR] --prompt="Once upon a time"

Greedy by default; --temperature samples, --beams searches. Several --prompt flags, or the lines of
--prompts=FILE (blank ones are passed over), are continued together in one batch, and printed below
a line "--- 1 of 2 ---" each.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import _cli, _flags

NEEDED = {
    "top_k": "temperature",
    "top_p": "temperature",
    "seed": "temperature",
    "length_penalty": "beams",
}
"""Flags that do nothing without another one."""


def verb(flags: argparse.Namespace) -> None:
    """Loads, generates, prints."""
    prompts, settings = _prompts(flags), _settings(flags)
    import lorax
    from lorax.core.errors import LoraxError

    loaded = _flags.load_model(flags)
    if loaded.tokenizer is None:
        raise LoraxError(f"'{flags.model}' has no tokenizer beside it: put its files there")
    apply, delta = loaded.model.apply, None
    if flags.adapter is not None:
        adapter, delta = _flags.load_adapter(flags.adapter, loaded)
        apply = lorax.adapt(apply, adapter)
    with _flags.working("generating"):
        texts = lorax.generate(
            apply, loaded.base, delta, prompts, tokenizer=loaded.tokenizer, **settings
        )
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
        if len(prompts) > 1:
            print(f"--- {number} of {len(prompts)} ---")
        print(f"{prompt}{_cut(text, flags.stop or ())}")


def _prompts(flags: argparse.Namespace) -> list[str]:
    prompts = list(flags.prompt or [])
    if flags.prompts is not None:
        prompts += _lines(flags.prompts)
    if not prompts:
        raise _cli.UsageError("no prompt: give --prompt=TEXT, or --prompts=FILE with one a line")
    return prompts


def _lines(file: str) -> list[str]:
    try:
        text = pathlib.Path(file).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _cli.UsageError(
            f"--prompts='{file}' is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from None
    return [line for line in text.split("\n") if line.strip()]


def _settings(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings of `lorax.generate`, checked before anything is loaded."""
    for name, needed in NEEDED.items():
        if getattr(flags, name) is not None and getattr(flags, needed) is None:
            raise _cli.UsageError(f"--{name} does nothing without --{needed}: give it as well")
    import jax

    from lorax.generation.request import Settings

    key = jax.random.key(flags.seed or 0) if flags.temperature else None
    settings = {
        "max_new_tokens": flags.max_new_tokens, "temperature": flags.temperature or 0.0,
        "top_k": flags.top_k, "top_p": flags.top_p,
        "beams": 1 if flags.beams is None else flags.beams,
        "length_penalty": 1.0 if flags.length_penalty is None else flags.length_penalty,
        "no_repeat_ngram": flags.no_repeat_ngram, "key": key,
    }  # fmt: skip
    Settings(**settings)
    return settings


def _cut(text: str, stops: Sequence[str]) -> str:
    """What of `text` comes before the first of `stops`."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


def _text(text: str) -> str:
    """Text of the command line, for argparse's `type`."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: expected a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8: give it in --prompts=FILE") from None
    return text


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"it is {text}: expected a whole number below 2**32")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("generate", __doc__)
    _flags.model_flags(parser)
    _flags.adapter_flag(parser)
    add = parser.add_argument
    add("--prompt", type=_text, action="append", metavar="TEXT", help="may be given several times")
    add("--prompts", type=_flags.place, metavar="FILE", help="one prompt a line, in UTF-8")
    add("--max_new_tokens", type=int, default=64, metavar="N", help="(default 64)")
    add(
        "--stop",
        type=_text,
        action="append",
        metavar="TEXT",
        help="print only what comes before it; may be given several times",
    )
    add("--temperature", type=float, metavar="T", help="sample; 0 is greedy (default)")
    add("--top_k", type=int, metavar="K", help="sample from the K likeliest tokens")
    add("--top_p", type=float, metavar="P", help="sample from the likeliest tokens of mass P")
    add("--seed", type=_seed, help="of the samples (default 0)")
    add("--beams", type=int, metavar="N", help="beam search of width N")
    add("--length_penalty", type=float, metavar="X", help="of beams (default 1.0)")
    add("--no_repeat_ngram", type=int, default=0, metavar="N", help="no N tokens come twice")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
