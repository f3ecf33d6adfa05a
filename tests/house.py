"""The house rules as plain functions: source text in, a list of complaints out.

`tests/test_house.py` runs them over the repository, and over small bad snippets to show that each
can fail. Every complaint begins with the place, `path:line`, so that an editor can jump to it.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

# Which imports a layer may make: other layers of lorax, then libraries. The standard library,
# jaxtyping and a layer's own modules are always allowed. The empty layer is lorax/__init__.py,
# which only re-exports.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "core": (set(), {"jax", "numpy"}),
    "ops": ({"core"}, {"jax", "numpy", "qwix"}),
    "adapters": ({"core", "ops"}, {"jax", "numpy"}),
    "models": (set(), {"flax", "jax", "numpy"}),
    "data": ({"core"}, {"absl", "datasets", "grain", "numpy", "sklearn"}),
    "train": ({"core"}, {"flax", "jax", "numpy", "optax", "rich", "tensorboardX"}),
    "evaluation": (
        {"core", "data", "generation"},
        {"jax", "lm_eval", "numpy", "sacrebleu", "sklearn"},
    ),
    "io": (
        {"core", "adapters", "models"},
        {
            "flax",
            "huggingface_hub",
            "jax",
            "ml_dtypes",
            "numpy",
            "orbax",
            "safetensors",
            "tokenizers",
        },
    ),
    "generation": ({"core"}, {"jax", "numpy"}),
    "analysis": ({"core", "adapters"}, {"jax", "numpy"}),
    "parallel": ({"core"}, {"jax", "numpy"}),
}
LAYERS[""] = (set(LAYERS), set())

# Installed with lorax itself; anything else must be imported where it is used, not at import time.
CORE_DEPENDENCIES = {"absl", "flax", "jax", "ml_collections", "numpy", "optax", "orbax"}

# Spelt in two halves, so that these files pass their own check.
_UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
_JAX_INTERNALS = "jax." + "_src"
_JAX_MOVING_PARTS = ("jax.core", "jax.extend", "jax.interpreters", "jax.__version__")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_file(path: str, source: str) -> list[str]:
    """A file of more than 300 lines."""
    lines = len(source.splitlines())
    if lines <= MAX_FILE_LINES:
        return []
    return [f"{path}:{lines}: {lines} lines, the most is {MAX_FILE_LINES}: split the file"]


def long_functions(path: str, source: str) -> list[str]:
    """Functions of more than 50 lines, `def` to end, decorators and docstring not counted."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Function):
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
        if lines > MAX_FUNCTION_LINES:
            complaints.append(
                f"{path}:{node.lineno}: {node.name} has {lines} lines, "
                f"the most is {MAX_FUNCTION_LINES}: split the function"
            )
    return complaints


def _docstring_lines(node: Function) -> int:
    if ast.get_docstring(node) is None:
        return 0
    text = node.body[0]
    assert text.end_lineno is not None
    return text.end_lineno - text.lineno + 1


def missing_docstrings(path: str, source: str) -> list[str]:
    """A module, and public functions, classes and methods, without a docstring."""
    tree = ast.parse(source)
    complaints = [] if ast.get_docstring(tree) else [f"{path}:1: the module has no docstring"]
    for name, node in _public_definitions(tree.body):
        if not ast.get_docstring(node):
            complaints.append(f"{path}:{node.lineno}: {name} has no docstring")
    return complaints


def _public_definitions(
    body: Sequence[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public definitions of a module or class, also those inside `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            if node.name.startswith("_") or _restates_another(node):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node.body, f"{prefix}{node.name}.")
        else:
            for block in ("body", "orelse", "finalbody", "handlers"):
                inner = getattr(node, block, [])
                statements = [s for h in inner for s in getattr(h, "body", [])]
                yield from _public_definitions(statements if block == "handlers" else inner, prefix)


def _restates_another(node: Function | ast.ClassDef) -> bool:
    """Is this an overload or a property's setter, documented at the definition it belongs to?"""
    names = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
    return bool(names & {"overload", "setter", "deleter"})


def imported_modules(
    path: str, tree: ast.AST, *, at_import_only: bool = False
) -> list[tuple[str, int]]:
    """Every module a file imports, as (dotted name, line); relative imports are resolved by `path`.

    Args:
      path: the file, relative to the repository, with forward slashes.
      tree: its syntax tree.
      at_import_only: leave out what runs later or not at all: function bodies, `if TYPE_CHECKING`,
        and a `try` that catches ImportError.
    """
    found: list[tuple[str, int]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _resolved(path, node)
            # `from lorax import core` imports lorax.core, so names count as possible modules.
            bare = base == "lorax" or node.module is None
            found += [(f"{base}.{a.name}" if bare else base, node.lineno) for a in node.names]
        elif not (at_import_only and _runs_later(node)):
            found += imported_modules(path, node, at_import_only=at_import_only)
    return found


def _resolved(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.removesuffix(".py").split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _runs_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
    if isinstance(node, ast.Try):
        caught = " ".join(ast.unparse(h.type) for h in node.handlers if h.type)
        return "ImportError" in caught or "ModuleNotFoundError" in caught
    return isinstance(node, Function | ast.Lambda)


def layer_of(module: str) -> str:
    """The layer of a dotted module or a path in lorax: `lorax.core.paths` -> `core`."""
    parts = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 else ""


def forbidden_imports(path: str, source: str) -> list[str]:
    """Imports against the direction of the layers, or of a library that the layer may not know."""
    layer = layer_of(path)
    if layer not in LAYERS:
        return [f"{path}:1: no rule says what lorax/{layer} may import: add it to LAYERS"]
    layers, libraries = LAYERS[layer]
    complaints = []
    for module, line in imported_modules(path, ast.parse(source)):
        top = module.partition(".")[0]
        if top == "lorax":
            # Inside a layer a name taken from the top of lorax is as wide as all of lorax.
            target = layer_of(module)
            allowed = target in layers or (target == layer and layer != "")
        else:
            allowed = top in libraries or top == "jaxtyping" or top in sys.stdlib_module_names
        if not allowed:
            complaints.append(
                f"{path}:{line}: lorax{'.' + layer if layer else ''} may not import {module}"
            )
    return complaints


def eager_extras(path: str, source: str) -> list[str]:
    """Libraries of an extra imported when the module is: `pip install lorax-flax` lacks them."""
    complaints = []
    for module, line in imported_modules(path, ast.parse(source), at_import_only=True):
        top = module.partition(".")[0]
        if top not in CORE_DEPENDENCIES | {"lorax"} | sys.stdlib_module_names:
            complaints.append(
                f"{path}:{line}: {top} is not a core dependency of lorax-flax: "
                "import it inside the function that needs it, or under TYPE_CHECKING"
            )
    return complaints


def jax_internals(path: str, source: str) -> list[str]:
    """JAX's private modules anywhere; its moving parts anywhere but in lorax/core/_jax.py."""
    complaints = [
        f"{path}:{number}: {_JAX_INTERNALS} is private to JAX"
        for number, line in enumerate(source.splitlines(), 1)
        if _JAX_INTERNALS in line
    ]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "get_bind_params":
            complaints.append(f"{path}:{node.lineno}: get_bind_params differs between JAXs")
        if isinstance(node, ast.ClassDef):
            if any(ast.unparse(base).endswith("Tracer") for base in node.bases):
                complaints.append(f"{path}:{node.lineno}: {node.name} subclasses a JAX Tracer")
    if path != "lorax/core/_jax.py":
        complaints += [
            f"{path}:{line}: {name} belongs in lorax/core/_jax.py"
            for name, line in sorted(_jax_names(path, tree), key=lambda use: use[1])
            if name.startswith(_JAX_MOVING_PARTS)
        ]
    return complaints


def _jax_names(path: str, tree: ast.AST) -> set[tuple[str, int]]:
    """Dotted names of up to two parts that code reads from jax, and the modules it imports."""
    used = set(imported_modules(path, tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "jax":
            used.add((f"jax.{node.attr}", node.lineno))
        elif isinstance(node, ast.ImportFrom) and node.module == "jax":
            used |= {(f"jax.{alias.name}", node.lineno) for alias in node.names}
    return used


def unfinished(path: str, source: str) -> list[str]:
    """Marks of work left for later, which main does not carry."""
    return [
        f"{path}:{number}: {match.group()} on main: do it, or open an issue"
        for number, line in enumerate(source.splitlines(), 1)
        if (match := _UNFINISHED.search(line))
    ]


def untested(paths: Sequence[str]) -> list[str]:
    """Modules of lorax, `lorax/x/y.py`, whose tests are not at `tests/x/test_y.py`.

    Args:
      paths: every file of lorax and tests, relative to the repository, with forward slashes.
    """
    present = set(paths)
    complaints = []
    for path in sorted(present):
        folder, _, name = path.rpartition("/")
        if not (path.startswith("lorax") and name.endswith(".py")) or name.startswith("_"):
            continue
        mirror = f"tests{folder.removeprefix('lorax')}/test_{name}"
        if mirror not in present:
            complaints.append(f"{path}:1: has no tests at {mirror}")
    return complaints


def owners_of(package: str, distributions: dict[str, list[str]], *, expected: str) -> list[str]:
    """Complaints unless exactly one distribution installs `package`, and it is `expected`.

    pip does not notice when two distributions write into one package folder; it mixes their files.
    `distributions` is what `importlib.metadata.packages_distributions()` returns.
    """
    owners = sorted(set(distributions.get(package, [])))
    if owners == [expected]:
        return []
    if not owners:
        return [f"no installed distribution owns {package!r}: run pip install -e ."]
    return [f"{package!r} is owned by {owners}, not by {expected!r} alone: uninstall the others"]
