"""Which modules does an adapter train whole, and how does PEFT name them in its configuration?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lorax.core.errors import LoraxError
from lorax.io.names import architecture, turn
from lorax.io.pairs import Parts
from lorax.io.peft_names import Tensor

Tensors = dict[str, np.ndarray]

_CLASSIFIER = ("classifier.dense", "classifier.out_proj")
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "none": "RobertaModel",
    "classification": "RobertaForSequenceClassification",
    "masked_lm": "RobertaForMaskedLM",
}


def split(
    table: Mapping[str, Tensor], parts: Parts, stored: Mapping[str, Any] | None
) -> tuple[Tensors, Tensors]:
    """The trained tensors of modules that are trained whole, and the other trained biases.

    Args:
      stored: the base's leaves by path, to fill in what of a module is not trained; or None.

    Raises:
      LoraxError: a module of which some tensors are trained and the others are not known.
    """
    modules: dict[str, list[str]] = {}
    for name, tensor in table.items():
        modules.setdefault(tensor.module, []).append(name)
    whole: Tensors = {}
    biases: Tensors = {}
    for own in modules.values():
        trained = {name: parts.whole[name] for name in own if name in parts.whole}
        if all(name.endswith(".bias") for name in trained):
            biases |= trained
            continue
        for name in own:
            if name not in trained and stored is None:
                raise LoraxError(
                    f"'{table[own[0]].path}' is trained and '{table[name].path}' is not, but PEFT "
                    "saves a module whole: expected base= to fill it in; pass the base, or train "
                    "both"
                )
            whole[name] = trained[name] if name in trained else of_base(table[name], stored)
    return whole, biases


def of_base(tensor: Tensor, stored: Mapping[str, Any] | None) -> np.ndarray:
    """The base's own tensor, in torch's orientation."""
    assert stored is not None
    array = np.asarray(stored[tensor.path])
    array = array if tensor.layer is None else array[tensor.layer]
    return array if tensor.tied else turn(tensor.kind, array)


def task_fields(model: Any, table: Mapping[str, Tensor], saved: set[str]) -> dict[str, Any]:
    """task_type, or the model's class in its place; and modules_to_save."""
    kind = architecture(model)
    if kind == "roberta":
        kind = model.config.head
        if saved.issuperset(_CLASSIFIER):
            names = ["classifier", "score", *_saved_names(table, saved - set(_CLASSIFIER))]
            return {"task_type": "SEQ_CLS", "modules_to_save": names}
    fields: dict[str, Any] = {"modules_to_save": _saved_names(table, saved) or None}
    if kind in ("llama", "gpt2"):
        return fields | {"task_type": "CAUSAL_LM"}
    library = "transformers.models.roberta.modeling_roberta"
    mapping = {"base_model_class": _CLASSES[kind], "parent_library": library}
    return fields | {"task_type": None, "auto_mapping": mapping}


def _saved_names(table: Mapping[str, Tensor], saved: set[str]) -> list[str]:
    """The last part of each name where PEFT finds only saved modules by it, else the whole."""
    modules = {tensor.module for tensor in table.values()}
    names = set()
    for module in saved:
        part = module.rpartition(".")[2]
        alike = {name for name in modules if name.endswith(part)}
        names.add(part if alike <= saved else module)
    return sorted(names)
