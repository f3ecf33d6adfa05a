"""How are virtual tokens exchanged with PEFT? Its files of prompt, P- and prefix tuning, both ways.

Such a file holds one tensor, `prompt_embeddings`: the vectors (n, D) that stand before the input
(PROMPT_TUNING, P_TUNING), or the keys and values (n, 2 L K H) before every layer's own, row by row
[key of layer 0, value of layer 0, key of layer 1, …] (PREFIX_TUNING); and the modules that are
trained whole. PEFT evaluates what makes them, an encoder or a projection, and loses it: so what
comes from a file is the vectors themselves, and what we write is the vectors as well.
Source: github.com/huggingface/peft, version 0.21, peft_model.py and tuners/prefix_tuning/model.py.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.p_tuning import PTuning
from lorax.adapters.prefix_tuning import PrefixTuning
from lorax.adapters.prompt_tuning import PromptTuning
from lorax.core.adapter import Adapter, Base, Chain, Delta
from lorax.core.errors import LoraxError
from lorax.io.names import architecture
from lorax.io.pairs import Parts, assemble
from lorax.io.parts import base_leaves, members, take_apart
from lorax.io.peft_config import PeftConfig
from lorax.io.peft_file import AdapterFile
from lorax.io.peft_names import Tensor, saved_tensors, tensor_table
from lorax.io.peft_whole import Tensors, of_base, split, task_fields

PREFIX = "base_model."
TENSOR = "prompt_embeddings"

# Our adapter of each method, and the rows that PEFT keeps of its delta. Whoever made them, an
# encoder or a projection, they come from a file as the delta of the adapter that has none.
_METHODS: dict[str, tuple[type[Adapter], Callable[[Any, Delta], Any]]] = {
    "PROMPT_TUNING": (PromptTuning, lambda adapter, delta: delta["prompt"]),
    "P_TUNING": (PTuning, lambda adapter, delta: adapter.encoded(delta)),
    "PREFIX_TUNING": (PrefixTuning, lambda adapter, delta: adapter.prefix(delta)),
}
_ADAPTERS = {adapter: method for method, (adapter, _) in _METHODS.items()}


def load_prompt(config: PeftConfig, model: Any, folder: pathlib.Path) -> tuple[Adapter, Delta]:
    """The adapter of a file of virtual tokens; see `lorax.io.peft.load`.

    Returns:
      A `PromptTuning` or a `PrefixTuning`, with modules_to_save in a `Chain` with `Full`.

    Raises:
      LoraxError: a size of the configuration that is not the model's, a tensor that is missing,
        not expected, of another shape or not finite.
    """
    table, own = tensor_table(model), _sizes(config.method, model)
    for name, size in own.items():
        found = config.own[name]
        if found not in (None, size):
            raise LoraxError(
                f"{name} is {found} in the configuration and {size} in this "
                f"{type(model).__name__}: expected the same; load the model it was trained on"
            )
    file = AdapterFile(folder, PREFIX, lambda key: key.removeprefix(PREFIX), (TENSOR,))
    saved = [name for name in table if name in saved_tensors(config, table)]
    for name in (TENSOR, *saved):
        if name not in file.keys:
            key = name if name == TENSOR else PREFIX + name
            raise LoraxError(
                f"tensor '{key}' is missing: expected it by the configuration (modules_to_save "
                f"{list(config.modules_to_save)}, task_type {config.task_type!r}); save it again"
            )
    prefix = config.method == "PREFIX_TUNING"
    tokens = config.own["num_virtual_tokens"]
    rows = jnp.asarray(file.take(TENSOR, (tokens, _width(config.method, own))))
    whole = {name: file.take(name, table[name].shape) for name in saved}
    file.check_all_taken(model)
    adapter = PrefixTuning(tokens=tokens) if prefix else PromptTuning(tokens=tokens)
    delta = {"prefix" if prefix else "prompt": rows}
    if not whole:
        return adapter, delta
    full, trained = assemble(table, Parts({}, whole))
    return Chain(adapter, full), (delta, trained)


def is_prompt(adapter: Adapter) -> bool:
    """Whether an adapter is one of virtual tokens, or a Chain with one."""
    if isinstance(adapter, Chain):
        return any(map(is_prompt, adapter.members))
    return type(adapter) in _ADAPTERS


def describe_prompt(
    model: Any, table: Mapping[str, Tensor], adapter: Adapter, delta: Delta, base: Base | None
) -> tuple[dict[str, Any], Tensors]:
    """The fields of the configuration, and every tensor by its key.

    Raises:
      LoraxError: several such adapters or another kind beside, a delta that does not fit, virtual
        tokens inside the rows, or a classifier that the file must hold and nobody gave.
      LoraxTypeError: a delta of another kind.
    """
    every = list(members(adapter, delta))
    prompts = [own for own in every if type(own[0]) in _ADAPTERS]
    if len(prompts) > 1:
        raise LoraxError(
            f"adapter has {len(prompts)} members of virtual tokens: expected one, which is what "
            "PEFT can hold; save each by itself"
        )
    member: Any
    member, part = prompts[0]
    method = _ADAPTERS[type(member)]
    rest = [own for own in every if own[0] is not member]
    whole = _whole(model, table, rest, base, type(member).__name__)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    jax.eval_shape(functools.partial(member.additions, variables), part)  # checks the delta
    rows = np.asarray(_METHODS[method][1](member, part))
    shape = (member.tokens, _width(method, _sizes(method, model)))
    inside = getattr(member, "infix", 0)
    if inside or rows.shape != shape or not np.isfinite(rows).all():
        raise LoraxError(
            f"{type(member).__name__} makes {rows.shape} before every row and {inside} virtual "
            f"tokens inside: expected finite numbers of shape {shape} and none inside, which is "
            "what PEFT can hold"
        )
    fields = _fields(model, table, member, {table[name].module for name in whole})
    tensors = {PREFIX + name: array for name, array in whole.items()} | {TENSOR: rows}
    return fields, tensors


def _whole(
    model: Any,
    table: Mapping[str, Tensor],
    rest: list[tuple[Adapter, Delta]],
    base: Base | None,
    kind: str,
) -> Tensors:
    """The modules that the other members of a Chain train whole, and the classifier in any case."""
    parts = Parts({})
    if rest:
        adapters, deltas = zip(*rest, strict=True)
        parts = take_apart(model, table, Chain(*adapters), deltas, base)
    if parts.pairs:
        raise LoraxError(
            f"adapter is a {kind} with an update of weights beside it: expected the one or the "
            "other, since PEFT saves one method; save each by itself"
        )
    stored = None if base is None else base_leaves(base, model)
    whole, biases = split(table, parts, stored)
    if biases:
        raise LoraxError(
            f"'{table[next(iter(biases))].path}' is trained without its kernel: expected whole "
            "modules beside virtual tokens, which is what PEFT can hold"
        )
    return whole | _classifier(model, table, whole, stored)


def _width(method: str, sizes: Mapping[str, int]) -> int:
    """Of a row of the file's tensor."""
    return sizes["token_dim"] * (2 * sizes["num_layers"] if method == "PREFIX_TUNING" else 1)


def _sizes(method: str, model: Any) -> dict[str, int]:
    """The sizes that PEFT writes down, of this model."""
    config = model.config
    heads = config.heads
    if method == "PREFIX_TUNING":  # of keys and values, which may be fewer
        heads = getattr(config, "kv_heads", heads)
    width = heads * config.head_dim if method == "PREFIX_TUNING" else config.dim
    return {
        "num_attention_heads": heads,
        "num_layers": config.layers,
        "num_transformer_submodules": 1,
        "token_dim": width,
    }


def _classifier(
    model: Any, table: Mapping[str, Tensor], whole: Tensors, stored: Mapping[str, Any] | None
) -> Tensors:
    """The base's own classifier where nobody trained it: PEFT wants one in every such file."""
    if architecture(model) != "roberta" or model.config.head != "classification":
        return {}
    lacking = [n for n in table if n.startswith("classifier.") and n not in whole]
    if lacking and stored is None:
        raise LoraxError(
            "the classifier is not trained, and PEFT's files of virtual tokens hold one: expected "
            "base= to copy it from; pass the base, or a Pretrained as model"
        )
    return {name: of_base(table[name], stored) for name in lacking}


def _fields(
    model: Any, table: Mapping[str, Tensor], member: Any, saved: set[str]
) -> dict[str, Any]:
    method = _ADAPTERS[type(member)]
    fields = task_fields(model, table, saved)
    fields.pop("auto_mapping", None)
    if fields["task_type"] is None:
        if model.config.head != "none":
            raise LoraxError(
                f"head is {model.config.head!r}: PEFT has virtual tokens for classification, "
                "causal language models and bare encoders alone"
            )
        fields["task_type"] = "FEATURE_EXTRACTION"
    fields |= {"peft_type": method, "inference_mode": True, "num_virtual_tokens": member.tokens}
    own: dict[str, Any] = {"prompt_tuning_init": "RANDOM"}
    if method == "P_TUNING":
        kind, hidden = member.encoder.upper(), member.hidden or model.config.dim
        own = {"encoder_reparameterization_type": kind, "encoder_hidden_size": hidden}
    elif method == "PREFIX_TUNING":
        own = {"prefix_projection": False}
    return fields | own | _sizes(method, model)
