"""Which model does a config.json describe? From Hugging Face's fields to our model, and back.

By the tables of `hf_tables`. A field that no table lists does not change what the model computes,
and is passed over. Read are the spellings of transformers 4 and 5; written are those of 4, which
both read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lorax.core.errors import LoraxError
from lorax.io.hf_tables import (
    ARCHITECTURES,
    CARRIED,
    CLASSES,
    DEFAULT_DROPOUT,
    DROPOUTS,
    EVERYWHERE,
    FIELDS,
    FIXED,
    LABELS,
    ROPE,
    Field,
)
from lorax.io.names import architecture
from lorax.models.rotary import RopeScaling

Model = Any
Table = Mapping[str, Any]

MOST = 2**31 - 1
"""No integer of a config is larger."""


def model_of(table: Table, *, dropout: float | None = None, **changes: Any) -> Model:
    """The model that `table`, a parsed config.json, describes: a Llama, GPT2 or Roberta.

    Args:
      table: the fields; only those that change what is computed are looked at.
      dropout: in place of theirs, which may be several and differ.
      changes: fields of our config that theirs knows nothing of: scan, remat, dtype, param_dtype.

    Raises:
      LoraxError: an unknown architecture, a missing field, a wrong type, or a setting that our
        models do not have; it names the field.
    """
    kind, head = _architecture(table)
    fields = {field.ours: _value(table, field) for field in FIELDS[kind]}
    for name, allowed in (EVERYWHERE | FIXED[kind]).items():
        if name in table and not any(_same(table[name], value) for value in allowed):
            raise LoraxError(
                f"{name} is {_short(table[name])}: expected {allowed[0]!r}, all that "
                f"{CLASSES[kind][0].__name__} computes; take another model"
            )
    if kind != "llama":
        fields["dropout"] = _dropout(table, kind) if dropout is None else dropout
    fields |= _EXTRA[kind](table, fields)
    if kind == "roberta":
        fields |= {"head": head, "labels": _labels(table) if head == "classification" else 2}
    cls, config = CLASSES[kind]
    try:
        return cls(config(**fields, **changes))
    except ValueError as error:
        raise LoraxError(str(error)) from None


def table_of(model: Model, dtype: Any, like: Table | None = None) -> dict[str, Any]:
    """The config.json of `model`, a Llama, GPT2 or Roberta; `model_of` is its inverse.

    Args:
      dtype: of most of the parameters; transformers loads the model in it.
      like: the table of the model it came from, for the ids of special tokens and names of labels,
        which our configs do not hold.
    """
    kind, config = architecture(model), model.config
    head = getattr(config, "head", None)
    name = next(name for name, ours in ARCHITECTURES.items() if ours == (kind, head))
    table: dict[str, Any] = {"architectures": [name], "model_type": kind}
    table |= {field.theirs: getattr(config, field.ours) for field in FIELDS[kind]}
    table |= {setting: allowed[0] for setting, allowed in FIXED[kind].items()}
    table |= {name: config.dropout for name in DROPOUTS[kind] if name != "classifier_dropout"}
    table["torch_dtype"] = jnp.dtype(dtype).name
    if kind == "llama":
        table |= {"head_dim": config.head_dim, "rope_theta": config.rope_theta}
        table["rope_scaling"] = _rope_table(config.rope_scaling)
    if kind == "roberta":
        table["max_position_embeddings"] = config.position_rows
    if head == "classification":
        names = [f"LABEL_{i}" for i in range(config.labels)]
        table["id2label"] = {str(i): name for i, name in enumerate(names)}
        table["label2id"] = {name: i for i, name in enumerate(names)}
        table["problem_type"] = "regression" if config.labels == 1 else None
    return table | _carried(like or {}, table)


def _carried(like: Table, table: Table) -> dict[str, Any]:
    names: tuple[str, ...] = CARRIED
    if len(like.get("id2label") or ()) == len(table.get("id2label", ())) > 0:
        names += LABELS
    pinned = {field.theirs for fields in FIELDS.values() for field in fields} & set(table)
    return {name: like[name] for name in names if name in like and name not in pinned}


def _architecture(table: Table) -> tuple[str, str | None]:
    names = table.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(ARCHITECTURES):
        raise LoraxError(
            f"architectures is {_short(names)}: expected one of {', '.join(ARCHITECTURES)}, as in "
            '"architectures": ["LlamaForCausalLM"]; take one of these models'
        )
    kind, head = ARCHITECTURES[names[0]]
    if table.get("model_type", kind) != kind:
        raise LoraxError(
            f"model_type is {_short(table['model_type'])}: expected {kind!r} for {names[0]}"
        )
    return kind, head


def _value(table: Table, field: Field) -> Any:
    """A field of theirs, of the right type; None where it may be left out."""
    value = table.get(field.theirs, field.default)
    if value is ...:
        raise LoraxError(f"{field.theirs} is missing: expected {_a(field.type)} in config.json")
    if value is None and field.default is None:
        return None
    return _typed(field.theirs, value, field.type)


def _typed(name: str, value: Any, wanted: type) -> Any:
    types = (int, float) if wanted is float else (wanted,)
    if type(value) not in types or (wanted is int and abs(value) > MOST):
        raise LoraxError(f"{name} is {_short(value)}: expected {_a(wanted)} in config.json")
    return value


def _dropout(table: Table, kind: str) -> float:
    rates = {name: table.get(name, DEFAULT_DROPOUT) for name in DROPOUTS[kind]}
    if table.get("classifier_dropout") is None:  # then theirs is the hidden one
        rates.pop("classifier_dropout", None)
    for name, rate in rates.items():
        _typed(name, rate, float)
    if len(set(rates.values())) > 1:
        raise LoraxError(f"dropout rates differ, {rates}: expected one; choose it with dropout=0.1")
    return next(iter(rates.values()))


def _llama_extra(table: Table, fields: Table) -> dict[str, Any]:
    heads = fields["heads"]
    if table.get("head_dim") not in (None, fields["dim"] / heads if heads else None):
        raise LoraxError(
            f"head_dim is {_short(table['head_dim'])}: expected hidden_size / num_attention_heads "
            f"= {fields['dim']} / {heads}, all that Llama computes; take another model"
        )
    theta, scaling = _rope(table)
    kv_heads = heads if fields["kv_heads"] is None else fields["kv_heads"]
    return {"kv_heads": kv_heads, "rope_theta": theta, "rope_scaling": scaling}


def _roberta_extra(table: Table, fields: Table) -> dict[str, Any]:
    # the first rows of their table of positions are padding's and never used
    return {"max_length": fields["max_length"] - fields["pad_id"] - 1}


_EXTRA = {"llama": _llama_extra, "gpt2": lambda table, fields: {}, "roberta": _roberta_extra}


def _rope(table: Table) -> tuple[float, RopeScaling | None]:
    """Theta and scaling: at the top and in rope_scaling (transformers 4), or in rope_parameters."""
    rope: dict[str, Any] = {"rope_theta": table.get("rope_theta", 10000.0)}
    for name in ("rope_scaling", "rope_parameters"):
        if table.get(name) is not None:
            rope |= _typed(name, table[name], dict)
    theta = _typed("rope_theta", rope.pop("rope_theta"), float)
    old = rope.pop("type", "default")
    kind = rope.pop("rope_type", old)
    if kind not in ("default", "llama3"):
        raise LoraxError(
            f"rope_type is {_short(kind)}: expected 'default' or 'llama3', all that Llama has; "
            "take another model"
        )
    wanted = ROPE.values() if kind == "llama3" else ()
    if set(rope) != set(wanted):
        raise LoraxError(
            f"rope_type {kind!r} has the fields {_short(sorted(rope))}: expected "
            f"{sorted(wanted)} in config.json"
        )
    if kind == "default":
        return theta, None
    numbers = {ours: _typed(theirs, rope[theirs], float) for ours, theirs in ROPE.items()}
    return theta, RopeScaling(**numbers)


def _rope_table(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    numbers = dataclasses.asdict(scaling)
    return {"rope_type": "llama3"} | {ROPE[ours]: value for ours, value in numbers.items()}


def _labels(table: Table) -> int:
    """How many labels: by their names, else by number, else the two of transformers."""
    names = _typed("id2label", table.get("id2label") or {}, dict)
    number = _typed("num_labels", table.get("num_labels", len(names) or 2), int)
    if names and len(names) != number:
        raise LoraxError(f"num_labels is {number} but id2label names {len(names)}: expected equal")
    if table.get("problem_type") == "regression" and number != 1:
        raise LoraxError(
            f"problem_type is 'regression' with {number} labels: expected num_labels 1, one score"
        )
    return number


def _same(value: Any, allowed: Any) -> bool:
    """Equality in which 1 is not True, but 0 is 0.0."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _a(wanted: type) -> str:
    return {int: "an integer", float: "a number", bool: "true or false", dict: "a table"}[wanted]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
