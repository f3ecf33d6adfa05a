"""Trains what a config page describes, in a workdir, and goes on there when it is run again.

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/q \\
        --config.adapter.rank=4
    python -m experiments.train --config=configs/e2e_gpt2_medium.py:smoke --workdir=runs/smoke
    python -m experiments.train --config=configs/gpt3_175b.py --dry_run

A new workdir starts; an unfinished run of the same config goes on from its last checkpoint, after a
kill too; a finished one shows its report; a workdir of another config is refused.
SIGTERM and SIGINT save first; the exit code is then 143 or 130.
"""

import re
import sys

from experiments import _cli, _memory

CLUSTERS = {"auto": None, "mpi4py": "mpi4py"}
"""How processes find each other, and JAX's name for it. auto: SLURM, Open MPI, Kubernetes, TPUs."""

FLAGS = (
    _cli.Flag("dry_run", False, "show config, coverage, parameters and memory; do nothing"),
    _cli.Flag(
        "distributed",
        "",
        "auto (SLURM, Open MPI, Kubernetes, TPU), mpi4py, or\n"
        f"{'':<27}HOST:PORT,PROCESSES,INDEX, of several processes",
    ),  # fmt: skip
)


def verb(call: _cli.Call) -> None:
    """Trains, or shows what would be trained."""
    _memory.keep_freed()
    if call.flags["distributed"]:
        _connect(str(call.flags["distributed"]))
    if call.flags["dry_run"]:
        from experiments._train import preview

        return preview.show(call)
    from experiments._train import run

    return run.tell(call)


def _connect(text: str) -> None:
    """Meets the other processes, before anything else of JAX is used."""
    import jax

    found = re.fullmatch(r"(\S+:\d+),(\d+),(\d+)", text)
    if text not in CLUSTERS and not (found and int(found[3]) < int(found[2])):
        raise _cli.UsageError(
            f"--distributed='{text}': expected one of {', '.join(CLUSTERS)}, or "
            "HOST:PORT,PROCESSES,INDEX such as 127.0.0.1:1234,2,0, and 127.0.0.1:1234,2,1 for the "
            "other"
        )
    try:
        if found:
            address, count, index = found.groups()
            print(f"Process {index} of {count} waits for all to be at {address}.", flush=True)
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize(cluster_detection_method=CLUSTERS[text])
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        cure = (
            "give the same HOST:PORT,PROCESSES to all of them, and each its INDEX"
            if found
            else "start it inside such a cluster, or give HOST:PORT,PROCESSES,INDEX"
        )
        raise _cli.UsageError(
            f"--distributed='{text}': the processes do not meet ({first}): {cure}"
        ) from None


def main(argv: list[str] | None = None) -> int:
    """The exit code of the verb on `argv`, the process's own arguments by default."""
    code = _cli.run(verb, __doc__, config="configs/quickstart.py", argv=argv, flags=FLAGS)
    if code and "jax" in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """Of several processes, one that failed ends at once; JAX would have it wait for the others."""
    import jax

    if jax.distributed.is_initialized() and jax.process_count() > 1:
        from lorax.parallel.watch import leave

        leave(code)


if __name__ == "__main__":
    _cli.enter(main)
