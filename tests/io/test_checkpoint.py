"""Adapters on disk: bit-identical, whole or not at all, one line for every damage."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.io import arrays, atomic
from lorax.io.checkpoint import (
    base_of,
    load_adapter,
    load_adapters,
    save_adapter,
    size_on_disk,
)
from lorax.io.fingerprint import fingerprint
from lorax.models.mlp import MLP
from lorax.train.optim import adamw
from lorax.train.step import init_state, make_step

MODEL = MLP((16, 16, 4))
X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
Y = np.arange(8) % 4
BASE = MODEL.init(jax.random.key(0), X)
ADAPTERS = {
    "lora": lorax.LoRA(rank=2, alpha=3.0, dropout=0.25, exclude=(".*bias",)),
    "mapping": lorax.LoRA(where={".*0/kernel": {"rank": 3}, ".*1/kernel": {"alpha": 2.0}}),
    "bfloat16": lorax.LoRA(rank=2, dtype="bfloat16"),
    "pissa": lorax.LoRA(rank=2, initializer="pissa"),
    "full": lorax.Full(),
    "bitfit": lorax.BitFit(),
    "chain": lorax.Chain(lorax.LoRA(rank=2, where=(".*0/kernel",)), lorax.BitFit()),
}


def noisy(adapter):
    delta = lorax.adapt(MODEL.apply, adapter).init(jax.random.key(1), BASE, X)
    noise = lambda x: x + jax.random.normal(jax.random.key(2), x.shape, x.dtype)
    return jax.tree.map(noise, delta)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    save_adapter(folder, ADAPTERS["lora"], noisy(ADAPTERS["lora"]))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "adapter"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_round_trip_is_bit_identical(tmp_path, name):
    adapter = ADAPTERS[name]
    delta = noisy(adapter)
    save_adapter(tmp_path / "new" / "adapter", adapter, delta)
    again, loaded = load_adapter(tmp_path / "new" / "adapter")
    assert again == adapter and type(again) is type(adapter)
    assert jax.tree.structure(loaded) == jax.tree.structure(delta)
    for x, y in zip(jax.tree.leaves(delta), jax.tree.leaves(loaded), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    merged, expected = again.merge(BASE, loaded), adapter.merge(BASE, delta)
    assert jax.tree.all(jax.tree.map(np.array_equal, merged, expected))
    assert os.listdir(tmp_path / "new") == ["adapter"]


@pytest.mark.parametrize("name", ["lora", "chain"])
def test_training_goes_on_after_reload(tmp_path, name):
    def fit(adapter, delta, steps):
        apply = lorax.adapt(MODEL.apply, adapter)

        def loss(delta, base, batch, key):
            losses = optax.softmax_cross_entropy_with_integer_labels(apply(base, delta, X), Y)
            return losses.mean(), {}

        tx, losses = adamw(1e-2), []
        state, step = init_state(delta, tx, jax.random.key(0)), make_step(loss, tx)
        for _ in range(steps):
            state, metrics = step(state, BASE, None)
            losses.append(float(metrics["loss"]))
        return state.delta, losses

    adapter = ADAPTERS[name]
    delta, first = fit(
        adapter, lorax.adapt(MODEL.apply, adapter).init(jax.random.key(1), BASE, X), 20
    )
    save_adapter(tmp_path / "adapter", adapter, delta)
    reloaded, second = fit(*load_adapter(tmp_path / "adapter"), 20)
    assert first[-1] < first[0] and second[0] < first[-1] and second[-1] < 0.9 * second[0]
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), delta, reloaded)
    assert all(jax.tree.leaves(moved))


def test_base_is_never_saved(saved):
    base_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(BASE))
    names = json.loads((saved / "adapter.json").read_text())["delta"]["items"]
    assert all(leaf["kind"] == "factors" for leaf in names.values())
    assert size_on_disk(saved) == sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(saved)
        for file in files
    )
    assert base_bytes > 0


def test_an_existing_directory_is_refused_and_untouched(copy):
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    with pytest.raises(LoraxError, match="exists already.*overwrite=True"):
        save_adapter(copy, ADAPTERS["full"], noisy(ADAPTERS["full"]))
    assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before


def test_overwrite_replaces_an_adapter_and_nothing_else(copy, tmp_path):
    save_adapter(copy, ADAPTERS["bitfit"], noisy(ADAPTERS["bitfit"]), overwrite=True)
    assert load_adapter(copy)[0] == ADAPTERS["bitfit"]
    assert os.listdir(tmp_path) == ["adapter"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("precious")
    with pytest.raises(LoraxError, match="holds no adapter.json"):
        save_adapter(other, ADAPTERS["bitfit"], noisy(ADAPTERS["bitfit"]), overwrite=True)
    assert (other / "chapter.tex").read_text() == "precious"


@pytest.mark.parametrize(
    "place", [(arrays, "save_arrays"), (atomic, "put_in_place")], ids=["arrays", "rename"]
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_what_was_there(copy, tmp_path, monkeypatch, place, existing):
    def fail(*args):
        raise OSError(28, "No space left on device")

    target = copy if existing else tmp_path / "fresh"
    monkeypatch.setattr(*place, fail)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(LoraxError, match="cannot write .*No space left on device.*free some space"):
        save_adapter(target, ADAPTERS["full"], noisy(ADAPTERS["full"]), overwrite=existing)
    assert sorted(os.listdir(tmp_path)) == before
    assert load_adapter(copy)[0] == ADAPTERS["lora"]


def test_the_old_adapter_comes_back_if_the_rename_fails(copy, tmp_path, monkeypatch):
    rename, calls = pathlib.Path.rename, []

    def second_fails(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", second_fails)
    with pytest.raises(LoraxError, match="Input/output error"):
        save_adapter(copy, ADAPTERS["full"], noisy(ADAPTERS["full"]), overwrite=True)
    assert os.listdir(tmp_path) == ["adapter"]
    assert load_adapter(copy)[0] == ADAPTERS["lora"]


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 0, 9))
    with pytest.raises(LoraxError, match="bytes needed, 9 free.*free some space"):
        save_adapter(tmp_path / "adapter", ADAPTERS["full"], noisy(ADAPTERS["full"]))
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoraxError, match="cannot write"):
        save_adapter(tmp_path / "file" / "adapter", ADAPTERS["full"], noisy(ADAPTERS["full"]))


def test_what_cannot_be_saved_is_named(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Odd(lorax.Full):
        table: object = dataclasses.field(default=None, compare=False)

    target, delta = tmp_path / "adapter", noisy(lorax.LoRA(rank=2, alpha=jnp.float32(3)))
    with pytest.raises(LoraxError, match="Odd cannot be written as JSON.*plain values"):
        save_adapter(target, Odd(table=jnp.ones(2)), {"x": jnp.ones(2)})
    with pytest.raises(LoraxError, match="delta at 'x' is a float"):
        save_adapter(target, ADAPTERS["lora"], {"x": 1.0})
    with pytest.raises(LoraxError, match="adapter is"):
        save_adapter(target, {"rank": 2}, delta)
    with pytest.raises(LoraxError, match="zero size"):
        save_adapter(target, lorax.Full(), {"x": jnp.zeros((0, 3))})
    assert os.listdir(tmp_path) == []


def _without_arrays(folder):
    shutil.rmtree(folder / "arrays")


def _truncated(folder):
    for file in _data_files(folder):
        file.write_bytes(file.read_bytes()[: os.path.getsize(file) // 2])


def _flipped(folder):
    for file in _data_files(folder):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(bytes(content))


def _data_files(folder):
    return [file for file in folder.rglob("*") if file.is_file() and file.parent.name == "d"]


def _edit(change):
    def damage(folder):
        file = folder / "adapter.json"
        saved = json.loads(file.read_text())
        change(saved)
        file.write_text(json.dumps(saved))

    return damage


def _first(saved):
    return next(iter(saved["delta"]["items"].values()))


DAMAGES = {
    "no json": (lambda f: (f / "adapter.json").unlink(), "holds no adapter.json"),
    "broken json": (lambda f: (f / "adapter.json").write_text('{"format'), "not JSON"),
    "binary json": (lambda f: (f / "adapter.json").write_bytes(b"\xff\xfe\x00"), "adapter.json"),
    "a list": (lambda f: (f / "adapter.json").write_text("[]"), "no format number"),
    "later format": (_edit(lambda s: s.update(format=99)), "format 99.*install the version"),
    "no delta": (_edit(lambda s: s.pop("delta")), "no valid entry 'delta'"),
    "unknown adapter": (_edit(lambda s: s["adapter"].update(adapter="Vera")), "'Vera' is unknown"),
    "bad rank": (_edit(lambda s: s["adapter"].update(rank=0)), "rank is 0"),
    "other rank": (_edit(lambda s: _first(s)["A"].update(shape=[12, 5])), "adapter.json says"),
    "other dtype": (_edit(lambda s: _first(s)["A"].update(dtype="bfloat16")), "bfloat16"),
    "one leaf less": (
        _edit(lambda s: s["delta"]["items"].pop(next(iter(s["delta"]["items"])))),
        "unknown entry",
    ),
    "no arrays": (_without_arrays, "arrays.*is damaged"),
    "truncated": (_truncated, "bytes instead of"),
    "flipped bits": (_flipped, "content changed"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line_that_names_the_place(copy, name):
    damage, match = DAMAGES[name]
    damage(copy)
    with pytest.raises(LoraxError, match=match) as caught:
        load_adapter(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_directory(tmp_path):
    with pytest.raises(LoraxError, match="no adapter at .*nothing"):
        load_adapter(tmp_path / "nothing")


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_adapter("adapter", ADAPTERS["bitfit"], noisy(ADAPTERS["bitfit"]))
    assert load_adapter("adapter")[0] == ADAPTERS["bitfit"]


def test_a_tilde_is_the_home_and_what_is_no_path_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter = ADAPTERS["lora"]
    save_adapter("~/x", adapter, noisy(adapter))
    assert load_adapter("~/x")[0] == load_adapter(tmp_path / "x")[0] == adapter
    with pytest.raises(LoraxError, match="directory is a dict: expected a path"):
        save_adapter({}, adapter, noisy(adapter))
    with pytest.raises(LoraxError, match="directory is a LoRA: expected a path"):
        load_adapter(adapter)


def test_adapters_know_their_base_and_those_of_different_bases_do_not_mix(tmp_path, saved):
    adapter, other = ADAPTERS["lora"], jax.tree.map(lambda x: x + 1, BASE)
    a, b, c = (tmp_path / name for name in "abc")
    for place, base in ((a, BASE), (b, fingerprint(BASE)), (c, other)):
        save_adapter(place, adapter, noisy(adapter), base=base)
    assert base_of(a) == base_of(b) == fingerprint(BASE) and base_of(saved) is None
    assert [one for one, _ in load_adapters([a, saved, b], base=BASE)] == [adapter] * 3
    for places, base in (((a, saved, c), None), ((c,), BASE)):
        with pytest.raises(LoraxError, match="'.*c' belongs to the base .* one base") as caught:
            load_adapters(places, base)
        assert "\n" not in str(caught.value)
    file = a / "adapter.json"
    file.write_text(file.read_text().replace(f'"{fingerprint(BASE)}"', "7"))
    with pytest.raises(LoraxError, match="damaged"):
        base_of(a)
