"""Reads an adapter in the PEFT format and saves it as one of lorax.

The model says which of its leaves each tensor belongs to; nothing is guessed, and a tensor too many
or too few is an error. `export_peft` is the inverse.

    python -m experiments.import_peft --model=DIR --adapter=PEFT_DIR --out=adapter
"""

import argparse

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Loads, describes, saves."""
    from experiments._describe import adapter_table
    from lorax.core.errors import LoraxError
    from lorax.io import peft
    from lorax.io.checkpoint import JSON_NAME, save_adapter

    _flags.check_out(flags, JSON_NAME)
    loaded = _flags.load_model(flags)
    adapter, delta = peft.load(flags.adapter, loaded)
    if peft.prepare(flags.adapter, loaded) is not loaded.base:
        raise LoraxError(
            f"'{flags.adapter}' has frozen matrices of its own (VeRA), which an adapter of lorax "
            "does not hold: expected another method; read it with lorax.io.peft.load and prepare"
        )
    save_adapter(flags.out, adapter, delta, base=loaded.base, overwrite=flags.overwrite)
    print(adapter_table(adapter, delta, loaded.base))
    print(f"\nAdapter: {flags.out}")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("import_peft", __doc__)
    _flags.model_flags(parser)
    _flags.adapter_flag(parser, required=True, help="a PEFT directory")
    _flags.out_flags(parser, "adapter")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
