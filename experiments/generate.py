"""Continues prompts with a model, with or without an adapter, which stays factored.

    python -m experiments.generate --model=DIR [--adapter=DIR] --prompt="Once upon a time"

Greedy by default; --temperature samples, --beams searches. Several --prompt flags, or the lines of
--prompts=FILE, are continued together in one batch.
"""

import argparse
import pathlib
import sys

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Loads, generates, prints."""
    prompts = _prompts(flags)
    import jax

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
            apply, loaded.base, delta, prompts,
            tokenizer=loaded.tokenizer, max_new_tokens=flags.max_new_tokens,
            temperature=flags.temperature, top_k=flags.top_k, top_p=flags.top_p, beams=flags.beams,
            length_penalty=flags.length_penalty, no_repeat_ngram=flags.no_repeat_ngram,
            key=jax.random.key(flags.seed) if flags.temperature else None,
        )  # fmt: skip
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"{prompt}{text}")


def _prompts(flags: argparse.Namespace) -> list[str]:
    prompts = list(flags.prompt or [])
    if flags.prompts is not None:
        prompts += pathlib.Path(flags.prompts).read_text("utf-8").splitlines()
    if not prompts:
        raise _cli.UsageError("no prompt: give --prompt=TEXT, or --prompts=FILE with one a line")
    return prompts


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("generate", __doc__)
    _flags.model_flags(parser)
    add = parser.add_argument
    add("--adapter", metavar="DIR", help=_flags.ADAPTER_HELP)
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--prompts", metavar="FILE", help="one prompt a line")
    add("--max_new_tokens", type=int, default=64, metavar="N", help="(default 64)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    add("--top_k", type=int, metavar="K", help="sample from the K likeliest tokens")
    add("--top_p", type=float, metavar="P", help="sample from the likeliest tokens of mass P")
    add("--beams", type=int, default=1, metavar="N", help="beam search of width N")
    add("--length_penalty", type=float, default=1.0, metavar="X", help="of beams (default 1.0)")
    add("--no_repeat_ngram", type=int, default=0, metavar="N", help="no N tokens come twice")
    add("--seed", type=int, default=0, help="of the samples (default 0)")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
