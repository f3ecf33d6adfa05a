"""How is the model of a run used elsewhere? As a `Pretrained`, for the verbs that take --model."""

import json
import pathlib

from experiments import _workdir
from experiments._train.base import with_base
from experiments._train.setting import make_setting
from lorax.core.errors import LoraxError
from lorax.io.pretrained import Pretrained
from lorax.train.stop import Stop


def is_run(folder: pathlib.Path) -> bool:
    """Whether it is a workdir of experiments.train, and not a model of somebody else's."""
    try:
        return "pretrain" in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False


def load_run(workdir: pathlib.Path) -> Pretrained:
    """The frozen model of a run with its tokenizer; what was learnt is in <workdir>/adapter.

    Raises:
      LoraxError: its data or model is not here any more, its base is not finished, or not there.
    """
    config, link = _workdir.stored(workdir), workdir / "base"
    if config.pretrain.steps and link.is_symlink() and not link.exists():
        raise LoraxError(
            f"the base of the run in '{workdir}' is a link to what is not there, "
            f"'{link.readlink()}': copy the folder of a unit with cp -rL"
        )
    if config.pretrain.steps and not (link / "DONE").is_file():
        raise LoraxError(f"the base of the run in '{workdir}' is not finished: run it to its end")
    setting = with_base(make_setting(config), workdir, Stop())
    subject = setting.subject
    if subject.loaded is not None:
        return subject.loaded
    fields = getattr(subject.model, "config", None)
    return Pretrained(subject.model, subject.base, subject.tokenizer, fields, str(workdir))
