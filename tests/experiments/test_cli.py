"""The verb's manners: every mistake of the user is one line and an exit code, bugs are not."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from experiments import _cli
from lorax.core.errors import LoraxError

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=""):
    inner = {"names": ("a", "b"), "flag": True}
    return ConfigDict({"steps": 3, "rate": 0.5, "inner": inner, "arg": arg})
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(CONFIG)
    return str(file)


def call(capsys, config, *argv, verb=lambda call: None):
    """(exit code, lines of standard error)"""
    code = _cli.run(verb, "Does things.", config=config, argv=list(argv))
    return code, capsys.readouterr().err.splitlines()


def test_overrides_reach_the_verb(capsys, config, tmp_path):
    calls = []
    argv = ["--config.steps=5", f"--config={config}:small", "--config.inner.names=('q',)"]
    argv += ["--noconfig.inner.flag", "--workdir", str(tmp_path / "run")]
    code, lines = call(capsys, config, *argv, verb=calls.append)
    assert (code, lines) == (0, [])
    found = calls[0]
    assert (found.config.steps, found.config.arg) == (5, "small")
    assert found.config.inner.names == ("q",) and found.config.inner.flag is False
    assert found.workdir == tmp_path / "run"
    assert found.overrides == {"steps": 5, "inner.names": ("q",), "inner.flag": False}


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--wrkdir=x"], ["unknown flag '--wrkdir'", "did you mean '--workdir'"]),
        (["--frobnicate"], ["unknown flag '--frobnicate'", "--help"]),
        (["-v"], ["unknown flag '--v'"]),
        (["--config.stepz=4"], ["unknown config field 'stepz' in 'config'", "'steps'"]),
        (["--config.inner.nams=4"], ["'nams' in 'config.inner'", "did you mean 'names'"]),
        (["--config.inner.zzz=4"], ["'zzz'", "it has flag, names"]),
        (["--config.steps.deep=4"], ["unknown config field 'deep' in 'config.steps'"]),
        (["--config.steps=many"], ["config.steps=many"]),
        (["--config.inner=3"], ["config.inner"]),
        (["--config"], ["--config has no value"]),
        (["--config=absent.py"], ["'absent.py' does not exist"]),
        (["--config=configs/quikstart.py"], ["did you mean 'configs/quickstart.py'"]),
        (["--config=README.md"], ["README.md", "config"]),
        (["--config.steps=4", "stray"], ["unexpected argument 'stray'"]),
        (["--workdir="], ["--workdir is missing"]),
    ],
)
def test_usage_errors_are_one_line(capsys, config, argv, words):
    workdir = [] if argv == ["--workdir="] else ["--workdir=here"]
    code, lines = call(capsys, config, *argv, *workdir)
    assert code == _cli.USAGE and len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines


def test_missing_workdir(capsys, config):
    code, lines = call(capsys, config)
    assert code == _cli.USAGE
    assert lines == ["error: --workdir is missing: say where results go, --workdir=runs/my-run"]


def test_a_config_without_get_config(capsys, tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("x = 1")
    code, lines = call(capsys, str(file), "--workdir=x")
    assert code == _cli.USAGE and "has no get_config" in lines[0]


def raising(error):
    def verb(call):
        raise error

    return verb


@pytest.mark.parametrize(
    "error, code, line",
    [
        (LoraxError("rank is 0:\n use 1"), 1, "error: rank is 0: use 1"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            1,
            "error: '/x': Permission denied; check the path and the disk",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: No space left on device; check the path and the disk",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line(capsys, config, error, code, line):
    found = call(capsys, config, "--workdir=x", verb=raising(error))
    assert found == (code, [line])


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), OSError(errno.EBADF, "bug")])
def test_bugs_keep_their_traceback(capsys, config, error):
    with pytest.raises(type(error)):
        call(capsys, config, "--workdir=x", verb=raising(error))


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help_is_short(capsys, config, flag):
    assert _cli.run(raising(RuntimeError()), "Does things.", config=config, argv=[flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Does things.") and "--workdir" in text and len(text.splitlines()) < 12


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from experiments import quickstart; quickstart.main(['--help']); "
        "assert not {'jax', 'flax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config=FILE" in done.stdout


def entered(body, **kwargs):
    """A process that enters a `main` with this body, under `_cli.guarded`."""
    code = (
        "import atexit, os, signal, sys, time; from experiments import _cli\n"
        # a job that a script put in the background starts with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def work():\n  {body}\n"
        "atexit.register(print, 'torn down', file=sys.stderr)\n"
        "_cli.enter(lambda: _cli.guarded(work))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **kwargs
    )


def ended(process):
    """What `process` wrote, once it has ended by itself."""
    with process:
        try:
            return process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()  # or it, and its pipes, would outlive the test
            raise


def test_an_interrupted_process_is_not_torn_down():
    process = entered("print('ready', flush=True); time.sleep(60)", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.parametrize("body", ["print('x' * 10**6)", "print('x')", "print('x', flush=True)"])
def test_a_closed_pipe_is_left_in_silence(body):
    read, write = os.pipe()
    os.close(read)
    process = entered(body, stdout=write)
    os.close(write)
    assert ended(process) == (None, "torn down\n")
    assert process.returncode == 141


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        process = entered("print('x')", stdout=full)
    line = "error: No space left on device; check the path and the disk\n"
    assert ended(process) == (None, line + "torn down\n")
    assert process.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_cannot_be_encoded_is_escaped(encoding):
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    process = entered("print(chr(0x2016))", stdout=subprocess.PIPE, env=env)
    assert ended(process) == ("\\u2016\n", "torn down\n")
    assert process.returncode == 0


def test_a_verb_run_as_a_file_says_how_it_is_run(tmp_path):
    folder = pathlib.Path(_cli.__file__).parent
    for name in ("merge", "inspect"):
        done = subprocess.run(
            [sys.executable, folder / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert f"python -m experiments.{name} from the folder" in done.stderr
