"""One checkpoint's folder: no byte of it may change unseen, and it says whose it is."""

import json
import shutil

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from lorax import LoraxError
from lorax.io import checkpoint_folder as disk
from lorax.io.arrays import Damaged
from lorax.io.named_tree import host_copies, named_leaves

TREE = {"delta": {"q/kernel/A": jnp.arange(12.0).reshape(3, 4)}, "step": jnp.int32(7)}
INFO = {"config": {"rank": 4, "where": ["q", "v"], "seed": 0}, "base": "ab12"}


def write(folder, tree=TREE, info=INFO):
    leaves = named_leaves(tree)
    disk.write(folder, disk.about(7, leaves, info, {"loss": 1.5}), host_copies(leaves))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("folder") / "7")


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "7")


def test_round_trip(written):
    disk.check(written)
    tree, info = disk.load(written, TREE, {})
    assert (tree["delta"]["q/kernel/A"] == TREE["delta"]["q/kernel/A"]).all()
    assert tree["step"] == 7 and info == INFO
    said = disk.read_about(written)
    assert (said["step"], said["metrics"]) == (7, {"loss": 1.5})


@pytest.mark.parametrize("shape, spec", [((1, 4), ("x", "y")), ((2, 2), (None, "x")), ((2, 2), ())])
def test_arrays_go_where_the_like_says(written, shape, spec):
    """Also onto devices that they were not saved from."""
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = jax.NamedSharding(mesh, jax.P(*spec))
    wanted = jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=place)
    tree, _ = disk.load(written, TREE | {"delta": {"q/kernel/A": wanted}}, {})
    found = tree["delta"]["q/kernel/A"]
    assert found.sharding == place and (found == TREE["delta"]["q/kernel/A"]).all()
    assert not tree["step"].committed
    again, _ = disk.load(written, tree, {})
    assert again["delta"]["q/kernel/A"].sharding == place


def test_keys_go_there_too(tmp_path):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.NamedSharding(mesh, jax.P("x"))
    tree = {"keys": jax.device_put(jax.random.split(jax.random.key(3), 8), cut)}
    write(tmp_path / "1", tree)
    found, _ = disk.load(tmp_path / "1", tree, {})
    assert found["keys"].sharding == cut and (found["keys"] == tree["keys"]).all()


def test_what_the_caller_changes_later_is_not_in_it():
    info = {"order": [1, 2]}
    said = disk.about(1, {}, info, {})
    info["order"].append(3)
    assert said["info"] == {"order": [1, 2]}


@pytest.mark.parametrize("info, metrics", [({"x": jnp.ones(2)}, {}), ({}, {"loss": "low"})])
def test_what_is_no_json_is_told(info, metrics):
    with pytest.raises(LoraxError, match="expected plain values"):
        disk.about(1, {}, info, metrics)


def _changed(content, at):
    return content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :]


DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "first byte": lambda content: _changed(content, 0),
    "middle byte": lambda content: _changed(content, len(content) // 2),
    "last byte": lambda content: _changed(content, len(content) - 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_file_changes_unseen(copy, damage):
    files = [file for file in copy.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        changed = DAMAGES[damage](content)
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)
        with pytest.raises(Damaged) as caught:
            disk.check(copy)
        assert caught.value.file == file and "\n" not in caught.value.reason
        file.write_bytes(content)
    disk.check(copy)


@settings(max_examples=200)
@given(st.data())
def test_law_the_account_is_what_was_written_or_damaged(written, tmp_path_factory, data):
    content = (written / disk.JSON_NAME).read_bytes()
    folder = tmp_path_factory.getbasetemp() / "altered"
    folder.mkdir(exist_ok=True)
    at = data.draw(st.integers(0, len(content) - 1))
    byte = bytes([data.draw(st.integers(0, 255))])
    (folder / disk.JSON_NAME).write_bytes(content[:at] + byte + content[at + 1 :])
    try:
        said = disk.read_about(folder)
    except Damaged:
        return
    assert said == disk.read_about(written)


def test_another_format_is_no_damage(copy, monkeypatch):
    monkeypatch.setattr(disk, "FORMAT", 2)
    with pytest.raises(LoraxError, match="has format 1, this version reads 2: install the version"):
        disk.check(copy)


def test_a_checkpoint_is_replaced_whole(copy, tmp_path):
    write(copy, {"step": jnp.int32(9)}, {})
    assert disk.load(copy, {"step": jnp.int32(0)}, {})[0]["step"] == 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["7"]


def test_another_run_is_refused_field_by_field(written):
    config = INFO["config"]
    disk.load(written, TREE, {"config": config | {"where": ("q", "v")}, "base": "ab12"})
    for expect, text in [
        ({"base": "cd34"}, 'base is "ab12" there and "cd34" here'),
        ({"config": config | {"rank": 8}}, "config.rank is 4 there and 8 here"),
        ({"config": {"rank": 4, "where": ["q", "v"]}}, "config.seed is 0 there and absent here"),
        ({"config": config | {"new": 1}}, "config.new is absent there and 1 here"),
        ({"data": {"next": 3}}, 'data is absent there and {"next": 3} here'),
        ({"config": {}, "base": "", "a": 1, "b": 2}, " and 2 more: "),
    ]:
        with pytest.raises(LoraxError, match="is of another run: ") as caught:
            disk.load(written, TREE, expect)
        assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_misfit_is_told_before_an_array_is_read(copy):
    shutil.rmtree(copy / disk.ARRAYS_NAME)
    like = TREE | {"delta": {"q/kernel/A": np.zeros((3, 2), np.float32)}}
    with pytest.raises(LoraxError, match="rank 4, this config asks 2 at 'q/kernel'"):
        disk.load(copy, like, {})


def test_the_account_can_be_read_by_eye(written):
    text = (written / disk.JSON_NAME).read_text()
    assert json.loads(text)["info"] == INFO
    assert '\n"info": {"config"' in text
