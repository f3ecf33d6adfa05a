"""Before JAX is imported: the CPU, as four devices, so that shardings can be tested anywhere."""

import gc
import os
from importlib import metadata

# Traces are large graphs that live long: 10 % of the time of the tests of laws went into looking
# for cycles among them.
gc.set_threshold(200_000, 20, 10)


def _xla_flags(flags: str) -> str:
    if "xla_force_host_platform_device_count" not in flags:
        flags += " --xla_force_host_platform_device_count=4"
    # Where XLA is told not to optimise (see Makefile) half of what compiling still took went into
    # its emitters of fused loops. Later releases have no others, and die of an unknown flag.
    unoptimised = "xla_backend_optimization_level=0" in flags
    if unoptimised and metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags.strip()


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = _xla_flags(os.environ.get("XLA_FLAGS", ""))

try:
    import hypothesis
except ImportError:  # the environment of tests/interop
    pass
else:  # machines are shared: how long an example takes says nothing about the code
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
