"""Compares methods on one new text: a pretrained language model, each method at its own best rate.

Every learning rate of every method in the config is trained and chosen on a validation part; the
table shows the test part, the share of full fine-tuning's gain, and what was forgotten of the old
text.

    LORAX_DATA=... python -m experiments.compare --workdir=runs/shakespeare
"""

from experiments import _cli, _memory

CONFIG = "configs/stories260k_compare.py"


def verb(call: _cli.Call) -> None:
    """Runs the comparison; see `experiments/_compare/study.py`."""
    _memory.keep_freed()
    from experiments._compare import study

    study.tell(call)


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    return _cli.run(verb, __doc__ or "", config=CONFIG, argv=argv)


if __name__ == "__main__":
    _cli.enter(main)
