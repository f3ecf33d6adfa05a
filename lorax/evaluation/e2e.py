"""How does the official E2E scorer see the texts? Its two files, and its scores where it is there.

The scorer is e2e-metrics' ``measure_scores.py``, which needs Java and is not part of lorax; the
environment variable E2E_METRICS_DIR names its folder.
"""

import os
import pathlib
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from lorax.core.errors import LoraxError
from lorax.evaluation.bleu import check_groups

VARIABLE = "E2E_METRICS_DIR"
SCRIPT = "measure_scores.py"
REFERENCES, SYSTEM = "e2e_references.txt", "e2e_system.txt"
_METRICS = {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}


class Files(NamedTuple):
    """``references``, groups of lines with a blank line between two; ``system``, a line a group."""

    references: pathlib.Path
    system: pathlib.Path


def export(
    folder: str | os.PathLike[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> Files:
    """Writes both files into `folder`, each whole or not at all.

    Text i is scored against group i. White space within a text, line breaks included, becomes one
    space. The scorer reads a file of one group as one reference a text, so give it two or more.

    Args:
      folder: exists.
      hypotheses: (N,) texts, one a meaning representation; a blank one is a blank line.
      references: (N,) groups of one or more.

    Raises:
      LoraxError: numbers that differ, a group without references, a blank reference, or a folder
        that cannot be written.
    """
    check_groups(hypotheses, references)
    folder = pathlib.Path(folder)
    files = Files(folder / REFERENCES, folder / SYSTEM)
    groups = ["".join(f"{_line(text)}\n" for text in group) for group in references]
    _write(files.references, "\n".join(groups))
    _write(files.system, "".join(f"{_line(text)}\n" for text in hypotheses))
    return files


def official_scores(files: Files) -> dict[str, float] | None:
    """The official scorer's BLEU, NIST, METEOR, ROUGE_L and CIDEr, by these names.

    None where E2E_METRICS_DIR is not set. Its BLEU is a share of 1 under a tokenisation of its own:
    never set it beside sacrebleu's as the same number.

    Raises:
      LoraxError: the folder holds no scorer, or the scorer failed.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    script = pathlib.Path(folder) / SCRIPT
    if not script.is_file():
        raise LoraxError(
            f"{VARIABLE}='{folder}' holds no {SCRIPT}: set it to a checkout of e2e-metrics, or "
            "unset it"
        )
    command = [sys.executable, SCRIPT, *(str(file.resolve()) for file in files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = dict(re.findall(r"^(\w+): ([-+.\deE]+)\s*$", done.stdout, re.MULTILINE))
    if done.returncode or not set(found) >= _METRICS:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        raise LoraxError(
            f"'{script}' failed ({lines[-1]}): run it by hand on '{files.references}' and "
            f"'{files.system}', or unset {VARIABLE}"
        )
    return {name: float(number) for name, number in found.items() if name in _METRICS}


def _line(text: str) -> str:
    # split() knows every separator at which the scorer would begin a new line
    return " ".join(text.split())


def _write(file: pathlib.Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        try:
            partial.write_text(text, "utf-8", "replace")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise LoraxError(
            f"cannot write '{file}' ({error.strerror or error}): make the folder writable and free "
            "some space, or choose another one"
        ) from None
