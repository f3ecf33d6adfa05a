"""How long does the Walsh-Hadamard transform take in torch, as log2(L) passes of chunk and cat?

    python experiments/benchmarks/_projection_torch.py THREADS

That is the form that public code of intrinsic dimension has. Run by
`experiments.benchmarks.projection` in an environment of its own that has torch, and kept alive, so
that its calls take turns with those of the other process. Reads one JSON object a line and answers
each with one: {"load": FILE} reads the vector, {"save": FILE, "what": "forward" or "vjp"} writes
its transform, {"calls": N, "what": ...} makes it N times.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def transform(x: Any) -> Any:
    """H x of a vector, whose length is a power of two: an axis of 2 for each bit."""
    import torch

    y = x.view([2] * (x.numel().bit_length() - 1))
    for axis in range(y.dim()):
        first, second = torch.chunk(y, 2, dim=axis)
        y = torch.cat((first + second, first - second), dim=axis)
    return y.reshape(x.shape)


def serve(threads: int) -> None:
    """Answers the questions of stdin until it ends; the first line names the version."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    _answer({"torch": torch.__version__, "threads": torch.get_num_threads()})
    runs: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "load" in question:
            x = torch.from_numpy(np.load(question["load"]))
            runs = _runs(x)
        elif "save" in question:
            np.save(question["save"], runs[question["what"]]().numpy())
        else:
            for _ in range(question["calls"]):
                runs[question["what"]]()
        _answer({})


def _runs(x: Any) -> dict[str, Callable[[], Any]]:
    """The transform without a record for the gradient, and the backward pass alone."""
    import torch

    learns = x.clone().requires_grad_()
    y = transform(learns)

    def forward() -> Any:
        with torch.no_grad():
            return transform(x)

    return {
        "forward": forward,
        "vjp": lambda: torch.autograd.grad(y, learns, x, retain_graph=True)[0],
    }


def _answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
