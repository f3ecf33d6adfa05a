"""What the tests of launchers run in place of the verb: units of three short steps.

    python stand_in.py FOLDER STEP_SECONDS [WAYS] --only=FILE

WAYS are words that say what goes wrong: once `kill:UNIT` (SIGKILL in its second step) and
`orphan:UNIT` (the same to the process that started it); always `mistake:UNIT`, `bug:UNIT` and
`nan:UNIT`.
"""

import json
import os
import pathlib
import signal
import sys
import time


def main(folder, pause, *words):
    """Trains what --only names."""
    ways = dict(word.split(":")[::-1] for word in words if ":" in word)
    only = next(word.partition("=")[2] for word in words if word.startswith("--only="))
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    for unit in json.loads(pathlib.Path(only).read_text()):
        workdir = folder / "units" / unit
        workdir.mkdir(parents=True, exist_ok=True)
        if any((workdir / end).exists() for end in ("DONE", "FAILED")):
            continue
        with open(workdir / "pids", "a") as pids:
            print(os.getpid(), file=pids)
        train(workdir, pause, ways.get(unit), asked)


def train(workdir, pause, way, asked):
    """Steps that are saved, and what is to go wrong."""
    saved = [int(path.name) for path in workdir.glob("checkpoints/*")]
    for step in range(1 + max(saved, default=0), 4):
        time.sleep(pause)
        once = workdir / "once"
        if way in ("kill", "orphan") and step == 2 and not once.exists():
            once.touch()
            os.kill(os.getpid() if way == "kill" else os.getppid(), signal.SIGKILL)
            time.sleep(0.5)
        if way == "mistake":
            print("error: no data at 'x': check the path", file=sys.stderr)
            sys.exit(1)
        if way == "bug":
            raise RuntimeError("a bug")
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
        if asked:
            print("stopped")
            sys.exit(128 + signal.SIGTERM)
    said = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    (workdir / ("FAILED" if way == "nan" else "DONE")).write_text(said)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
