"""How do several devices share one step? Each computes some rows of a batch, all hold the rest.

Data parallelism through `jax.jit` alone: a batch is one global array cut along its rows, base and
state are whole on every device, and XLA adds the gradients of A and B together. A single device
needs none of it, and gets its arrays as they are.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lorax.core.errors import LoraxError

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Devices that share a step, in one row.

    Attributes:
      mesh: None where there is a single device.
    """

    mesh: Mesh | None

    def batch(self, batch: Any) -> Any:
        """The global batch, from the rows of this process: row block p of n is process p's.

        Args:
          batch: a pytree of host arrays with leading axis (rows of this process, ...).

        Raises:
          LoraxError: the rows cannot be dealt evenly to the devices.
        """
        if self.mesh is None:
            return batch
        sharding = NamedSharding(self.mesh, P(AXIS))
        here = len(self.mesh.local_devices)
        for leaf in jax.tree.leaves(batch):
            if leaf.shape[0] % here:
                total = leaf.shape[0] * jax.process_count()
                raise LoraxError(
                    f"a batch of {total} rows on {self.mesh.size} devices: expected a multiple of "
                    f"{self.mesh.size}; change the batch"
                )
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
        )

    def everywhere(self, tree: Any) -> Any:
        """`tree` whole on every device; its values must be the same in every process."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, P())
        if jax.process_count() == 1:
            return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)
        return jax.tree.map(lambda x: _everywhere(x, sharding), tree)


def here(tree: Any) -> Any:
    """`tree`, which is whole on every device, as arrays of this process alone."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def _everywhere(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """A global array of what every process has whole."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(leaf)
        return jax.random.wrap_key_data(_everywhere(jax.random.key_data(leaf), sharding), impl=impl)
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))


def replicas(rows: int) -> Replicas:
    """All devices there are; a single process leaves out some where `rows` cannot be dealt evenly.

    Args:
      rows: of a batch.
    """
    devices = jax.devices()
    if jax.process_count() == 1:
        devices = devices[: math.gcd(rows, len(devices))]
    if len(devices) == 1:
        return Replicas(None)
    kinds = (jax.sharding.AxisType.Auto,)
    return Replicas(jax.make_mesh((len(devices),), (AXIS,), axis_types=kinds, devices=devices))


def from_first(value: int) -> int:
    """The number that process 0 gives, in every process; the others wait for it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def meet(name: str) -> None:
    """Waits until every process has come here; does nothing with a single one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
