"""What a user gets from `pip install lorax-flax`: lorax, whole, alone, on versions that work."""

import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}


def _wanted(name: str, python: str):
    """The versions of `name` that lorax-flax asks for on a Python, as one specifier set."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    (found,) = [
        r.specifier
        for r in CORE
        if r.name == name and (r.marker is None or r.marker.evaluate(environment))
    ]
    return found


def test_core_dependencies():
    names = {r.name for r in CORE}
    assert names == {
        *("jax", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "absl-py")
    }


@pytest.mark.parametrize(
    "python, jax, flax, works",
    [
        ("3.11", "0.10.2", "0.12.8", True),
        ("3.11", "0.12.0.1", "0.12.8", False),
        ("3.12", "0.12.0.1", "0.12.8", False),
        ("3.12", "0.10.2", "0.12.12", False),
        ("3.12", "0.12.0.1", "0.12.12", True),
        ("3.13", "0.13.0", "0.13.0", True),
    ],
)
def test_jax_and_flax_come_as_a_working_pair(python, jax, flax, works):
    assert (jax in _wanted("jax", python) and flax in _wanted("flax", python)) == works


def test_extras():
    assert set(EXTRAS) >= {"experiments", "hf", "dev", "interop", "cuda13", "tpu"}
    assert {r.name for r in EXTRAS["experiments"]} >= {"rich", "matplotlib"}
    own = next(r for r in EXTRAS["dev"] if r.name == "lorax-flax")
    assert own.extras == {"experiments", "hf", "notebooks", "quant", "ray", "search", "slurm"}
    assert {"torch", "transformers", "peft"} <= {
        r.name for r in EXTRAS["interop"] if str(r.specifier).startswith("==")
    }
    assert not any(r.name == "torch" for name in ("experiments", "hf", "dev") for r in EXTRAS[name])
    assert [str(r) for r in EXTRAS["cuda13"]] == ["jax[cuda13]"]
    assert [str(r) for r in EXTRAS["tpu"]] == ["jax[tpu]"]


def test_this_environment_meets_the_requirements():
    installed = metadata.metadata("lorax-flax")
    assert installed["License-Expression"] == "Apache-2.0"
    assert installed["Version"] == PROJECT["version"]
    for requirement in CORE + EXTRAS["experiments"]:
        if requirement.marker is None or requirement.marker.evaluate():
            version = metadata.version(requirement.name)
            assert version in requirement.specifier, f"{requirement} is not met by {version}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names in a wheel built from a copy of the tree, without a network."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("lorax", "experiments", "configs", "tests", "notebooks"):
        if (ROOT / folder).is_dir():
            shutil.copytree(
                ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, "dist"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    assert built.name.startswith("lorax_flax-")
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_lorax_alone(wheel):
    info = f"lorax_flax-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in wheel} == {"lorax", info}
    assert f"{info}/licenses/LICENSE" in wheel


def test_wheel_holds_all_of_lorax(wheel):
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "lorax").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == sources
    assert "lorax/py.typed" in wheel


def test_packages_are_there_when_they_are_named():
    code = (
        "import sys, lorax; assert 'flax' not in sys.modules; "
        "assert lorax.io.peft.load and lorax.io.pretrained.save and lorax.models.Llama; "
        "assert not hasattr(lorax, 'bogus') and not hasattr(lorax.io, 'bogus')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
