"""What is in a dataset of the Hugging Face hub? Its rows, as if they came from a file.

Named as `hub:org/name:split` or `hub:org/name/config:split`, where the split may be a slice,
`train[:10%]`; a local folder that the library understands may stand in the place of the id. With
HF_HUB_OFFLINE=1 only what was downloaded before is read. Needs the extra `hub-data`.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from lorax.core.errors import LoraxError
from lorax.data.rows import Row

PREFIX = "hub:"


class HubName(NamedTuple):
    """What a name says: the id or folder, a configuration or None, and the split."""

    path: str
    config: str | None
    split: str


class HubRows(NamedTuple):
    """The rows of a dataset, and the names of classes of those columns that have them."""

    rows: Iterator[Row]
    labels: dict[str, tuple[str, ...]]


def parse(name: str) -> HubName:
    """The parts of `hub:org/name[/config]:split`.

    Raises:
      LoraxError: there is no split, or an id of more than three parts.
    """
    place, _, split = name.removeprefix(PREFIX).partition(":")
    folder, parts = pathlib.Path(place).expanduser(), place.split("/")
    if place and split and folder.is_dir():
        return HubName(str(folder), None, split)
    if not split or not all(parts) or len(parts) > 3:
        raise LoraxError(
            f"'{name}' names no dataset: expected hub:org/name:split or hub:org/name/config:split"
        )
    return HubName("/".join(parts[:2]), parts[2] if len(parts) > 2 else None, split)


def read_hub(name: str) -> HubRows:
    """The dataset `name`; row i, from 0, is at `name, row i`.

    Raises:
      LoraxError: a name of another form, the library is not installed, or the dataset cannot be
        had: it does not exist, has no such configuration or split, or the hub is out of reach.
    """
    wanted = parse(name)
    try:
        import datasets
    except ImportError:
        raise LoraxError(
            f"reading '{name}' needs the datasets library: pip install 'lorax-flax[hub-data]'"
        ) from None
    try:
        found = datasets.load_dataset(wanted.path, wanted.config, split=wanted.split)
    except Exception as error:  # of a dozen classes, some of other libraries
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        cure = "check the name, or give a file"
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            cure = "HF_HUB_OFFLINE is set: unset it, or download the dataset before"
        raise LoraxError(f"cannot read '{name}' ({reason}): {cure}") from None
    labels = {
        column: tuple(feature.names)
        for column, feature in found.features.items()
        if getattr(feature, "names", None)
    }
    return HubRows(_rows(name, found), labels)


def _rows(name: str, found: Any) -> Iterator[Row]:
    for number, fields in enumerate(found):
        yield Row(f"{name}, row {number}", dict(fields))
