"""A small base with one leaf a kind, trained deltas on it, and their ΔW in float64."""

import functools

import jax
import numpy as np

import lorax

BASE = {
    "query": jax.random.normal(jax.random.key(0), (6, 5)),
    "heads": jax.random.normal(jax.random.key(1), (4, 2, 3)),
    "experts": jax.random.normal(jax.random.key(2), (3, 4, 5)),
}
ROLES = {
    "query": lorax.Roles((), (0,), (1,)),
    "heads": lorax.Roles((), (0,), (1, 2)),
    "experts": lorax.Roles((0,), (1,), (2,)),
}


def trained(adapter, seed, base=BASE, roles=ROLES, size=1.0):
    """A delta as far from its start as can be: random throughout, and nothing is compiled."""
    shapes = jax.eval_shape(lambda key: adapter.init(key, base, roles), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(size * rng.normal(size=x.shape), x.dtype), shapes)


def update(adapter, delta, leaf):
    """ΔW in float64, from the factors alone."""
    factors = delta[leaf]
    a, b = np.asarray(factors.A, np.float64), np.asarray(factors.B, np.float64)
    spelling = {"query": "ir,ro->io", "heads": "ir,rhk->ihk", "experts": "eir,ero->eio"}[leaf]
    return float(adapter.scale_of(leaf)) * np.einsum(spelling, a, b)


def as_matrices(array, leaf):
    """(n, in, out)."""
    return np.asarray(array, np.float64).reshape(ROLES[leaf].matrix(BASE[leaf].shape))


def cut(matrices, rank):
    """The best approximation of each matrix with `rank`, by NumPy."""
    u, s, vt = np.linalg.svd(matrices, full_matrices=False)
    return (u[:, :, :rank] * s[:, None, :rank]) @ vt[:, :rank]


def relative(a, b):
    """Frobenius distance relative to the second."""
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@functools.cache
def two():
    """Two adapters of different rank, alpha and scaling, trained: (adapter, delta) each."""
    first = lorax.LoRA(rank=2, alpha=5.0, where=(".*",))
    second = lorax.LoRA(rank=3, alpha=4.0, where=(".*",), scaling="rslora")
    return (first, trained(first, 1)), (second, trained(second, 2))
