"""Which exchanges between devices does a compiled program make, of what, and how often?"""

import collections
import re
from typing import NamedTuple

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip


class Exchange(NamedTuple):
    """One collective of a compiled program.

    ``kind`` is one of `KINDS`; ``shapes`` are those of its results, several where XLA put exchanges
    together; ``looped`` says whether it is inside the body of a loop; ``name`` is where in the
    program it comes from, as XLA tells it, or empty.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    looped: bool
    name: str


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>\(.*?\)|\S+) (?P<op>[a-z\-]+)\(")
_CALLED = re.compile(r"\b(body|condition|to_apply|calls|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b[a-z]+\d*(?:e\dm\d\w*)?\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')


def exchanges(text: str) -> list[Exchange]:
    """Every collective in the text of a compiled program, `compiled.as_text()`."""
    calls: dict[str, set[str]] = collections.defaultdict(set)
    bodies: set[str] = set()
    found = []
    where = ""
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            where = opened.group(1)
            continue
        if not (instruction := _INSTRUCTION.match(line)):
            continue
        for how, name in _CALLED.findall(line):
            calls[where].add(name)
            if how in ("body", "condition"):
                bodies.add(name)
        for names in _BRANCHES.findall(line):
            calls[where] |= {name.strip(" %") for name in names.split(",")}
        kind = instruction.group("op").removesuffix("-start")
        if kind in KINDS:
            shapes = _shapes(instruction.group("type"))
            named = _NAME.search(line)
            found.append((where, kind, shapes, named.group(1) if named else ""))
    looped = _reached(bodies, calls)
    return [Exchange(kind, shapes, at in looped, name) for at, kind, shapes, name in found]


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in sizes.split(",") if n) for sizes in _SHAPE.findall(text))


def _reached(names: set[str], calls: dict[str, set[str]]) -> set[str]:
    """`names` and every computation that they call, directly or not."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += calls[name]
    return reached
