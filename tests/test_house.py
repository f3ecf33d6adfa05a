"""The house numbers of DESIGN.md, enforced; and proof that each check can fail."""

import importlib.metadata
import pathlib

import pytest

from tests import house

ROOT = pathlib.Path(__file__).parent.parent


def _files(*folders: str) -> list[str]:
    """Python files under `folders`, relative to the repository, with forward slashes."""
    found = (p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    return sorted(p.relative_to(ROOT).as_posix() for p in found)


LIBRARY = _files("lorax")
EVERYTHING = _files("lorax", "experiments", "configs", "tests")


def _run(check, paths: list[str]) -> None:
    """Run one check over `paths`."""
    assert paths, "no file was checked"
    _expect_none([c for p in paths for c in check(p, (ROOT / p).read_text("utf-8"))])


def _expect_none(complaints: list[str]) -> None:
    """Fail with all complaints, one a line, and nothing else."""
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.mark.parametrize(
    "check", [house.long_file, house.long_functions, house.unfinished], ids=lambda f: f.__name__
)
def test_all_code(check):
    _run(check, EVERYTHING)


@pytest.mark.parametrize(
    "check",
    [house.missing_docstrings, house.forbidden_imports, house.eager_extras, house.jax_internals],
    ids=lambda f: f.__name__,
)
def test_library_code(check):
    _run(check, LIBRARY)


def test_build_files_leave_no_work_for_later():
    names = ["Makefile", "pyproject.toml", ".ci/run", ".pre-commit-config.yaml"]
    _run(house.unfinished, names)


def test_tests_mirror_the_library():
    _expect_none(house.untested(EVERYTHING))


def test_one_distribution_owns_lorax():
    owned = importlib.metadata.packages_distributions()
    _expect_none(house.owners_of("lorax", dict(owned), expected="lorax-flax"))


# From here on: the checks themselves, on snippets that must and must not pass.


def _function(lines: int, docstring_lines: int = 0) -> str:
    """A function whose `def` and body together have `lines` lines, after its docstring."""
    text = ['    """' + "\n" * (docstring_lines - 1) + '"""'] if docstring_lines else []
    return "\n".join(["def f(x):", *text, *["    x += 1"] * (lines - 1)])


def test_long_file():
    assert house.long_file("a.py", "x = 1\n" * 300) == []
    assert "a.py:301: 301 lines" in house.long_file("a.py", "x = 1\n" * 301)[0]


def test_long_functions():
    assert house.long_functions("a.py", _function(50)) == []
    assert "f has 51 lines" in house.long_functions("a.py", _function(51))[0]


def test_long_functions_counts_neither_docstring_nor_decorators():
    assert house.long_functions("a.py", "@a\n@b\n" + _function(50, docstring_lines=20)) == []
    assert len(house.long_functions("a.py", "@a\n@b\n" + _function(51, docstring_lines=20))) == 1


def test_long_functions_sees_methods_and_inner_functions():
    body = _function(51).replace("\n", "\n    ")
    assert len(house.long_functions("a.py", f"class C:\n    {body}")) == 1
    assert len(house.long_functions("a.py", f"async def g():\n    {body}")) == 2


@pytest.mark.parametrize(
    "source, missing",
    [
        ("def f(): pass", "f"),
        ("async def f(): pass", "f"),
        ("class C: pass", "C"),
        ('class C:\n    """C."""\n    def m(self): pass', "C.m"),
        ("if True:\n    def f(): pass", "f"),
        ("try:\n    pass\nexcept ValueError:\n    def f(): pass", "f"),
    ],
)
def test_missing_docstrings(source, missing):
    (complaint,) = house.missing_docstrings("a.py", f'"""Module."""\n{source}')
    assert complaint.endswith(f": {missing} has no docstring")


@pytest.mark.parametrize(
    "source",
    [
        "def _f(): pass",
        "class _C:\n    def m(self): pass",
        'class C:\n    """C."""\n    def __call__(self): pass',
        '@overload\ndef f(): ...\ndef f():\n    """F."""',
        'def f():\n    """F."""\n    def inner(): pass',
    ],
)
def test_missing_docstrings_lets_private_names_be(source):
    assert house.missing_docstrings("a.py", f'"""Module."""\n{source}') == []


def test_missing_docstrings_wants_one_of_the_module():
    assert house.missing_docstrings("a.py", "x = 1") == ["a.py:1: the module has no docstring"]


@pytest.mark.parametrize(
    "path, source",
    [
        ("lorax/core/paths.py", "import flax"),
        ("lorax/core/paths.py", "import optax"),
        ("lorax/core/paths.py", "from lorax.adapters.lora import LoRA"),
        ("lorax/core/paths.py", "from ..adapters import lora"),
        ("lorax/core/paths.py", "from .. import adapters"),
        ("lorax/core/paths.py", "import lorax"),
        ("lorax/core/paths.py", "from lorax import adapt"),
        ("lorax/core/paths.py", "def f():\n    import experiments.train"),
        ("lorax/core/__init__.py", "from lorax.train import step"),
        ("lorax/adapters/lora.py", "from lorax import models"),
        ("lorax/models/gpt2.py", "from lorax.core import paths"),
        ("lorax/models/gpt2.py", "import lorax.adapters.lora"),
        ("lorax/data/bytes.py", "import jax"),
        ("lorax/train/step.py", "from lorax.adapters import lora"),
        ("lorax/train/loop.py", "from lorax.io import checkpoint"),
        ("lorax/io/peft.py", "import torch"),
        ("lorax/parallel/mesh.py", "from tests import house"),
        ("lorax/__init__.py", "import configs"),
        ("lorax/nowhere/a.py", ""),
    ],
)
def test_forbidden_imports(path, source):
    assert len(house.forbidden_imports(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("lorax/core/paths.py", "import dataclasses, jax.numpy as jnp, numpy as np"),
        ("lorax/core/paths.py", "from . import adapter\nfrom .adapter import Chain"),
        ("lorax/core/paths.py", "from lorax.core import adapter"),
        ("lorax/adapters/lora.py", "from lorax.core.paths import select\nfrom ..core import leaf"),
        ("lorax/models/llama.py", "import flax.linen as nn\nfrom lorax.models import layers"),
        ("lorax/train/loop.py", "import optax\nfrom lorax.core.engine import adapt"),
        ("lorax/io/peft.py", "from lorax.adapters.lora import LoRA\nimport orbax.checkpoint"),
        ("lorax/__init__.py", "from lorax.core.engine import adapt\nfrom . import adapters"),
    ],
)
def test_forbidden_imports_allows(path, source):
    assert house.forbidden_imports(path, source) == []


def test_eager_extras():
    for source in ("import rich", "from rich.progress import Progress", "class C:\n import rich"):
        (complaint,) = house.eager_extras("lorax/train/loop.py", source)
        assert "rich is not a core dependency" in complaint


@pytest.mark.parametrize(
    "source",
    [
        "import jax, os, optax",
        "def f():\n    import rich",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jaxtyping import Array",
        "try:\n    import rich\nexcept ImportError:\n    rich = None",
    ],
)
def test_eager_extras_allows(source):
    assert house.eager_extras("lorax/train/loop.py", source) == []


@pytest.mark.parametrize(
    "source",
    [
        f"# jax.{'_src'} has it",
        "import jax.core",
        "from jax import core",
        "from jax.core import eval_jaxpr",
        "from jax.extend import core",
        "from jax.extend.core import Var",
        "import jax\njax.core.eval_jaxpr(jaxpr)",
        "import jax\nold = jax.__version__ < '0.11'",
        "eqn.primitive.get_bind_params(eqn.params)",
        "class T(Tracer): pass",
    ],
)
def test_jax_internals(source):
    assert house.jax_internals("lorax/core/engine.py", source)


def test_jax_internals_allows_moving_parts_in_one_file():
    source = "import jax\nfrom jax.extend.core import Var\njax.core.eval_jaxpr(jaxpr)"
    assert house.jax_internals("lorax/core/_jax.py", source) == []
    assert house.jax_internals("lorax/core/engine.py", "import jax\njax.numpy.core = 1") == []
    assert len(house.jax_internals("lorax/core/_jax.py", f"from jax.{'_src'} import core")) == 1


def test_unfinished():
    assert house.unfinished("a.py", "# to do, fixme, xxx; TODOS") == []
    for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"):
        assert house.unfinished("a.py", f"x = 1\n# {word}: later")[0].startswith("a.py:2: ")


def test_untested():
    library = ["lorax/__init__.py", "lorax/core/_jax.py", "lorax/core/paths.py", "lorax/py.typed"]
    assert house.untested([*library, "tests/core/test_paths.py"]) == []
    assert len(house.untested([*library, "tests/test_paths.py"])) == 1


def test_owners_of():
    def owners(*names: str) -> list[str]:
        return house.owners_of("lorax", {"lorax": list(names)}, expected="lorax-flax")

    assert owners("lorax-flax", "lorax-flax") == []
    assert "lorax-client" in owners("lorax-flax", "lorax-client")[0]
    assert "jax-lorax" in owners("jax-lorax")[0]
    assert "pip install -e" in owners()[0]
