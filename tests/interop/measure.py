"""How far are our logits from theirs? Shared by the tests against fixtures and against torch."""

import functools
import pathlib

import jax
import numpy as np

import lorax
from lorax.io import pretrained

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures"
TOLERANCE = 1e-5
FAST = {"xla_backend_optimization_level": 0}  # a third less time: these tests mostly compile


@functools.cache
def model_of(name: str, scan: bool = False) -> pretrained.Pretrained:
    """The fixture model of that name, read by lorax."""
    return pretrained.load(FOLDER / "models" / name, scan=scan)


@functools.cache
def _jitted(model):
    return jax.jit(model.apply, compiler_options=FAST)


def logits(model, params, ids, mask):
    """What one of our models says of a padded batch."""
    return _jitted(model)(params, np.asarray(ids), mask=np.asarray(mask, bool))


def adapted_logits(model, adapter, params, delta, ids, mask):
    """The same with an adapter beside the base, every leaf of it evaluated in factored form."""
    apply = jax.jit(lorax.adapt(model.apply, adapter, on_fallback="error"), compiler_options=FAST)
    return apply(params, delta, np.asarray(ids), mask=np.asarray(mask, bool))


def error(ours, theirs, mask) -> float:
    """max |ours - theirs| / max |theirs| over the logits of real tokens, or of whole texts."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    if ours.ndim == 3:
        real = np.asarray(mask, bool)
        ours, theirs = ours[real], theirs[real]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
