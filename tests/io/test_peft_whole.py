import numpy as np
import pytest

from lorax import LoraxError
from lorax.io.pairs import Parts
from lorax.io.parts import base_leaves
from lorax.io.peft_names import tensor_table
from lorax.io.peft_whole import of_base, split, task_fields
from tests.io.tiny import base_of, gpt2, llama, roberta


def _trained(model, *names):
    table = tensor_table(model)
    return table, {n: np.ones(t.shape) for n, t in table.items() if n.startswith(names)}


def test_whole_modules_and_single_biases():
    table, trained = _trained(gpt2(), "transformer.ln_f", "transformer.h.0.mlp.c_fc.bias")
    whole, biases = split(table, Parts({}, trained), None)
    assert set(whole) == {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    assert set(biases) == {"transformer.h.0.mlp.c_fc.bias"}


def test_what_of_a_module_is_not_trained_comes_from_the_base():
    model = gpt2()
    table, trained = _trained(model, "transformer.h.0.mlp.c_fc.weight")
    with pytest.raises(LoraxError, match="PEFT saves a module whole: expected base="):
        split(table, Parts({}, trained), None)
    stored = base_leaves(base_of(model), model)
    whole, _ = split(table, Parts({}, trained), stored)
    wanted = stored["params/layer_0/mlp/up/bias"]
    np.testing.assert_array_equal(whole["transformer.h.0.mlp.c_fc.bias"], wanted)


@pytest.mark.parametrize("scan", [False, True])
def test_tensors_of_the_base_in_their_orientation(scan):
    model = llama(scan=scan)
    stored = base_leaves(base_of(model), model)
    found = of_base(tensor_table(model)["model.layers.1.mlp.up_proj.weight"], stored)
    path = "params/layers/mlp/up/kernel" if scan else "params/layer_1/mlp/up/kernel"
    wanted = stored[path][1] if scan else stored[path]
    np.testing.assert_array_equal(found, wanted.T)


def test_tasks():
    head = {"classifier.dense", "classifier.out_proj"}
    fields = task_fields(roberta(), tensor_table(roberta()), head)
    assert fields == {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    fields = task_fields(llama(), tensor_table(llama()), {"lm_head"})
    assert fields == {"task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    bare = roberta(head="none")
    fields = task_fields(bare, tensor_table(bare), set())
    assert fields["task_type"] is None
    assert fields["auto_mapping"]["base_model_class"] == "RobertaModel"
