"""Models in Flax Linen. They import flax and jax only, and have never heard of adapters."""

from lorax.models.layers import RMSNorm as RMSNorm
from lorax.models.layers import rotary_angles as rotary_angles
from lorax.models.layers import rotate as rotate
from lorax.models.layers import segment_mask as segment_mask
from lorax.models.lenet import LeNet as LeNet
from lorax.models.llama import Llama as Llama
from lorax.models.llama_cache import Cache as Cache
from lorax.models.llama_cache import init_cache as init_cache
from lorax.models.llama_config import BYTE_1M as BYTE_1M
from lorax.models.llama_config import LLAMA_7B as LLAMA_7B
from lorax.models.llama_config import LLAMA_13B as LLAMA_13B
from lorax.models.llama_config import LLAMA_33B as LLAMA_33B
from lorax.models.llama_config import LLAMA_65B as LLAMA_65B
from lorax.models.llama_config import STORIES_15M as STORIES_15M
from lorax.models.llama_config import STORIES_110M as STORIES_110M
from lorax.models.llama_config import STORIES_260K as STORIES_260K
from lorax.models.llama_config import TINYLLAMA_1B as TINYLLAMA_1B
from lorax.models.llama_config import TOY as TOY
from lorax.models.llama_config import LlamaConfig as LlamaConfig
from lorax.models.llama_config import param_count as param_count
from lorax.models.llama_layout import stack_layers as stack_layers
from lorax.models.llama_layout import unstack_layers as unstack_layers
from lorax.models.mlp import MLP as MLP
