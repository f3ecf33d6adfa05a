"""Can every unit be run, and how much would it train? Found from shapes, before anything is done.

Data and model are read once for all units that share them; of each adapter only shapes are made.
"""

import json
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from configs._sweeps import SHORT
from experiments import _workdir
from experiments._report.words import short
from experiments._sweep.rows import DONE, FAILED, SWEEP, folder, state
from experiments._sweep.search import WIDTH
from experiments._sweep.units import Unit
from experiments._train import method, preview, setting
from lorax.core.errors import LoraxError
from lorax.io.json_file import read_json
from lorax.io.tokenizer import Tokenizer

_OF_A_UNIT = ("adapter", "also_train", "adapter_from", "optimizer", "seed")
"""Parts of a config that neither data nor model depend on."""


class Subject(NamedTuple):
    """What adapters are fitted to: the program, an example of its input, shapes, updates."""

    fn: Callable[..., Any]
    example: Any
    base: Any
    steps: int | None
    tokenizer: Tokenizer | None = None


def ready(config: Any) -> Subject:
    """Of a config that is to be run: all is read and checked.

    Raises:
      LoraxError: whatever of it cannot be.
    """
    part = config.mesh
    if max(part.data, 1) * part.fsdp * part.tensor > 1:
        raise LoraxError(
            f"config.mesh is {part.data} × {part.fsdp} × {part.tensor}: expected data=0, fsdp=1, "
            "tensor=1, since units of a sweep share one device; run them by experiments.train"
        )
    found = setting.make_setting(config)
    if found.pretrains:
        _ = found.before
    subject = found.subject
    return Subject(found.fn, found.example, subject.base, found.steps, subject.tokenizer)


def planned(config: Any) -> Subject:
    """Of a config that is only looked at: nothing is fetched.

    Raises:
      LoraxError: whatever of it cannot be.
    """
    found = preview.plan(config, {})
    return Subject(found.fn, found.args[0], found.base, found.steps)


def trainable(
    units: Sequence[Unit], read: Callable[[Any], Subject], say: Callable[[str], None]
) -> dict[str, int]:
    """{unit: how many numbers it trains}.

    Args:
      units: of a sweep.
      read: `ready` or `planned`.
      say: is told, once, what `lorax` warns of.

    Raises:
      LoraxError: a unit that cannot be run, by its name.
    """
    subjects: dict[str, Subject] = {}
    sizes: dict[str, int] = {}
    found: dict[str, int] = {}
    told: set[str] = set()
    for unit in units:
        try:
            setting.check(unit.config)
            whole = unit.config.to_dict()
            shared = _text({n: part for n, part in whole.items() if n not in _OF_A_UNIT})
            if shared not in subjects:
                subjects[shared] = read(unit.config)
            subject = subjects[shared]
            method.make_optimizer(unit.config.optimizer, subject.steps or 10**9)
            own = _text([shared, whole["adapter"], whole["also_train"]])
            if own not in sizes:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    sizes[own] = _size(unit.config, subject)
                told |= {str(w.message) for w in caught} - told
        except LoraxError as error:
            raise LoraxError(f"unit '{unit.name}': {error}") from None
        found[unit.name] = sizes[own]
    for message in sorted(told):
        say(f"Note: {short(message, 200)}")
    return found


def same_as_before(workdir: pathlib.Path, units: Sequence[Unit]) -> None:
    """Compares the units with those of the same names that were begun before.

    Raises:
      LoraxError: one has another config.
    """
    for unit in units:
        file = folder(workdir, unit.name) / "config.json"
        try:
            there = json.loads(file.read_text("utf-8"))
        except OSError:
            continue
        except ValueError:
            raise LoraxError(f"'{file}' is not JSON: remove the folder of this unit") from None
        if changed := _workdir.differences(there, _workdir.plain(unit.config)):
            raise LoraxError(
                f"'{file.parent}' holds a unit of another config ({'; '.join(changed)}): choose "
                "another --workdir, or remove that folder"
            )


def keeps_all(workdir: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Compares what sweep.json is to say with what it says: a report tells of these units alone.

    A search keeps those of one over the same rates that had no more trials, as it asks for them.

    Raises:
      LoraxError: units that have ended there are none of this sweep.
    """
    if not (workdir / SWEEP).is_file():
        return
    there = read_json(workdir / SWEEP)
    before, now = there.get("search"), record.get("search")
    units, name_of = {}, lambda name, fields: name
    if before and now:
        name_of = lambda _, fields: _text({n: v for n, v in fields.items() if n not in SHORT["lr"]})
    if not now or (before and before[:2] == now[:2] and _fits(before[2], now[2])):
        units = {name_of(*item): item[0] for item in record["units"].items()}
    ended = [n for n in there["units"] if state(workdir, n) in (DONE, FAILED)]
    if lost := [name for name in ended if name_of(name, there["units"][name]) not in units]:
        raise LoraxError(
            f"'{workdir}' holds a sweep of other units: {len(lost)} of them are not in this one, "
            f"the first '{lost[0]}': choose another --workdir, or add to the old sweep"
        )


def _fits(before: int, now: int) -> bool:
    """Whether a search of so many trials begins with those of one before."""
    return before == now or WIDTH <= before <= now


def _size(config: Any, subject: Subject) -> int:
    """Numbers in the delta, by shapes; that it fits the model is found on the way."""
    adapter = method.make_adapter(config, subject.tokenizer)
    apply = lorax.adapt(subject.fn, adapter, on_fallback="allow")
    example = np.zeros(subject.example.shape, subject.example.dtype)
    try:
        delta = jax.eval_shape(
            lambda base: apply.init(jax.random.key(0), base, jnp.asarray(example)), subject.base
        )
    except ValueError as error:  # a LoraxError, or a model's: no room for a prompt, say
        raise LoraxError(f"config.adapter: {error}") from None
    return sum(leaf.size for leaf in jax.tree.leaves(delta))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
