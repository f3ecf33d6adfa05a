"""Pre-trains a small language model on English, adapts it to Python source, and compares methods.

A LLaMA of a million parameters that reads bytes is trained on the English text that ships with
Python, then adapted to the source of the standard library: not at all, by LoRA of rank 1, 4 and
16 on all linear layers, and by full fine-tuning. One table says what each gained, what it forgot,
and what it cost. Nothing is downloaded.

    python -m experiments.quickstart --workdir=runs/quickstart
"""

from experiments import _cli, _memory

CONFIG = "configs/quickstart_compare.py"


def verb(call: _cli.Call) -> None:
    """Runs the quickstart; see `experiments/_quickstart/story.py`."""
    _memory.keep_freed()
    from experiments._quickstart import story

    story.tell(call)


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    return _cli.run(verb, __doc__ or "", config=CONFIG, argv=argv)


if __name__ == "__main__":
    _cli.enter(main)
