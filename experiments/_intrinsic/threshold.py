"""What must be reached? A share of the baseline: of one's own direct training, or a global one.

Li et al. 2018 ("Measuring the intrinsic dimension of objective landscapes") call d_int90 the
smallest d that reaches 90 % of the baseline. Their 750 for MNIST takes a global baseline of 1.0,
which makes the threshold an accuracy of 0.90, whatever direct training reaches.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._intrinsic.levels import direct
from experiments._intrinsic.rows import DIRECT, Row
from lorax.core.errors import LoraxError, check_choice

KINDS = OWN, GLOBAL = "own", "global"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One of them.

    Attributes:
      kind: "own" or "global".
      baseline: mean of direct training at its best rate, or the global one.
      start: mean of the frozen start; 0 where the share is one of the value.
      share: 0.9 say.
      value: start + share (baseline - start), to be strictly passed.
    """

    kind: str
    baseline: float
    start: float
    share: float
    value: float


def thresholds(rows: Sequence[Row], study: Mapping[str, Any]) -> dict[str, Threshold]:
    """{"own", "global": threshold}; without "own" while no direct unit has a number.

    Raises:
      LoraxError: a share of a value of which less is better, or of a gain over a start that no
        unit has.
    """
    check_choice("study.relative", study["relative"], ("value", "gain"))
    if study["relative"] == "value" and study["mode"] == "min":
        raise LoraxError(
            "study.relative is 'value' with mode 'min': a share of a loss is no lower loss; "
            "set study.relative='gain'"
        )
    level = direct(rows, study)
    baselines = {OWN: level.stat.mean} if level and level.stat else {}
    if study["baseline"]:
        baselines[GLOBAL] = float(study["baseline"])
    start = _start(rows, study) if baselines and study["relative"] == "gain" else 0.0
    share = float(study["share"])
    return {
        kind: Threshold(kind, baseline, start, share, start + share * (baseline - start))
        for kind, baseline in baselines.items()
    }


def target(rows: Sequence[Row], study: Mapping[str, Any]) -> Threshold | None:
    """The threshold that is searched; None where it is one's own and nothing is known of it.

    Raises:
      LoraxError: as `thresholds`, or the global one is searched and there is none.
    """
    check_choice("study.target", study["target"], KINDS)
    if study["target"] == GLOBAL and not study["baseline"]:
        raise LoraxError(
            "study.target is 'global' but study.baseline is 0: set the baseline, 1.0 for MNIST as "
            "published, or study.target='own'"
        )
    return thresholds(rows, study).get(study["target"])


def _start(rows: Sequence[Row], study: Mapping[str, Any]) -> float:
    """The mean over direct units, each from its own draw; over all where none has the number."""
    found = [(row.method, row.start.get(study["metric"])) for row in rows]
    known = [(method, value) for method, value in found if value is not None]
    chosen = [value for method, value in known if method == DIRECT] or [v for _, v in known]
    if not chosen:
        raise LoraxError(
            f"no unit has {study['metric']} at the start: study.relative='gain' needs it; set "
            "study.relative='value'"
        )
    return statistics.fmean(chosen)
