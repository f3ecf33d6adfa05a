"""Named arrays in a folder: bit-identical, checked, and quiet when the disk refuses."""

import os
import shutil
import sys
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.io import arrays as store
from tests.io.full_disk import small_disk, small_files

DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool", "int64")
ARRAYS = {
    f"{dtype}/{'x'.join(map(str, shape))}": np.asarray(
        np.random.default_rng(0).normal(size=shape) * 9
    ).astype(jnp.dtype(dtype))
    for dtype in DTYPES
    for shape in ((3, 5), (), (1, 1, 4))
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays") / "arrays"
    store.save_arrays(folder, ARRAYS)
    return folder


def test_arrays_come_back_bit_for_bit(folder):
    found = store.load_arrays(folder, ARRAYS)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_forms_are_told_without_reading(folder):
    forms = store.stored_forms(folder)
    assert forms == {name: (array.shape, str(array.dtype)) for name, array in ARRAYS.items()}


def test_threads_do_not_disturb_each_other(tmp_path):
    def write(number):
        store.save_arrays(tmp_path / str(number), {"x": np.full(1000, number)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert (store.load_arrays(tmp_path / str(number), ["x"])["x"] == number).all()


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "none"])
def test_damage_is_found_and_named(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    files = store.checksums(copy)
    assert set(files) == {f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file()}
    for name in files:
        file = copy / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(content[:-1])
        elif damage == "flipped":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        else:
            store.check_files(copy, files)
            continue
        with pytest.raises(store.Damaged) as caught:
            store.check_files(copy, files)
        assert caught.value.file == file and "\n" not in caught.value.reason
        file.write_bytes(content)


def test_what_is_no_checkpoint_is_damaged(tmp_path):
    for read in (lambda folder: store.load_arrays(folder, ["x"]), store.stored_forms):
        with pytest.raises(store.Damaged) as caught:
            read(tmp_path / "nothing")
        assert caught.value.file == tmp_path / "nothing"
        assert "\n" not in caught.value.reason and len(caught.value.reason) <= 160


NOISE = {f"{i}": np.random.default_rng(i).integers(0, 255, 50_000, np.uint8) for i in range(60)}


def test_a_full_disk_is_told_before_and_half_way(tmp_path, monkeypatch, capfd):
    with small_disk(tmp_path / "disk", 2) as disk:
        with pytest.raises(OSError, match="bytes needed, .* free"):
            store.save_arrays(disk / "arrays", NOISE)
        assert os.listdir(disk) == []
        monkeypatch.setattr(store, "check_space", lambda *_: None)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left on device"):
                store.save_arrays(disk / "arrays", NOISE)
            for entry in disk.iterdir():
                shutil.rmtree(entry)
    assert capfd.readouterr() == ("", "")


def test_a_refusal_half_way_is_quiet_and_hides_nothing_else(tmp_path, monkeypatch, capfd):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with small_files(1 << 20), pytest.raises(OSError, match="File too large"):
        store.save_arrays(tmp_path / "arrays", NOISE)
    assert capfd.readouterr() == ("", "") and seen == []
    other = types.SimpleNamespace(exc_value=ValueError("mine"), object=None)
    sys.unraisablehook(other)
    assert seen == [other]


def test_the_hook_goes_when_all_went_well(tmp_path):
    before = sys.unraisablehook
    store.save_arrays(tmp_path / "arrays", {"x": np.ones(3)})
    assert sys.unraisablehook is before


def test_a_reason_is_one_short_line():
    assert store.reason(ValueError("first\nsecond")) == "first"
    assert store.reason(KeyError()) == "KeyError"
    assert len(store.reason(ValueError("x" * 999))) == 160
    long = "RESOURCE_EXHAUSTED: " + "/a/path" * 50 + ": No space left on device"
    assert store.reason(ValueError(long)) == "No space left on device"
