"""Merges an adapter into its model and writes the result as a Hugging Face directory.

The merge is computed in float32 and rounded once to the dtype of the weights; the table says what
that rounding costs. `transformers` loads the directory like any other model.

    python -m experiments.merge --model=DIR --adapter=DIR --out=merged
"""

import argparse

from experiments import _cli, _flags
from lorax.core.errors import LoraxError


def verb(flags: argparse.Namespace) -> None:
    """Loads, merges, reports the rounding, writes."""
    from lorax.analysis.rounding import merge_rounding
    from lorax.io import pretrained
    from lorax.io.hf_files import CONFIG

    _flags.check_out(flags, CONFIG, safetensors=True)
    loaded = _flags.load_model(flags)
    adapter, delta = _flags.load_adapter(flags.adapter, loaded)
    if adapter.additions(loaded.base, delta):
        raise LoraxError(
            f"--adapter={flags.adapter} is a {type(adapter).__name__}, which stands beside the "
            "parameters: expected one that changes them; write it for PEFT with "
            "experiments.export_peft"
        )
    with _flags.working("merging"):
        params = adapter.merge(loaded.base, delta)
        print(merge_rounding(adapter, loaded.base, delta))
    with _flags.working(f"writing {flags.out}"):
        files = loaded if loaded.folder is not None else None  # a single file has none to copy
        pretrained.save(
            flags.out, loaded.model, params, tokenizer_from=files, overwrite=flags.overwrite
        )
    print(f"\nMerged model: {flags.out}")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("merge", __doc__)
    _flags.model_flags(parser)
    _flags.adapter_flag(parser, required=True)
    _flags.out_flags(parser, "model")
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
