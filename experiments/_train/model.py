"""Which model does a config mean? A pretrained one, or a fresh one of a family and a size."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lorax
import lorax.models
from experiments._train.placing import made
from lorax.core import paths
from lorax.core.errors import LoraxError, check_choice
from lorax.core.packed import is_packed
from lorax.data import source
from lorax.io import pretrained
from lorax.io.assemble import Placement, with_fields
from lorax.io.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from lorax.io.tokenizer_learn import learn_bpe
from lorax.models.config import TransformerConfig
from lorax.ops.quantize import quantizer
from lorax.parallel.layout import Layout

TRANSFORMERS = {
    "llama": (lorax.models.Llama, lorax.models.LlamaConfig),
    "gpt2": (lorax.models.GPT2, lorax.models.GPT2Config),
    "roberta": (lorax.models.Roberta, lorax.models.RobertaConfig),
}
IMAGES = {"mlp": lorax.models.MLP, "lenet": lorax.models.LeNet}
FAMILIES = (*TRANSFORMERS, *IMAGES)
KERNEL_INITS = {
    "lecun_normal": nn.initializers.lecun_normal(),  # Flax's default
    "he_normal": nn.initializers.he_normal(),
}
"""How kernels of a fresh model of images are drawn."""

Texts = Callable[[], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is adapted.

    Attributes:
      model: a Linen module that has never heard of adapters.
      base: its parameters; shapes and dtypes alone until `drawn` for a fresh model.
      tokenizer: None for images.
      loaded: the pretrained model as it was read; None for a fresh one.
    """

    model: nn.Module
    base: Any = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = None
    loaded: pretrained.Pretrained | None = dataclasses.field(default=None, repr=False)


def make_tokenizer(part: Any, texts: Texts) -> Tokenizer | None:
    """The tokenizer that `config.model` names; None where it is left to the pretrained model.

    Args:
      part: `config.model`.
      texts: gives what a tokenizer is learnt from.

    Raises:
      LoraxError: no such file, or a number of pieces that cannot be.
    """
    name = part.tokenizer
    if not name:
        return None
    if name in ("bytes", "bytes:special"):
        return ByteTokenizer(special=name != "bytes")
    if name.startswith("bpe:"):
        pieces = name.removeprefix("bpe:")
        if not pieces.isdecimal():
            raise LoraxError(f"config.model.tokenizer is '{name}': expected bpe:N, bpe:1024 say")
        return learn_bpe(texts(), int(pieces))
    found = load_tokenizer(source.find(name))
    if found is None:
        raise LoraxError(f"config.model.tokenizer='{name}' holds no tokenizer: check the path")
    return found


def make_subject(
    config: Any,
    tokenizer: Tokenizer | None,
    example: Any,
    labels: int | None,
    placement: Placement | None = None,
) -> Subject:
    """The model that `config.model` describes; a fresh one is not drawn yet.

    Args:
      config: of the run.
      tokenizer: in place of the one beside a pretrained model.
      example: inputs of the model, or their shapes.
      labels: classes to tell apart, 1 for regression, None for a language model.
      placement: where the leaves of a pretrained model go.

    Raises:
      LoraxError: fields that make no model, rows longer than the model reads, or a file that
        cannot be read.
    """
    part = config.model
    if part.source:
        return _pretrained(config, tokenizer, labels, placement)
    model = _fresh(part, tokenizer, labels)
    _check_length(model, config)
    try:
        base = jax.eval_shape(_init(model), jax.random.key(0), example)
    except ValueError as error:
        raise LoraxError(f"config.model and config.data do not fit: {error}") from None
    return Subject(model, base, tokenizer)


def drawn(subject: Subject, config: Any, example: Any, layout: Layout) -> Subject:
    """`subject` with the weights of a fresh model drawn; a pretrained one is as it was."""
    if subject.loaded is not None:
        return subject
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    init = jax.jit(_init(subject.model))
    base = made(layout, init, layout.base, jax.random.key(config.seed.base), example)
    return dataclasses.replace(subject, base=base)


def quantised(config: Any, base: Any) -> Any:
    """`base`, or its shapes, as `config.model.quantize` says.

    Raises:
      LoraxError: matrices that cannot be, or qwix is not installed.
    """
    kind = config.model.quantize
    if not kind or any(map(is_packed, paths.flatten(base).values())):
        return base
    try:
        return lorax.quantize(base, kind, block=config.model.quantize_block)
    except LoraxError as error:
        raise _unquantised(config.model, error) from None


def _each(part: Any) -> Callable[[str, jax.Array], Any] | None:
    """What becomes of a leaf as soon as it is read, so that the base is never whole in 16 bits."""
    if not part.quantize:
        return None
    each = quantizer(part.quantize, block=part.quantize_block)

    def one(path: str, leaf: jax.Array) -> Any:
        try:
            return each(path, leaf)
        except LoraxError as error:
            raise _unquantised(part, error) from None

    return one


def _unquantised(part: Any, error: LoraxError) -> LoraxError:
    """The error in the words of a config."""
    text = str(error).replace("set block=", "set --config.model.quantize_block=")
    return LoraxError(f"config.model.quantize='{part.quantize}': {text}")


def program(model: nn.Module) -> Callable[..., Any]:
    """The bare program of (params, inputs, ...): `model.apply`, of images without channels."""
    if not isinstance(model, tuple(IMAGES.values())):
        return model.apply
    return lambda params, images: model.apply(params, _presented(model, images))


def _init(model: nn.Module) -> Callable[..., Any]:
    return lambda key, inputs: model.init(key, _presented(model, inputs))


def _presented(model: nn.Module, inputs: Any) -> Any:
    """Images (B, height, width) as a model of `IMAGES` wants them; tokens as they are."""
    if isinstance(model, lorax.models.MLP):
        return inputs.reshape(inputs.shape[0], -1)
    if isinstance(model, lorax.models.LeNet):
        return inputs.reshape(*inputs.shape[:3], -1)
    return inputs


def _pretrained(
    config: Any, tokenizer: Tokenizer | None, labels: int | None, placement: Placement | None
) -> Subject:
    part = config.model
    options: dict[str, Any] = {"scan": part.scan, "remat": part.remat or False}
    if labels is not None:
        options |= {"head": "classification", "labels": labels}
        options["key"] = jax.random.key(config.seed.base)
    loaded = pretrained.load(
        source.find_or_name(part.source),
        dtype=part.param_dtype or None,
        revision=part.revision or None,
        dropout=part.dropout or None,
        sharding=placement,
        each=_each(part),
        **options,
    )
    tokenizer = tokenizer or loaded.tokenizer
    if tokenizer is None:
        raise LoraxError(
            f"'{part.source}' has no tokenizer beside it: put its files there, or name one in "
            "config.model.tokenizer"
        )
    model = with_fields(loaded.model, dtype=part.dtype)
    _check_length(model, config)
    return Subject(model, loaded.base, tokenizer, loaded)


def _check_length(model: nn.Module, config: Any) -> None:
    longest = getattr(getattr(model, "config", None), "max_length", None)  # images have none
    if longest is not None and config.data.length > longest:
        raise LoraxError(
            f"config.data.length is {config.data.length}, but the model reads at most {longest} "
            f"tokens of a row: set --config.data.length={longest} or lower"
        )


def _fresh(part: Any, tokenizer: Tokenizer | None, labels: int | None) -> nn.Module:
    check_choice("config.model.family", part.family, FAMILIES)
    fields = part.fields.to_dict()
    try:
        if part.family in IMAGES:
            return _image_model(part.family, fields, labels)
        return _transformer(part, fields, tokenizer, labels)
    except (ValueError, TypeError) as error:
        named = str(error).startswith("config.")
        raise LoraxError(str(error) if named else f"config.model makes no model: {error}") from None


def _image_model(family: str, fields: dict[str, Any], labels: int | None) -> nn.Module:
    if "kernel_init" in fields:
        name = fields["kernel_init"]
        check_choice("config.model.fields.kernel_init", name, tuple(KERNEL_INITS))
        fields["kernel_init"] = KERNEL_INITS[name]
    if family == "mlp":
        return lorax.models.MLP((*fields.pop("hidden", (200, 200)), labels or 10), **fields)
    return lorax.models.LeNet(classes=labels or 10, **fields)


def _transformer(
    part: Any, fields: dict[str, Any], tokenizer: Tokenizer | None, labels: int | None
) -> nn.Module:
    module, kind = TRANSFORMERS[part.family]
    fields |= {"dtype": part.dtype, "param_dtype": part.param_dtype or "float32"}
    fields |= {name: part[name] for name in ("scan", "remat") if part[name]}
    if part.dropout:
        fields["dropout"] = part.dropout
    if labels is not None and part.family == "roberta":
        fields |= {"head": "classification", "labels": labels}
    if tokenizer is not None:
        fields.setdefault("vocab_size", tokenizer.vocab_size)
        if part.family == "roberta" and tokenizer.pad is not None:
            fields.setdefault("pad_id", tokenizer.pad)
    if not part.preset:
        if "vocab_size" not in fields:
            raise LoraxError(
                "config.model.tokenizer is empty, and a fresh model has none of its own: set it to "
                "bytes, bpe:1024, or the path of one"
            )
        return module(kind(**fields))
    preset = getattr(lorax.models, part.preset, None)
    if not isinstance(preset, kind):
        sizes = [n for n, x in vars(lorax.models).items() if isinstance(x, TransformerConfig)]
        raise LoraxError(
            f"config.model.preset is '{part.preset}': expected a size of {part.family}, one of "
            f"{', '.join(n for n in sizes if isinstance(getattr(lorax.models, n), kind))}"
        )
    return module(dataclasses.replace(preset, **fields))
