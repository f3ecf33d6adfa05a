"""Shows what is in a model or an adapter: sizes, ranks, scales, spectra.

With a model alone: its configuration and parameters. With an adapter beside it: what it adapts, the
rank, scale and size of every update, and how many directions it really uses. An adapter that lorax
saved needs no model.

    python -m experiments.inspect --model=DIR [--adapter=DIR]

With --plan: what training by a config page takes on each device of a mesh, from shapes alone; with
--compile the real step is compiled too, for that many devices of this host, and nothing allocated.

    python -m experiments.inspect --plan --config=configs/gpt3_175b.py \\
        --mesh=data=1,fsdp=64,tensor=1 --compile
"""

import argparse
import sys

from experiments import _cli, _flags

PLAN_FLAGS = (
    _cli.Flag("plan", False, "what training takes on each device of a mesh"),
    _cli.Flag("mesh", "", "lengths of its axes, data=1,fsdp=64,tensor=1 say, for config.mesh"),
    _cli.Flag("compile", False, "compile the real step too, and show what the compiler says"),
)


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


def plan(call: _cli.Call) -> None:
    """Prints what training by a config takes."""
    from experiments._plan import show

    show.show(call)


def _adapter(directory: str, loaded: object) -> tuple:
    from lorax.core.errors import LoraxError
    from lorax.io import checkpoint

    if loaded is not None:
        return _flags.load_adapter(directory, loaded)
    try:
        return checkpoint.load_adapter(directory)
    except LoraxError as error:
        raise LoraxError(f"{error}; a PEFT adapter needs --model beside it") from None


def _without_plan() -> None:
    raise _cli.UsageError("--config, --mesh and --compile are for plans: add --plan")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--plan" in arguments:
        return _cli.run(
            plan, __doc__, config="configs/gpt3_175b.py", argv=arguments, flags=PLAN_FLAGS
        )
    if any(arg.startswith(("--config", "--mesh", "--compile")) for arg in arguments):
        return _cli.guarded(_without_plan)
    parser = _flags.Parser("inspect", __doc__)
    _flags.model_flags(parser, required=False)
    _flags.adapter_flag(parser)
    return _flags.run(verb, parser, argv)


if __name__ == "__main__":
    _cli.enter(main)
