"""Which rules has each family of models? Columns, then rows: one sum after `out` and `down`.

`tensor` cuts the outputs of the products that begin attention and the feed-forward, and the inputs
of those that end them, so that a layer sums over devices twice. `fsdp` cuts the other axis. A
vocabulary is cut by `tensor` where published sizes divide (LLaMA's 32,000 and 128,256); those of
GPT-2 (50,257) and RoBERTa (50,265) are odd, so there `fsdp` alone cuts the tables.

The columns of GPT-2's `qkv` are all queries, then all keys, then all values: `tensor` cuts them in
runs that are no heads, so activations are exchanged once more in each layer.
"""

from collections.abc import Mapping
from types import MappingProxyType

from jax.sharding import PartitionSpec as P

from lorax.parallel.rules import REPLICATED, Rules

_BEGIN, _END = P("fsdp", "tensor"), P("tensor", "fsdp")
_WIDTH = P(None, "fsdp")

_LLAMA: Rules = (
    (r".*/(query|key|value|gate|up)/kernel", _BEGIN),
    (r".*/(out|down)/kernel", _END),
    (r"(.*/)?embed/embedding", P("tensor", "fsdp")),
    (r"(.*/)?lm_head/kernel", P("fsdp", "tensor")),
    (r"(.*/)?(norm|attention_norm|mlp_norm)/scale", P()),
)

_NORMS: Rules = ((r"(.*/)?(norm|attention_norm|mlp_norm|embed_norm)/(scale|bias)", P()),)

_GPT2: Rules = (
    (r".*/(qkv|up)/kernel", _BEGIN),
    (r".*/(qkv|up)/bias", P("tensor")),
    (r".*/(out|down)/kernel", _END),
    (r".*/(out|down)/bias", P()),
    (r"(.*/)?(embed|positions)/embedding", _WIDTH),
    (r"(.*/)?lm_head/kernel", P("fsdp", None)),
    *_NORMS,
)

_ROBERTA: Rules = (
    (r"(.*/)?(classifier|lm_head)/.*/kernel", P("fsdp", None)),
    (r"(.*/)?(classifier|lm_head)/.*", P()),
    (r".*/(query|key|value|up)/kernel", _BEGIN),
    (r".*/(query|key|value|up)/bias", P("tensor")),
    (r".*/(out|down)/kernel", _END),
    (r".*/(out|down)/bias", P()),
    (r"(.*/)?(embed|positions|types)/embedding", _WIDTH),
    *_NORMS,
)

RULES: Mapping[str, Rules] = MappingProxyType(
    {
        "llama": _LLAMA,
        "gpt2": _GPT2,
        "roberta": _ROBERTA,
        # small: rows are cut, and the base is whole on every device
        "mlp": REPLICATED,
        "lenet": REPLICATED,
    }
)
"""The rules of a base by the family of its model; each covers every leaf of it."""
