"""Units of one program are the units alone; pixels in another order; the toy of dimension 10."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from experiments._intrinsic import pack, search
from experiments._intrinsic.rows import ROWS, read
from experiments._intrinsic.search import Point
from experiments._intrinsic.task import open_task
from experiments._page_file import load_config
from experiments._train.setting import make_setting
from lorax.adapters.projections import Projection
from lorax.core import paths
from lorax.data.batch import Batch
from lorax.data.shuffle import shuffle_pixels
from lorax.models.mlp import MLP
from lorax.ops.sparse import Sparse
from lorax.train.losses import classification_loss
from lorax.train.step import init_state, make_step
from lorax.train.stop import Stop
from tests.experiments.studies import run

pytestmark = pytest.mark.runs

pytest.importorskip("matplotlib")

EPOCHS = 2


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Images of the toy, one hidden layer."""
    config = load_config("configs/intrinsic_digits.py:smoke")
    config.train.update({"epochs": EPOCHS, "batch": 24})
    config.eval.update({"limit": 0, "batch": 64})
    config.optimizer.clip = 1.0  # the norm of a padded gradient is that of its own part
    config.study.vary = ("projection",)
    return open_task(make_setting(config), tmp_path_factory.mktemp("task"), Stop())


def study(task, **fields):
    return task.config.study.to_dict() | fields


def subspace(dim, lr=1e-2, repeat=0, projection="sparse"):
    return Point("subspace", projection, dim, None, repeat, lr)


def lora(rank, lr, repeat=0):
    return Point("lora", "", None, rank, repeat, lr)


def direct(lr, repeat=0):
    return Point("direct", "", None, None, repeat, lr)


def trained(task, points, width=0, **fields):
    return pack.train_pack(task, study(task, **fields), points, lambda line: None, width)


def same(row, wanted):
    assert (row.name, row.trained, row.seeds) == (wanted.name, wanted.trained, wanted.seeds)
    assert row.packed > wanted.packed == 1
    assert row.curve == pytest.approx(wanted.curve, rel=1e-5)
    assert row.last == pytest.approx(wanted.last, rel=1e-5)


@pytest.mark.parametrize(
    "points, alone, width",
    [
        ([subspace(20), subspace(25, 3e-3, 1), subspace(30, 2e-2, 2)], (1,), 0),
        ([subspace(20, 3e-2, 1, "fastfood"), subspace(28, 1e-2, 0, "fastfood")], (0,), 1),
        pytest.param(
            [subspace(8, 3e-2, 0, "dense"), subspace(12, 1e-2, 0, "dense")],
            (0,),
            0,
            marks=pytest.mark.runs,
        ),
        ([lora(2, 1e-2), lora(2, 3e-3, 1)], (1,), 0),
        pytest.param([direct(1e-3), direct(3e-3)], (1,), 1, marks=pytest.mark.runs),
    ],
    ids=["sparse", "fastfood", "dense", "lora", "direct"],
)
def test_units_of_one_program_are_the_units_alone(task, points, alone, width):
    (one,) = pack.packs(task, study(task), points, 8)
    assert one == points
    rows = trained(task, points, width)
    assert len({row.last["train/loss"] for row in rows}) == len(points)
    for number in alone:
        same(rows[number], *trained(task, [points[number]]))


def test_a_unit_is_what_training_step_by_step_makes_of_it(task):
    config, l2, seed = task.config, 1e-3, 3
    (row,) = trained(task, [subspace(33, 2e-2, seed)], l2=l2)
    adapter = lorax.Subspace(dim=33, projection="sparse", seed=seed)
    own, base = task.loss(adapter), task.setting.subject.base
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = 2e-2
    tx = dataclasses.replace(task.setting, config=config).tx

    def loss(delta, base, batch, key):
        value, metrics = own(delta, base, batch, key)
        leaves = paths.flatten(adapter.merge(base, delta))
        kernels = [leaf for path, leaf in leaves.items() if path.endswith("kernel")]
        return value + l2 * sum(jnp.sum(kernel**2) for kernel in kernels), metrics

    step, prepared = make_step(loss, tx), adapter.prepare(base, None)
    state = init_state(adapter.init(jax.random.key(0), base), tx, jax.random.key(0))
    for number in range(EPOCHS * task.steps):
        state, _ = step(state, prepared, task.setting.data.pipeline[number])
    wanted = task.numbers(adapter.merge(base, state.delta), "validation", "train")
    assert row.last == pytest.approx(wanted, rel=1e-5)
    assert row.start == pytest.approx(task.numbers(base, "validation", "train"), rel=1e-6)


def test_a_unit_that_becomes_nan_is_told_and_its_neighbour_goes_on(task):
    bad, good = trained(task, [subspace(20, 1e38), subspace(20, 1e-2)])
    assert bad.failed.startswith(("NaN or infinity in epoch 1", "validation/accuracy is not"))
    assert not bad.last and not bad.curve
    assert not good.failed and good.last["train/loss"] < good.start["train/loss"]


def test_packs_hold_what_can_share_a_program(task):
    points = [
        direct(1e-3), direct(1e-3, 1), subspace(100), subspace(20), subspace(25, repeat=1),
        subspace(31), subspace(20, repeat=1, projection="dense"), lora(1, 1e-2), lora(2, 1e-2),
    ]  # fmt: skip
    both = {"vary": ("projection", "data")}
    names = lambda fields, n: [
        [p.dim or p.rank or "D" for p in one]
        for one in pack.packs(task, study(task, **fields), points, n)
    ]
    assert names({}, 8) == [["D"], ["D"], [20, 25], [31], [100], [20], [1], [2]]
    assert names({}, 1) == [["D"], ["D"], [20], [25], [31], [100], [20], [1], [2]]
    assert names(both, 8)[2:5] == [[20], [31], [100]]
    many = [subspace(20, repeat=n) for n in range(10)]
    assert [len(one) for one in pack.packs(task, study(task), many, 4)] == [4, 4, 2]


SIDE, CLASSES = 6, 4
MODEL = MLP((16, CLASSES))


@functools.cache
def pixel_step(adapter):
    tx = optax.adam(1e-2)
    return tx, make_step(classification_loss(MODEL.apply, adapter), tx)


def losses(adapter, base, projection, images, labels):
    """Twelve of them."""
    prepared = lorax.Prepared(base, projection, adapter)
    tx, step = pixel_step(adapter)
    state = init_state(adapter.init(jax.random.key(0), base), tx, jax.random.key(0))
    found = []
    for number in range(12):
        rows = np.random.default_rng(number).integers(0, len(images), 16)
        x = images[rows].reshape(16, -1)
        state, metrics = step(state, prepared, Batch(x, labels[rows], np.ones(16, bool)))
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.parametrize("kind", ["sparse", pytest.param("dense", marks=pytest.mark.runs)])
def test_with_p_and_the_first_kernel_in_the_same_order_pixels_may_have_any(kind):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (64, SIDE, SIDE), np.uint8)
    labels = draw.integers(0, CLASSES, 64).astype(np.int32)
    rows = [{"image": image, "label": 0} for image in (*pixels, np.arange(36).reshape(6, 6))]
    *shuffled, order = (row["image"] for row in shuffle_pixels(rows, seed=5))
    plain, order = pixels.astype(np.float32) / 255, order.reshape(-1)
    shuffled = np.array(shuffled, np.float32) / 255
    assert not np.array_equal(order, np.arange(36))

    adapter = lorax.Subspace(dim=15, projection=kind, seed=1)
    base = MODEL.init(jax.random.key(2), jnp.zeros((1, 36)))
    stored = paths.flatten(base)
    first = "params/dense_0/kernel"
    moved = paths.replace(base, {first: stored[first][order]})
    places, start = [], 0  # which row of P goes where
    for path in sorted(stored):
        place = start + np.arange(stored[path].size).reshape(stored[path].shape)
        places.append((place[order] if path == first else place).ravel())
        start += stored[path].size
    projection = adapter.derive(base, None)
    permuted = Projection(_in_order(projection.whole, np.concatenate(places)), {})

    curve = losses(adapter, base, projection, plain, labels)
    np.testing.assert_allclose(
        losses(adapter, moved, permuted, shuffled, labels), curve, rtol=1e-5, atol=1e-6
    )
    other = losses(adapter, moved, projection, shuffled, labels)
    assert curve[-1] < curve[0] and max(np.abs(np.subtract(other, curve))) > 1e-3


def _in_order(whole, places):
    """P whose row i is row `places[i]` of `whole`."""
    if not isinstance(whole, Sparse):
        return dataclasses.replace(whole, columns=whole.columns[:, places])
    rows = np.argsort(places)[whole.rows]
    order = np.argsort(rows)
    return dataclasses.replace(
        whole, rows=jnp.asarray(rows[order]), columns=whole.columns[order],
        values=whole.values[order],
    )  # fmt: skip


def test_the_dimension_of_the_toy_problem_is_ten_with_five_projections_of_five(tmp_path):
    page = ["--config=configs/intrinsic_toy.py", "--config.study.grid=(8,10,12)", "--pack=15"]
    said = run(tmp_path, *page)
    assert said.code == 0 and "d=10 is the first d whose mean passes" in said.out[-2], said
    rows = read(tmp_path / ROWS)
    found = {d: [] for d in (None, 8, 9, 10, 12)}
    for row in rows:
        assert row.total == 1000
        found[row.dim].append(math.exp(-10 * row.last["validation/loss"]))
    assert [len(values) for values in found.values()] == [1, 5, 5, 5, 5]
    assert min(*found[10], *found[12], *found[None]) > 0.999
    assert max(found[8]) < 0.9 and sum(value < 0.9 for value in found[9]) >= 4
    ended = search.verdict(rows, load_config(page[0].partition("=")[2]).study.to_dict(), 1000)
    assert (ended.state, ended.dim, ended.below) == (search.FOUND, 10, 9)
