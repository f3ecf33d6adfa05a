"""How does a verb meet its user? Flags in, one clear line out when something is wrong.

A mistake of the user (an unknown flag or field, a missing file, a full disk, any `LoraxError`) is
one line on standard error and a non-zero exit code. Anything else is a bug and keeps its traceback.
"""

import difflib
import errno
import operator
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

USAGE, FAILURE, SIGNALLED, INTERRUPTED, CLOSED = 2, 1, 128, 130, 141
"""Exit codes; above 128 those of a process that a signal ended, as SIGINT or SIGPIPE."""

_USER_ERRNO = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


class UsageError(Exception):
    """A command line that cannot be understood; the message is one line with the cure."""


class Ended(Exception):
    """Work that a signal ended, in good order; its message says how to go on, and `code` is that
    of a process which the signal ended."""

    def __init__(self, message: str, code: int):
        self.code = code
        super().__init__(message)


class Flag(NamedTuple):
    """A flag of one verb beside --config and --workdir: a switch, or one that takes a text."""

    name: str
    default: bool | str
    help: str


class Call(NamedTuple):
    """What the user asked for: the resolved config, what of it was overridden, and where to."""

    config: Any
    overrides: dict[str, Any]
    workdir: pathlib.Path
    config_name: str
    flags: Mapping[str, bool | str] = MappingProxyType({})


def enter(main: Callable[[], int]) -> NoReturn:
    """Runs `main` as this process, and ends the process with its exit code.

    What a stream cannot encode is written as an escape. A reader that has seen enough (`| head -1`)
    ends the process without a word.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = main()
    except BrokenPipeError:
        code = CLOSED
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            # or Python flushes once more at its end, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code or CLOSED
    if code > SIGNALLED and code != CLOSED:
        # JAX, torn down amid a compilation, waits for its end and then crashes
        os._exit(code)
    sys.exit(code)


def run(
    verb: Callable[[Call], None],
    doc: str,
    *,
    config: str,
    argv: Sequence[str] | None = None,
    flags: Sequence[Flag] = (),
) -> int:
    """Parses the command line, runs `verb`, and returns the exit code.

    Args:
      verb: the work; imports what is heavy itself, so that --help is quick.
      doc: shown by --help.
      config: the default of --config, `path/to/file.py` or `path/to/file.py:argument`.
      argv: arguments without the program's name; None means the process's own.
      flags: of this verb alone; with a switch `dry_run` or `plan`, that one needs no --workdir.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(re.fullmatch(r"--?(h|help|helpshort|helpfull)", arg) for arg in argv):
        return guarded(lambda: print(_help(doc, config, flags)))
    return guarded(lambda: verb(parse(argv, config, flags)))


def guarded(action: Callable[[], None], wording: Callable[[str], str] = str) -> int:
    """Runs `action` and returns the exit code; a user's mistake is one line on standard error.

    Args:
      action: the work.
      wording: turns what a `LoraxError` says into what fits a command line.
    """
    try:
        action()
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is told here, and not by Python at its end
    except UsageError as error:
        return _fail(error, USAGE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Ended as error:
        print(error, file=sys.stderr)
        return error.code
    except BrokenPipeError:
        return CLOSED
    except OSError as error:
        if error.errno not in _USER_ERRNO:
            raise
        place = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{place}{error.strerror}; check the path and the disk", FAILURE)
    except ValueError as error:
        from lorax.core.errors import LoraxError

        if not isinstance(error, LoraxError):
            raise
        return _fail(wording(str(error)), FAILURE)
    return 0


def parse(argv: Sequence[str], default: str, own: Sequence[Flag] = ()) -> Call:
    """The config file with its overrides applied, and the workdir.

    Raises:
      UsageError: an unknown flag or field, a value of the wrong type, a missing workdir or config.
    """
    from absl import flags
    from ml_collections import config_flags

    name, rest = _take(argv, "config", default)
    _check_flags(rest, own)
    from experiments._page_file import load_config

    config = load_config(name)
    for arg in rest:
        _check_field(config, arg)
    values = flags.FlagValues()
    argv = ["verb", *rest]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "where results go", flag_values=values)
    for flag in own:
        define = flags.DEFINE_boolean if isinstance(flag.default, bool) else flags.DEFINE_string
        define(flag.name, flag.default, flag.help, flag_values=values)
    try:
        left = values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UsageError(_mistyped(config, rest, error)) from None
    if left:
        raise UsageError(f"unexpected argument '{left[0]}': flags are written --name=value")
    chosen = {flag.name: values[flag.name].value for flag in own}
    dry = chosen.get("dry_run") or chosen.get("plan")
    if not dry and (not values.workdir or values.workdir.startswith("--")):
        raise UsageError("--workdir is missing: say where results go, --workdir=runs/my-run")
    overrides = dict(config_flags.get_override_values(values["config"]))
    workdir = pathlib.Path(values.workdir or ".").absolute()
    return Call(values.config, overrides, workdir, name, chosen)


def _check_flags(rest: Sequence[str], own: Sequence[Flag]) -> None:
    names = ["workdir", *(flag.name for flag in own)]
    switches = [f"no{flag.name}" for flag in own if isinstance(flag.default, bool)]
    for arg in rest:
        known = re.match(r"--?(no)?config\.", arg) or (
            arg.startswith("-") and arg.lstrip("-").partition("=")[0] in [*names, *switches]
        )
        if arg.startswith("-") and not known:
            raise UsageError(_unknown_flag(arg, ["config", "help", *names]))


def _take(argv: Sequence[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of `--flag=value` or `--flag value`, and the other arguments."""
    value, rest, queue = default, list[str](), list(argv)
    while queue:
        arg = queue.pop(0)
        if arg.lstrip("-") == flag and arg.startswith("-"):
            if not queue or queue[0].startswith("--"):
                raise UsageError(f"--{flag} has no value: write --{flag}=...")
            value = queue.pop(0)
        elif re.match(rf"--?{flag}=", arg):
            value = arg.partition("=")[2]
        else:
            rest.append(arg)
    return value, rest


def _check_field(config: Any, arg: str) -> None:
    """A mistyped `--config.a.b` is told before the flag parser meets it with a traceback."""
    match = re.match(r"--?(?:no)?config\.([^=]*)", arg)
    if not match:
        return
    node, walked = config, "config"
    for part in match[1].split("."):
        fields = list(node) if hasattr(node, "to_dict") else []
        if part not in fields:
            near = nearest(part, fields) or (f"; it has {', '.join(fields)}" if fields else "")
            raise UsageError(f"unknown config field '{part}' in '{walked}' ({arg}){near}")
        node, walked = node[part], f"{walked}.{part}"
    if hasattr(node, "to_dict"):
        raise UsageError(
            f"'{walked}' is no field but has some: write --{walked}.{next(iter(node))}"
        )


def _mistyped(config: Any, rest: Sequence[str], error: Exception) -> str:
    """What the parser says, with what is expected of a field in place of Python's own words."""
    message = " ".join(str(error).split("\n")[0].split())
    name = re.match(r"flag --(config\.([\w.]+)=)", message)
    if not name:
        return message
    given = next(arg for arg in reversed(rest) if arg.lstrip("-").startswith(name[1]))
    kinds = {int: "an integer", float: "a number", bool: "a boolean", tuple: "a tuple"}
    now = operator.attrgetter(name[2])(config)
    return f"{given}: expected {kinds.get(type(now), 'a value')} such as {now!r}"


def _unknown_flag(arg: str, known: Sequence[str]) -> str:
    name = arg.lstrip("-").partition("=")[0]
    near = nearest(name, known, "--")
    return f"unknown flag '--{name}'{near}: see --help"


def nearest(name: str, candidates: Sequence[str], prefix: str = "") -> str:
    """What to add to a message about `name`: the candidate that may have been meant, or nothing."""
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; did you mean '{prefix}{near[0]}'?" if near else ""


def _fail(error: object, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _help(doc: str, config: str, flags: Sequence[Flag]) -> str:
    shown = {f: f.name if isinstance(f.default, bool) else f"{f.name}=..." for f in flags}
    workdir = "  --workdir=DIR            where results go; made if it is missing (required)"
    if any(flag.name == "plan" for flag in flags):
        workdir = "  --workdir=DIR            not needed: nothing is written"
    own = "".join(f"\n  --{name:<22} {flag.help}" for flag, name in shown.items())
    return f"""{doc.strip()}

Flags:
{workdir}
  --config=FILE[:ARG]      the config page (default {config})
  --config.FIELD=VALUE     override a field of it, as often as needed: --config.seed.init=1{own}
  --help                   this text
"""
