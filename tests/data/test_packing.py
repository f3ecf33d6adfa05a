"""Packing: rows that are full, and an order of such rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.data.packing import Packed, best_fit


@settings(max_examples=60)
@given(st.lists(st.integers(0, 20), max_size=40), st.randoms())
def test_each_example_goes_where_it_leaves_the_least_room(lengths, random):
    """Against the rule written out plainly, row by row."""
    order = random.sample(range(len(lengths)), len(lengths))
    plain: list[list[int]] = []
    for example in order:
        room = [20 - sum(lengths[i] for i in row) for row in plain]
        fitting = [r for r in room if r >= lengths[example]]
        if not fitting:
            plain.append([example])
        else:
            found = best_fit(lengths, order[: order.index(example)], 20)
            assert sorted(map(tuple, found)) == sorted(map(tuple, plain))
            after = best_fit(lengths, order[: order.index(example) + 1], 20)
            grown = next(row for row in after if row[-1] == example)
            assert 20 - sum(lengths[i] for i in grown[:-1]) == min(fitting)
            plain[plain.index(grown[:-1])].append(example)
    assert sorted(map(tuple, best_fit(lengths, order, 20))) == sorted(map(tuple, plain))


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(10, 120, 3000)
    order = Packed(lengths=lengths, batch=8, tokens=512, seed=0)
    assert lengths.sum() / (512 * len(order.packs)) > 0.97


def test_rows_stay_together_over_epochs():
    order = Packed(lengths=[3, 5, 2, 6, 4, 4], batch=1, tokens=8, seed=0)
    epochs = [[order.rows(e * order.steps_per_epoch + s)[0] for s in range(3)] for e in range(4)]
    assert all(sorted(rows) == sorted(order.packs) for rows in epochs)
    assert len({str(rows) for rows in epochs}) > 1


def test_seed_settles_what_shares_a_row():
    packs = [Packed(lengths=[1] * 20, batch=1, tokens=4, seed=seed).packs for seed in (0, 0, 1)]
    assert packs[0] == packs[1] != packs[2]
