import numpy as np
import pytest

from lorax import Chain, LoRA, LoraxError, Prepared, VeRA
from lorax.core import paths
from lorax.core.leaf import Factors, Roles
from lorax.io import peft
from lorax.io.pairs import Update
from lorax.io.peft_slots import SHARED
from lorax.io.peft_vera import joined
from tests.io.tiny import (
    HEAD,
    QUERY,
    VALUE,
    base_of,
    config_in,
    delta_of,
    llama,
    roberta,
    same,
    tensors_in,
    write,
)

DRAW = np.random.default_rng(0)


def _update(a, b):
    ours = {"d": np.ones(2, np.float32), "b": np.ones(b.shape[1], np.float32)}
    return Update(ours, 2, 1.0, Factors(a, b, Roles((), (0,), (1,))))


@pytest.mark.parametrize(
    ("model", "adapter"),
    [
        (llama(scan=True), VeRA(3, (QUERY, ".*/down/kernel"))),
        (roberta(), Chain(VeRA(3, (QUERY,)), HEAD)),
    ],
)
def test_ours_comes_back_as_the_same_update(tmp_path, model, adapter):
    """Ours is drawn with each leaf's own fan-in; in a file there is one A, and d takes the rest."""
    base, delta = base_of(model), delta_of(model, adapter)
    peft.save(tmp_path / "out", adapter, delta, model, base=base)
    loaded, again = peft.load(tmp_path / "out", model)
    prepared = peft.prepare(tmp_path / "out", model, base=base)
    assert isinstance(prepared, Prepared) and prepared.adapter == loaded
    for path, wanted in _flat(adapter.merge(base, delta)):
        np.testing.assert_allclose(
            dict(_flat(loaded.merge(prepared, again)))[path], wanted, rtol=2e-5, atol=2e-5
        )
    peft.save(tmp_path / "two", loaded, again, model, base=prepared)
    for key, tensor in tensors_in(tmp_path / "out").items():
        assert tensors_in(tmp_path / "two")[key].tobytes() == tensor.tobytes()
    with pytest.raises(LoraxError, match=r"seed is None.*lorax.io.peft.prepare\(directory, model"):
        loaded.merge(base, again)


def _flat(tree):
    return sorted((path, np.asarray(leaf)) for path, leaf in paths.flatten(tree).items())


def test_a_file_without_its_matrices(tmp_path):
    model, adapter = llama(), VeRA(3, (QUERY,))
    peft.save(tmp_path / "out", adapter, delta_of(model, adapter), model, base=base_of(model))
    held = {k: v for k, v in tensors_in(tmp_path / "out").items() if k not in SHARED}
    fields = config_in(tmp_path / "out") | {"save_projection": False}
    with pytest.raises(LoraxError, match="'base_model.vera_A' is missing.*save_projection=True"):
        peft.load(write(tmp_path / "in", fields, held), model)


def test_other_methods_need_no_preparation(tmp_path):
    model, adapter = llama(), LoRA(2, where=(QUERY,))
    base = base_of(model)
    peft.save(tmp_path / "out", adapter, delta_of(model, adapter), model)
    assert peft.prepare(tmp_path / "out", model, base=base) is base
    with pytest.raises(TypeError, match="base is missing"):
        peft.prepare(tmp_path / "out", model)


def test_several_ranks_are_refused(tmp_path):
    model = llama()
    adapter = VeRA(3, {QUERY: {"rank": 2}, VALUE: {}})
    with pytest.raises(LoraxError, match="VeRA has several ranks"):
        peft.save(tmp_path / "x", adapter, delta_of(model, adapter), model, base=base_of(model))


def test_matrices_are_joined_where_they_are_parts_of_one():
    a, b = DRAW.normal(size=(6, 2)).astype(np.float32), DRAW.normal(size=(2, 5)).astype(np.float32)
    updates = {"x": _update(a, b[:, :3]), "y": _update(2 * a[:4], b)}
    found, shared = joined(updates)
    np.testing.assert_array_equal(shared[SHARED[0]], a.T)
    np.testing.assert_array_equal(shared[SHARED[1]], b.T)
    np.testing.assert_array_equal(found["x"].ours["d"], updates["x"].ours["d"])
    np.testing.assert_allclose(found["y"].ours["d"], 2 * np.ones(2), rtol=1e-6)
    with pytest.raises(LoraxError, match="matrices of 'y' .* are no part of those of the largest"):
        joined(updates | {"y": _update(a[:4] + 1, b)})
    assert same(found["x"].ours["b"], updates["x"].ours["b"])
