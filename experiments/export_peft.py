"""Writes an adapter that lorax saved in the PEFT format, for PEFT itself or for vLLM.

Adapters that start from the base (PiSSA, OLoRA) become plain LoRA of twice the rank. vLLM reads one
rank and one alpha: with --target=vllm ranks are padded and scales folded into B, and what it cannot
take (trained heads, biases) is refused by name.

    python -m experiments.export_peft --model=DIR --adapter=DIR --out=peft_adapter
"""

import argparse

from experiments import _cli, _flags


def verb(flags: argparse.Namespace) -> None:
    """Loads, converts, writes."""
    from lorax.io import peft
    from lorax.io.peft_config import CONFIG_NAME

    _flags.check_out(flags, CONFIG_NAME, safetensors=True)
    loaded = _flags.load_model(flags)
    adapter, delta = _flags.load_adapter(flags.adapter, loaded)
    peft.save(
        flags.out, adapter, delta, loaded.model, base=loaded.base,
        base_model_name=flags.base_model_name or flags.model, target=flags.target,
        overwrite=flags.overwrite,
    )  # fmt: skip
    print(f"PEFT adapter: {flags.out}")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    parser = _flags.Parser("export_peft", __doc__)
    _flags.model_flags(parser)
    _flags.adapter_flag(parser, required=True)
    _flags.out_flags(parser, "adapter")
    parser.add_argument("--target", choices=("peft", "vllm"), default="peft", help="who reads it")
    parser.add_argument(
        "--base_model_name", help="what the adapter calls its model (default: that of --model)"
    )
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
