"""Shows what is in a model or an adapter: sizes, ranks, scales, spectra.

With a model alone: its configuration and parameters. With an adapter beside it: what it adapts, the
rank, scale and size of every update, and how many directions it really uses. An adapter that lorax
saved needs no model.

    python -m experiments.inspect --model=DIR [--adapter=DIR]
"""

import argparse

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Loads what is named and prints it."""
    from experiments import _describe

    if flags.model is None and flags.adapter is None:
        raise _cli.UsageError("nothing to inspect: give --model, --adapter, or both; see --help")
    loaded = None if flags.model is None else _flags.load_model(flags)
    if loaded is not None:
        print(_describe.model_table(loaded))
    if flags.adapter is not None:
        adapter, delta = _adapter(flags.adapter, loaded)
        base = None if loaded is None else loaded.base
        print(("\n" if loaded is not None else "") + _describe.adapter_table(adapter, delta, base))


def _adapter(directory: str, loaded: object) -> tuple:
    from lorax.core.errors import LoraxError
    from lorax.io import checkpoint

    if loaded is not None:
        return _flags.load_adapter(directory, loaded)
    try:
        return checkpoint.load_adapter(directory)
    except LoraxError as error:
        raise LoraxError(f"{error}; a PEFT adapter needs --model beside it") from None


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("inspect", __doc__)
    _flags.model_flags(parser, required=False)
    _flags.adapter_flag(parser)
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
