import json

import pytest

from lorax import LoraxError, LoraxWarning
from lorax.io.peft_config import CONFIG_NAME, PeftConfig, config_text, parse_config, read_config
from tests.shared_data import shared

SMALLEST = {"peft_type": "LORA", "target_modules": ["query", "value"]}


def _config(**fields):
    return parse_config(SMALLEST | fields)


def _read(tmp_path, text):
    (tmp_path / CONFIG_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(tmp_path)


def test_the_smallest_file_has_the_defaults_of_peft(tmp_path):
    config = _read(tmp_path, json.dumps(SMALLEST))
    assert config == PeftConfig(target_modules=("query", "value"))
    assert (config.r, config.lora_alpha, config.bias, config.use_rslora) == (8, 8, "none", False)


def test_every_field_is_read():
    config = _config(
        r=4, lora_alpha=2.5, use_rslora=True, lora_dropout=0.1, exclude_modules=".*0.*",
        modules_to_save=["classifier", "score", "classifier"], bias="all", layers_to_transform=3,
        layers_pattern="layer", rank_pattern={"b": 2, "a": 3}, alpha_pattern={"a": 1.5},
        task_type="SEQ_CLS", ensure_weight_tying=True,
    )  # fmt: skip
    assert config == PeftConfig(
        4, 2.5, True, 0.1, ("query", "value"), ".*0.*", ("classifier", "score"), "all", (3,),
        ("layer",), {"b": 2, "a": 3}, {"a": 1.5}, "SEQ_CLS", True,
    )  # fmt: skip
    assert list(config.rank_pattern) == ["b", "a"]  # first match in the order of the file


def test_empty_values_are_the_defaults():
    fields = "exclude_modules modules_to_save layers_to_transform layers_pattern task_type"
    for name in f"{fields} rank_pattern alpha_pattern lora_dropout use_rslora".split():
        assert _config(**{name: None}) == _config()
    assert _config(layers_pattern="", layers_to_transform=[]) == _config()


def test_the_released_adapter_is_read_tolerantly(recwarn):
    config = parse_config(json.loads(shared("lora_adapters/peft_roberta_mrpc_adapter_config.json")))
    assert config == PeftConfig(
        8, 16, target_modules=("query", "value"), modules_to_save=("classifier", "score"),
        task_type="SEQ_CLS",
    )  # fmt: skip
    assert not recwarn


def test_unknown_fields_are_ignored_with_a_warning_unless_empty():
    for empty in (None, False, [], {}, ""):
        _config(use_tomorrow=empty)
    with pytest.warns(LoraxWarning, match="'use_tomorrow' .* is unknown and is ignored"):
        _config(use_tomorrow=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "OFT"}, "peft_type is 'OFT': expected one of LORA, VERA, LOHA, LOKR, IA3"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"r": 0}, "r is 0: expected a rank"),
        ({"r": True}, "r is True"),
        ({"r": "8"}, "r is '8'"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": -1}, "lora_alpha is -1: expected a positive"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0: expected a rate"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes': expected true or false"),
        ({"target_modules": [1]}, "target_modules is .*: expected a list of module names"),
        ({"target_modules": "(query"}, "target_modules is '.query': expected a regular expr"),
        ({"target_modules": {"query": 1}}, "target_modules is"),
        ({"bias": "some"}, "bias is 'some': expected 'none' or 'all' or 'lora_only'"),
        ({"layers_to_transform": [1.5]}, "layers_to_transform is"),
        ({"layers_to_transform": [1], "target_modules": ".*q"}, "list of names only"),
        ({"rank_pattern": {"a": 0}}, r"rank_pattern\['a'\] is 0"),
        ({"rank_pattern": [["a", 1]]}, "rank_pattern is"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern is '.': expected a regular expression"),
        ({"task_type": 1}, "task_type is 1"),
        ({"use_dora": 1}, "use_dora is 1: expected true or false"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"target_parameters": ["a"]}, "target_parameters is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base before training: convert it"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": 3}, "init_lora_weights is 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(fields, message):
    with pytest.raises(LoraxError, match=message) as error:
        _config(**fields)
    assert "\n" not in str(error.value)


def test_each_method_has_its_fields(recwarn):
    def of(kind, **fields):
        return parse_config({"peft_type": kind, **fields})

    assert _config(use_dora=True).method == "DORA" and _config().method == "LORA"
    vera = of("VERA", vera_dropout=0.1, projection_prng_key=3)
    assert (vera.r, vera.lora_dropout, vera.own["save_projection"]) == (256, 0.1, True)
    loha = of("LOHA", r=3, alpha=5, rank_pattern={"a": 2}, module_dropout=0.5)
    assert (loha.r, loha.lora_alpha, loha.rank_pattern) == (3, 5, {"a": 2})
    assert of("LOKR", decompose_factor=4).own == {"decompose_both": False, "decompose_factor": 4}
    assert of("IA3", feedforward_modules=["b", "a"]).own == {"feedforward_modules": ("b", "a")}
    assert of("PREFIX_TUNING", num_virtual_tokens=3).own["num_virtual_tokens"] == 3
    assert not recwarn
    with pytest.warns(LoraxWarning, match="field 'lora_alpha' .* is unknown"):
        of("IA3", lora_alpha=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "VERA", "bias": "vera_only"}, "bias is 'vera_only': expected 'none'"),
        ({"peft_type": "LOKR", "decompose_factor": 0}, "decompose_factor is 0: expected -1 or an"),
        ({"peft_type": "LOKR", "decompose_both": 2}, "decompose_both is 2"),
        ({"peft_type": "LOHA", "alpha": 0}, "alpha is 0: expected a positive"),
        ({"peft_type": "IA3", "feedforward_modules": "("}, "feedforward_modules is '.': expected"),
        ({"peft_type": "P_TUNING"}, "num_virtual_tokens is None: expected an integer of at least"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 2, "num_layers": 0}, "num_layers is 0"),
    ],
)
def test_fields_of_other_methods_are_checked_too(fields, message):
    with pytest.raises(LoraxError, match=message):
        parse_config(fields)


def test_other_initialisations_left_the_base_alone():
    for value in (True, False, "gaussian", "orthogonal", "eva", "mica"):
        _config(init_lora_weights=value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("[]", "a list instead of a table"),
        ("{}", "peft_type is None"),
        (b"\xff\xfe{}", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('{"a": ' * 100_000, "no valid JSON"),
        ('{"r": ' + "9" * 10_000 + "}", "no valid JSON"),
        ('{"a": "' + "x" * (4 << 20) + '"}', "more than 4,194,304 bytes"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, text, message):
    with pytest.raises(LoraxError, match=message) as error:
        _read(tmp_path, text)
    assert str(tmp_path / CONFIG_NAME) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_says_where_to_look(tmp_path):
    with pytest.raises(LoraxError, match="does not exist"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / CONFIG_NAME).write_text("{}")
    with pytest.raises(LoraxError, match="there are adapters in 'second'"):
        read_config(tmp_path)
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(LoraxError, match="use its load_adapter"):
        read_config(tmp_path)
    (tmp_path / CONFIG_NAME).mkdir()
    with pytest.raises(LoraxError, match="does not exist"):
        read_config(tmp_path)


def test_text_is_laid_out_as_peft_does():
    assert config_text({"r": 8, "bias": "none"}) == '{\n  "bias": "none",\n  "r": 8\n}\n'
