"""How are adapters exchanged with PEFT? `load` and `save` of the directories that it reads.

adapter, delta = peft.load("their_adapter", model)
peft.save("our_adapter", adapter, delta, model)

A directory holds adapter_config.json and adapter_model.safetensors. Model names, orientation and
tied matrices are translated; every number stays what it is, bit for bit, but for those that are
counted from where training starts, which are as near as float32 is.

  LORA           LoRA; PiSSA and OLoRA are written as it
  LORA, use_dora DoRA
  VERA           VeRA, whose frozen matrices `prepare` puts beside the base
  LOHA, LOKR     LoHa, LoKr; decompose_both is read as the product
  IA3            IA3
  PROMPT_TUNING  PromptTuning
  P_TUNING       written from PTuning; read as PromptTuning, since its encoder is not in the file
  PREFIX_TUNING  PrefixTuning; its projection is not in the file either
"""

import os
from typing import Any

from lorax.core.adapter import Adapter, Base, Delta, check_adapter
from lorax.core.errors import LoraxTypeError
from lorax.io.peft_export import save_peft
from lorax.io.peft_import import load_peft, prepare_peft
from lorax.io.place import place

Path = str | os.PathLike[str]


def load(directory: Path, model: Any, *, base: Base | None = None) -> tuple[Adapter, Delta]:
    """The adapter that PEFT saved in `directory`, as ours.

    Args:
      directory: with adapter_config.json and adapter_model.safetensors; nothing is unpickled.
      model: the Linen module (`Llama`, `GPT2`, `Roberta`), in either layout, or a `Pretrained`.
      base: the frozen parameters; needed for DoRA, which counts from them. A file that holds copies
        of the base's embeddings has them held against it; without one a `LoraxWarning` says that
        they were not.

    Returns:
      The adapter of the file's method, see the table above, with its ranks and alphas; with
      modules_to_save or trained biases a `Chain` of it with `Full` and `BitFit`. The delta keeps
      the dtypes of the file, and has the structure that `adapt(model.apply, adapter).init` gives.

    Raises:
      LoraxError: a tensor is missing, not expected, of another shape or not finite; a field of the
        configuration is wrong or not supported; or the adapter is none that a single delta of
        this model can be (tied matrices, scanned layers). One line, with file, tensor and cure.
      LoraxTypeError: arguments that are no path and no model, or swapped.
    """
    model, base = _unpacked(model, base, "load(directory, model)")
    folder = place(directory, hint="; write load(directory, model)")
    return load_peft(folder, model, base=base)


def prepare(directory: Path, model: Any, *, base: Base | None = None) -> Base:
    """The base together with what the adapter in `directory` froze beside it.

    That is the A and B of VeRA, which its delta does not hold: train and evaluate on what this
    returns. Of every other method it is the base itself.

    Args:
      directory, model, base: as in `load`; a base is needed here.

    Raises:
      LoraxError: as `load`; or the file lacks A and B (save_projection was off).
      LoraxTypeError: as `load`, or there is no base.
    """
    model, base = _unpacked(model, base, "prepare(directory, model)")
    if base is None:
        raise LoraxTypeError("base is missing: expected base=, or a Pretrained as model")
    return prepare_peft(place(directory, hint="; write prepare(directory, model)"), model, base)


def save(
    directory: Path,
    adapter: Adapter,
    delta: Delta,
    model: Any,
    *,
    base: Base | None = None,
    base_model_name: str | None = None,
    target: str = "peft",
    overwrite: bool = False,
) -> None:
    """Writes `directory` so that `PeftModel.from_pretrained` computes what we compute.

    PiSSA and OLoRA are written as plain LoRA of rank 2 r. An update of a tied matrix is written
    for both its modules: beside its base PEFT then computes what we do, but PEFT's own merge would
    add it twice, so merge here (`Adapter.merge`). Appears whole or not at all.

    Args:
      directory: must not exist, unless `overwrite`.
      adapter, delta: of a kind in the table above, or a `Chain` of one with `Full` and `BitFit`.
      model: the Linen module, or a `Pretrained`.
      base: the frozen parameters, prepared if they are; needed for PiSSA, OLoRA and DoRA, for
        modules trained in part, and for virtual tokens before a classifier that nothing trained.
        With a base the matrices of adapted embeddings are written too, as PEFT does.
      base_model_name: what the file says it belongs to, "meta-llama/Llama-3.2-1B" say.
      target: "peft", or "vllm" for the part of the format that vLLM serves.
      overwrite: replace a directory that PEFT or this function wrote; never any other.

    Raises:
      LoraxError: what the format cannot hold, a directory that cannot be written, or no
        safetensors library; nothing is written then.
      LoraxTypeError: arguments that are no path, no adapter and no model, or swapped.
    """
    order = "save(directory, adapter, delta, model)"
    model, base = _unpacked(model, base, order)
    check_adapter(adapter)
    save_peft(
        place(directory, hint=f"; write {order}"),
        adapter,
        delta,
        model,
        base=base,
        base_model_name=base_model_name,
        target=target,
        overwrite=overwrite,
    )


def _unpacked(model: Any, base: Base | None, order: str) -> tuple[Any, Base | None]:
    """A module and its base, of a module or a `Pretrained`; `order` is how arguments go."""
    if hasattr(model, "model") and hasattr(model, "base"):
        return model.model, model.base if base is None else base
    if not hasattr(model, "config"):
        what = "a path" if isinstance(model, str | os.PathLike) else f"a {type(model).__name__}"
        raise LoraxTypeError(
            f"model is {what}: expected the module or what pretrained.load returns; write {order}, "
            "with model = pretrained.load(...)"
        )
    return model, base
