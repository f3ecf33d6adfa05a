"""Checkpoints of a run: whole, kept by policy, passed over when damaged, told when refused."""

import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lorax import LoraxError
from lorax.core.leaf import Factors, Roles
from lorax.io import arrays as store
from lorax.io import checkpoint_folder as disk
from lorax.io.run_checkpoint import Checkpoints
from lorax.train.optim import adamw
from lorax.train.step import init_state, make_step
from tests.io.full_disk import small_disk
from tests.io.test_named_tree import assert_same


def small(step):
    return {"x": jnp.arange(6.0) + step, "key": jax.random.key(step)}


def filled(directory, *steps, **policy):
    checkpoints = Checkpoints(directory, **policy)
    for step in steps:
        checkpoints.save(step, small(step), {"step": step}, wait=True)
    return checkpoints


def flip(folder):
    """Changes one byte of the largest file."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def hidden(directory):
    return sorted(entry.name for entry in directory.iterdir() if entry.name.startswith("."))


def training():
    roles = Roles((), (0,), (1,))
    a = jax.random.normal(jax.random.key(1), (6, 2), jnp.bfloat16)
    delta = {"params/q/kernel": Factors(a, jnp.zeros((2, 4), jnp.bfloat16), roles)}
    tx = optax.chain(adamw(1e-2), optax.trace(0.9))

    def loss(delta, base, batch, key):
        factors = delta["params/q/kernel"]
        noise = jax.random.normal(key, (3, 6), jnp.bfloat16)
        return (((noise @ factors.A @ factors.B) - 1) ** 2).mean().astype(jnp.float32), {}

    return init_state(delta, tx, jax.random.key(0)), make_step(loss, tx)


def test_a_resumed_run_is_the_undisturbed_one(tmp_path):
    state, step = training()
    with Checkpoints(tmp_path) as checkpoints:
        for number in range(1, 7):
            state, _ = step(state, None, None)
            if number == 3:  # and the next step donates what is being saved
                checkpoints.save(3, state, {"data": {"next": 3}})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.latest(jax.eval_shape(lambda: training()[0]))
    assert (restored.step, restored.info, restored.skipped) == (3, {"data": {"next": 3}}, ())
    again = restored.tree
    assert again.step == 3
    for _ in range(3):
        again, _ = step(again, None, None)
    assert_same(state, again)


def test_an_empty_directory_has_none(tmp_path):
    with Checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.latest(small(0)) is None
        assert checkpoints.steps() == [] and checkpoints.best_step() is None
        with pytest.raises(LoraxError, match="no checkpoint of step 3: there is no checkpoint yet"):
            checkpoints.restore(3, small(0))


@pytest.mark.parametrize(
    "policy, metrics, steps, best",
    [
        ({"keep": 1}, [3, 1, 2, 4], [40], None),
        ({"keep": 2}, [3, 1, 2, 4], [30, 40], None),
        ({"keep": 2, "best": "loss"}, [3, 1, 2, 4], [20, 30, 40], 20),
        ({"keep": 1, "best": "loss", "mode": "max"}, [3, 9, 2, 9], [20, 40], 20),
        ({"keep": 1, "best": "loss"}, [3, float("nan"), None, 3], [10, 40], 10),
        ({"keep": 1, "best": "other"}, [3, 1, 2, 4], [40], None),
    ],
)
def test_what_is_kept(tmp_path, policy, metrics, steps, best):
    with Checkpoints(tmp_path, **policy) as checkpoints:
        for number, value in zip((10, 20, 30, 40), metrics, strict=True):
            numbers = {} if value is None else {"loss": value}
            checkpoints.save(number, {"x": np.ones(2)}, {}, metrics=numbers)
    assert checkpoints.steps() == steps and checkpoints.best_step() == best
    assert sorted(os.listdir(tmp_path), key=int) == [str(step) for step in steps]


def test_a_step_is_saved_again(tmp_path):
    with filled(tmp_path, 5) as checkpoints:
        checkpoints.save(5, small(6), {"pending": False}, wait=True)
        restored = checkpoints.restore(5, small(0))
    assert restored.info == {"pending": False}
    assert_same(restored.tree, small(6))
    assert os.listdir(tmp_path) == ["5"]


def test_the_one_before_a_damaged_one_is_used(tmp_path):
    with filled(tmp_path, 10, 20, 30, keep=3) as checkpoints:
        flip(tmp_path / "30")
        (tmp_path / "20" / disk.JSON_NAME).unlink()
        with pytest.raises(LoraxError, match="checkpoint 30 is damaged"):
            checkpoints.restore(30, small(0))
        restored = checkpoints.latest(small(0))
        assert restored.step == 10 and restored.info == {"step": 10}
        assert_same(restored.tree, small(10))
        for number, line in zip((30, 20), restored.skipped, strict=True):
            assert line.startswith(f"checkpoint {number} is damaged ('{tmp_path}/{number}/")
            assert line.endswith(f"passed over, and kept as '{number}.corrupt'")
        assert checkpoints.steps() == [10]
        checkpoints.save(20, small(20), {}, wait=True)  # the run comes by here again
        flip(tmp_path / "20")
        assert checkpoints.latest(small(0)).step == 10
    names = sorted(os.listdir(tmp_path))
    assert names[:3] == ["10", "20.corrupt", names[2]] and names[3:] == ["30.corrupt"]


def test_nothing_is_touched_when_all_are_damaged(tmp_path):
    with filled(tmp_path, 10, 20) as checkpoints:
        flip(tmp_path / "10")
        shutil.rmtree(tmp_path / "20" / disk.ARRAYS_NAME)
        for _ in range(2):
            with pytest.raises(LoraxError, match="every checkpoint .* is damaged: checkpoint 20"):
                checkpoints.latest(small(0))
    assert sorted(os.listdir(tmp_path)) == ["10", "20"]


def test_another_rank_and_another_run_are_refused(tmp_path):
    with filled(tmp_path, 1) as checkpoints:
        other = small(0) | {"x": np.zeros(3)}
        with pytest.raises(LoraxError, match="does not fit: it has .* at 'x'.*choose another dir"):
            checkpoints.latest(other)
        with pytest.raises(LoraxError, match="step is 1 there and 2 here"):
            checkpoints.latest(small(0), expect={"step": 2})
        assert checkpoints.latest(small(0), expect={"step": 1}).step == 1


def test_one_writes_and_others_read(tmp_path):
    with filled(tmp_path, 1) as writer:
        (tmp_path / ".2.0123abcd.partial").mkdir()  # as if the writer were at it
        with Checkpoints(tmp_path) as reader:
            flip(tmp_path / "1")
            with pytest.raises(LoraxError, match="every checkpoint"):
                reader.latest(small(0))
            writer.save(2, small(2), {}, wait=True)
            shutil.copytree(tmp_path / "1", tmp_path / "3")
            restored = reader.latest(small(0))
            assert restored.step == 2 and restored.skipped[0].endswith(": passed over")
            with pytest.raises(LoraxError, match="written by another run, or closed"):
                reader.save(4, small(4), {})
        assert hidden(tmp_path) == [".2.0123abcd.partial"]
        assert writer.steps() == [1, 2, 3]
    with pytest.raises(LoraxError, match="written by another run, or closed"):
        writer.save(4, small(4), {})
    with Checkpoints(tmp_path) as writer:
        assert hidden(tmp_path) == []
        writer.save(4, small(4), {})
    writer.close()


def test_a_killed_replacement_is_undone(tmp_path):
    with filled(tmp_path, 1, 2):
        pass
    (tmp_path / "2").rename(tmp_path / ".2.0123abcd.old")
    (tmp_path / ".2.0123abcd.partial").mkdir()
    (tmp_path / ".cache").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(small(0)).step == 2
    assert sorted(os.listdir(tmp_path)) == [".cache", "1", "2"]


def test_the_caller_goes_on_and_one_save_is_in_flight(tmp_path, monkeypatch):
    go, write = threading.Event(), store.save_arrays
    monkeypatch.setattr(store, "save_arrays", lambda *a: go.wait(20) and write(*a))
    with Checkpoints(tmp_path) as checkpoints:
        tree, info = {"x": np.zeros(3)}, {"next": [1]}
        checkpoints.save(1, tree, info)
        tree["x"] += 1
        info["next"].append(2)
        assert checkpoints.steps() == []
        threading.Timer(0.1, go.set).start()
        checkpoints.save(2, tree, info)
        assert go.is_set() and checkpoints.steps()[0] == 1
        checkpoints.wait()
        first = checkpoints.restore(1, tree)
        assert (first.tree["x"] == 0).all() and first.info == {"next": [1]}
        assert checkpoints.restore(2, tree).info == {"next": [1, 2]}


def failing(*_):
    raise OSError(28, "No space left on device")


FAILED = (
    r"step 2 was not saved: cannot write .*2' \(No space left on device\).*"
    r"free some space.*checkpoints are there of steps 1$"
)


@pytest.mark.parametrize("surface", ["save", "wait", "close", "exit"])
def test_a_failure_in_the_background_is_told_once(tmp_path, monkeypatch, surface):
    checkpoints = filled(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_arrays", failing)
        checkpoints.save(2, small(2), {})
        with pytest.raises(LoraxError, match=FAILED) as caught:
            {
                "save": lambda: checkpoints.save(3, small(3), {}),
                "wait": checkpoints.wait,
                "close": checkpoints.close,
                "exit": lambda: checkpoints.__exit__(None, None, None),
            }[surface]()
        assert "\n" not in str(caught.value)
    checkpoints.wait()
    checkpoints.close()
    assert os.listdir(tmp_path) == ["1"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(small(0)).step == 1
        checkpoints.save(2, small(2), {})
    assert checkpoints.steps() == [1, 2]


def test_an_urgent_save_is_tried_after_a_failure(tmp_path, monkeypatch):
    results = [failing, failing, failing, store.save_arrays]
    monkeypatch.setattr(store, "save_arrays", lambda *arguments: results.pop(0)(*arguments))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, small(2), {})
        with pytest.raises(LoraxError, match="step 3 was not saved"):
            checkpoints.save(3, small(3), {}, wait=True)
        checkpoints.save(4, small(4), {})
        checkpoints.save(5, small(5), {}, wait=True)
        assert checkpoints.steps() == [5]


def test_another_error_is_not_hidden_by_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "save_arrays", failing)
    with pytest.raises(KeyError) as caught, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, small(2), {})
        raise KeyError("mine")
    assert "step 2 was not saved" in caught.value.__notes__[0]


def test_a_disk_that_fills_leaves_the_last_one(tmp_path, monkeypatch, capfd):
    noise = lambda step: {
        str(i): np.random.default_rng(step + i).integers(0, 255, 50_000, np.uint8)
        for i in range(24)
    }
    with small_disk(tmp_path / "disk", 3) as folder:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, noise(1), {})
            with pytest.raises(
                LoraxError, match="step 2 was not saved: .* needed, .* free some sp"
            ):
                checkpoints.wait()
                checkpoints.save(2, noise(2) | {"more": np.zeros(1 << 21, np.uint8)}, {})
            monkeypatch.setattr(store, "check_space", lambda *_: None)
            checkpoints.save(2, noise(2), {})
            checkpoints.save(3, noise(3), {})
            with pytest.raises(LoraxError, match="No space left on device.*steps 1, 2"):
                checkpoints.wait()
            assert_same(checkpoints.latest(noise(0)).tree, noise(2))
        assert hidden(folder) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "wrong, match",
    [
        (lambda d: Checkpoints(d, keep=0), "keep is 0: expected an integer, at least 1"),
        (lambda d: Checkpoints(d, mode="low"), "mode is 'low': expected one of"),
        (lambda d: Checkpoints(d / "file"), "cannot write"),
        (lambda d: Checkpoints(3), "directory is a int"),
        (lambda d: Checkpoints(d).save(-1, {}, {}), "step is -1"),
        (lambda d: Checkpoints(d).save(1, {"x": 1}, {}), "'x' is a int: expected a tree of arrays"),
        (lambda d: Checkpoints(d).save(1, {}, {"x": {1, 2}}), "info or metrics: .* plain values"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, wrong, match):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoraxError, match=match) as caught:
        wrong(tmp_path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]
