"""The report tells the truth, prints as a table, and computes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax

F32 = jnp.float32
SHAPES = {
    "dense": (6, 4),
    "experts": (3, 4, 5),
    "conv": (3, 2, 8),
    "bias": (4,),
    "idle": (2, 2),
    "scale": (),
}
BASE = {name: jax.ShapeDtypeStruct(shape, F32) for name, shape in SHAPES.items()}
BASE["ids"] = jax.ShapeDtypeStruct((7,), jnp.int32)
ARGS = (jax.ShapeDtypeStruct((2, 6), F32), jax.ShapeDtypeStruct((1, 9, 4), F32))
WHERE = ("dense", "experts", "conv")


def program(base, x, image):
    """Two uses of one leaf, experts, and a grouped convolution."""
    hidden = (x @ base["dense"] + base["bias"]) * base["scale"]
    twice = hidden @ base["dense"].T @ base["dense"]
    mixed = jnp.einsum("ebd,edf->ebf", jnp.stack([twice] * 3), base["experts"])
    conv = lax.conv_general_dilated(
        image, base["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=2,
    )  # fmt: skip
    return mixed, conv, base["ids"]


@pytest.fixture(scope="module")
def report():
    return lorax.report(program, lorax.LoRA(rank=2, where=WHERE), BASE, *ARGS)


def test_one_row_a_leaf_in_the_order_of_the_base(report):
    assert [row.path for row in report.rows] == sorted(BASE)
    for row in report.rows:
        assert row.shape == BASE[row.path].shape
        assert row.dtype == BASE[row.path].dtype.name


def test_how_each_leaf_is_evaluated(report):
    rows = {row.path: row for row in report.rows}
    assert {path: row.how for path, row in rows.items()} == {
        "bias": "frozen", "conv": "merged", "dense": "factored", "experts": "factored",
        "idle": "frozen", "ids": "frozen", "scale": "frozen",
    }  # fmt: skip
    assert [row.path for row in report.merged] == ["conv"]
    assert rows["conv"].why == "conv_general_dilated"
    assert rows["dense"].why == ""
    assert rows["experts"].roles == lorax.Roles((0,), (1,), (2,))
    assert rows["idle"].roles.kind == "unused" and rows["bias"].roles.kind == "other"


def test_counts(report):
    rows = {row.path: row for row in report.rows}
    assert {path: row.uses for path, row in rows.items() if path != "ids"} == {
        "bias": 1, "conv": 1, "dense": 3, "experts": 1, "idle": 0, "scale": 1,
    }  # fmt: skip
    want = {"dense": 2 * (6 + 4), "experts": 3 * 2 * (4 + 5), "conv": 2 * (3 * 2 + 8)}
    assert {path: rows[path].trainable for path in want} == want
    assert all(rows[path].rank == (2 if path in want else None) for path in rows)
    assert report.trainable == sum(want.values()) == sum(row.trainable for row in report.rows)
    assert report.total == 24 + 60 + 48 + 4 + 4 + 1 + 7
    assert report.share == report.trainable / report.total


def test_the_counts_are_those_of_a_real_delta(report):
    base = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), BASE)
    delta = lorax.adapt(program, lorax.LoRA(rank=2, where=WHERE)).init(
        jax.random.key(0), base, *ARGS
    )
    assert report.trainable == sum(leaf.size for leaf in jax.tree.leaves(delta))
    assert lorax.report(program, lorax.LoRA(rank=2, where=WHERE), base, *ARGS) == report


def test_the_table_has_a_line_a_leaf_the_primitive_and_the_share(report):
    head, rule, *lines, last = str(report).splitlines()
    assert head.split() == "path shape roles rank trainable uses how why".split()
    assert set(rule) == {"─", " "}
    assert [line.split()[0] for line in lines] == sorted(BASE)
    (conv,) = (line for line in lines if line.startswith("conv"))
    assert conv.split() == "conv 3×2×8 conv in=0,1 out=2 2 28 1 merged conv_general_dilated".split()
    (experts,) = (line for line in lines if line.startswith("experts"))
    assert "stack=0 in=1 out=2" in experts
    assert last == (
        "3 of 7 leaves adapted, 1 of them merged; trainable 102 of 148 parameters (68.92 %)"
    )


def test_trained_leaves_notes_and_ambiguity_are_told():
    base = {"w": BASE["dense"], "v": jax.ShapeDtypeStruct((4, 2, 3), F32), "b": BASE["bias"]}

    def ambiguous(base, x):
        y = x @ base["w"] + base["b"]
        first = jnp.einsum("bd,dhk->bhk", y, base["v"])
        return first, jnp.einsum("bh,dhk->bdk", y[:, :2], base["v"])

    adapter = lorax.Chain(lorax.LoRA(rank=1, where=("w",)), lorax.Full(where=("b",)))
    report = lorax.report(ambiguous, adapter, base, ARGS[0])
    b, v, w = report.rows
    assert (b.how, b.rank, b.trainable) == ("trained", None, 4)
    assert v.how == "frozen" and v.roles.kind == "ambiguous" and "dot_general" in v.why
    assert (w.how, w.rank) == ("factored", 1)
    assert report.trainable == 4 + 10


def test_nothing_is_allocated_for_shapes_that_would_not_fit():
    side, layers = 100_000, 80
    base = {"layers": jax.ShapeDtypeStruct((layers, side, side), jnp.bfloat16)}
    x = jax.ShapeDtypeStruct((1_000_000, side), jnp.bfloat16)
    scan = lambda base, x: lax.scan(lambda x, w: (x @ w, None), x, base["layers"])[0]
    for initializer in ("kaiming", "pissa"):  # a decomposition would read the leaf
        adapter = lorax.LoRA(rank=4, initializer=initializer)
        report = lorax.report(scan, adapter, base, x)
        assert report.trainable == layers * 4 * 2 * side
        assert report.rows[0].roles == lorax.Roles((0,), (1,), (2,))


def test_an_empty_share_is_zero_and_mistakes_are_those_of_init():
    assert lorax.Report((), 0, 0).share == 0
    with pytest.raises(lorax.LoraxError, match="'idle' is adapted but the program never uses it"):
        lorax.report(program, lorax.LoRA(where=("idle",)), BASE, *ARGS)
    with pytest.raises(lorax.LoraxTypeError, match="expected an adapter"):
        lorax.report(program, {"rank": 2}, BASE, *ARGS)


def test_python_values_are_given_as_to_the_program():
    fn = lambda base, x, *, double: x @ base["dense"] * (2 if double else 1)
    adapter = lorax.LoRA(rank=1, where=("dense",))
    report = lorax.report(fn, adapter, {"dense": np.ones((6, 4), np.float32)}, ARGS[0], double=True)
    assert report.rows[0].uses == 1 and not report.merged
