"""Where does every array of a step lie? A mesh, rules for the base, and what follows from them.

From shapes alone: the base by its rules, factors as their leaves, the optimizer's numbers as the
factors that they belong to, batches by rows. A single device has no mesh, and everything is itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lorax.core import paths
from lorax.core.adapter import Prepared, unprepared
from lorax.core.errors import LoraxError
from lorax.parallel.factors import delta_specs
from lorax.parallel.mesh import ROWS
from lorax.parallel.rules import Rules, specs, ways

Tree = Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie while several devices share a step.

    Attributes:
      mesh: with the axes of `lorax.parallel.mesh.AXES`; None for a single device.
      rules: of the base, for instance `lorax.parallel.tables.RULES["llama"]`.
      replicate_below: a factor of fewer numbers is whole on every device.
    """

    mesh: Mesh | None
    rules: Rules = ()
    replicate_below: int = 1 << 16

    def base(self, base: Tree) -> Tree:
        """A sharding for each array of a base, prepared or not, or of its shapes; None without a
        mesh.

        The codes of a quantised leaf lie as its matrix would, its scales too where they divide.

        Raises:
          LoraxError: as `lorax.parallel.rules.specs`.
        """
        if self.mesh is None:
            return None
        plain, derived = unprepared(base)
        known = specs(plain, self.rules, self.mesh)

        def one(keys: Any, leaf: Any) -> Any:
            spec = known.get(paths.path_of(keys))
            if spec is None:  # a part of a quantised leaf
                spec = self._cut(known.get(paths.path_of(keys[:-1]), P()), leaf)
            return self._on(spec)

        shardings = jax.tree_util.tree_map_with_path(one, plain)
        if not isinstance(base, Prepared):
            return shardings
        return dataclasses.replace(base, base=shardings, derived=self.delta(derived, base))

    def delta(self, delta: Tree, base: Tree) -> Tree:
        """A sharding for each array of a delta, or of its shapes; None without a mesh."""
        if self.mesh is None:
            return None
        known = specs(unprepared(base)[0], self.rules, self.mesh)
        found = delta_specs(delta, known, self.mesh, self.replicate_below)
        return jax.tree.map(self._on, found, is_leaf=lambda node: isinstance(node, P))

    def state(self, state: Tree, base: Tree) -> Tree:
        """A sharding for each array of a state, or of its shapes; None without a mesh.

        Args:
          state: with the delta as its `delta`; an array elsewhere that mirrors one of the delta, by
            name and shape, lies as it does. All others, counts and keys, are on every device.
          base: the frozen parameters, or their shapes.
        """
        if self.mesh is None:
            return None
        like = jax.tree_util.tree_flatten_with_path(state.delta)[0]
        shardings = jax.tree.leaves(self.delta(state.delta, base))
        known = {
            (*keys, leaf.shape): sharding
            for (keys, leaf), sharding in zip(like, shardings, strict=True)
        }
        whole = self._on(P())

        def one(keys: Any, leaf: Any) -> NamedSharding:
            ends = ((*keys[start:], jnp.shape(leaf)) for start in range(len(keys) + 1))
            return next((known[end] for end in ends if end in known), whole)

        return jax.tree_util.tree_map_with_path(one, state)

    @property
    def batches(self) -> NamedSharding | None:
        """How every array of a batch lies: cut along its rows by `data` and `fsdp`."""
        return None if self.mesh is None else NamedSharding(self.mesh, P(ROWS))

    @property
    def rows(self) -> tuple[int, int]:
        """(index, count): of `count` equal blocks of a batch's rows, which one this process gives.

        Processes whose devices hold the same rows, since `tensor` spans them, give the same block.

        Raises:
          LoraxError: the devices of this process hold no such block.
        """
        sharding = self.batches
        if sharding is None:
            return 0, 1
        parts = ways(ROWS, sharding.mesh)  # type: ignore[arg-type]
        held = sharding.addressable_devices_indices_map((parts,)).values()
        mine = sorted({part for own in held if own for part in range(parts)[own[0]]})
        first, size = mine[0], len(mine)
        if mine != list(range(first, first + size)) or first % size or parts % size:
            raise LoraxError(
                f"the devices of process {jax.process_index()} hold the parts {mine} of {parts} of "
                "a batch: expected one block of neighbours, as large in every process; make tensor "
                "a divisor or a multiple of the devices of a process"
            )
        return first // size, parts // size

    def shardings(self, state: Tree, base: Tree) -> tuple[Tree, Tree, Tree] | None:
        """Those of state, base and batch, as `lorax.train.step.make_step` takes them."""
        if self.mesh is None:
            return None
        return self.state(state, base), self.base(base), self.batches

    def batch(self, tree: Tree) -> Tree:
        """Global arrays, cut along their rows, from the rows that this process gives.

        Args:
          tree: host arrays (rows of block `rows`, ...).

        Raises:
          LoraxError: the rows cannot be dealt evenly to the devices.
        """
        sharding = self.batches
        if sharding is None:
            return tree
        parts, (_, count) = ways(ROWS, sharding.mesh), self.rows  # type: ignore[arg-type]

        def one(x: Any) -> jax.Array:
            x = np.asarray(x)
            total = x.shape[0] * count
            if total % parts:
                raise LoraxError(
                    f"a batch of {total} rows on a mesh that cuts it into {parts}: expected a "
                    f"multiple of {parts}; change the batch, or data and fsdp of the mesh"
                )
            return jax.make_array_from_process_local_data(sharding, x, (total, *x.shape[1:]))

        return jax.tree.map(one, tree)

    def place(self, tree: Tree, shardings: Tree) -> Tree:
        """`tree` with its arrays where `shardings` says; the values are the same in every process.

        Args:
          tree: arrays of the host, of one device, or global ones.
          shardings: of `base`, `delta` or `state`, or one for all arrays.
        """
        if self.mesh is None:
            return tree
        if isinstance(shardings, jax.sharding.Sharding):
            return jax.tree.map(lambda x: _placed(x, shardings), tree)
        return jax.tree.map(_placed, tree, shardings)

    def whole(self, tree: Tree) -> Tree:
        """`tree` with every array whole on the host, in every process, which all call it."""
        return tree if self.mesh is None else jax.tree.map(_whole, tree)

    def _on(self, spec: P) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)

    def _cut(self, spec: P, leaf: Any) -> P:
        """`spec` without the entries that do not divide `leaf`."""
        assert self.mesh is not None
        if len(spec) != len(leaf.shape):
            return P()
        pairs = zip(leaf.shape, spec, strict=True)
        return P(*(None if n % ways(entry, self.mesh) else entry for n, entry in pairs))


def single() -> Layout:
    """The layout of one device: every array is used as it is."""
    return Layout(None)


def _placed(x: Any, sharding: Any) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if _is_key(x):
        data = _placed(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x if x.sharding == sharding else jax.jit(lambda y: y, out_shardings=sharding)(x)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _whole(x: Any) -> Any:
    if _is_key(x):
        data = _whole(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
