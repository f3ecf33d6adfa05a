"""Bytes in windows: reproducible draws, exact splits, every held-out byte at most once."""

import numpy as np
import pytest

from lorax.data import text

DOCUMENTS = {f"doc{i:02}": f"text number {i}".encode() for i in range(10)}
DATA = np.arange(200, dtype=np.uint8)


def test_read_files_sorts_by_path(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_bytes(name.encode())
    found = text.read_files([tmp_path / "b.txt", tmp_path / "a.txt"])
    assert list(found.values()) == [b"a.txt", b"b.txt"]


def test_split_is_by_document_exact_and_independent_of_order():
    train, held_out = text.split(DOCUMENTS, every=5)
    assert sorted(held_out) == ["doc04", "doc09"] and len(train) == 8
    assert not set(train) & set(held_out) and {**train, **held_out} == DOCUMENTS
    again = text.split(dict(reversed(DOCUMENTS.items())), every=5)
    assert again == (train, held_out)


@pytest.mark.parametrize("every, match", [(1, "2 or more"), (11, "too few")])
def test_split_refuses(every, match):
    with pytest.raises(ValueError, match=match):
        text.split(DOCUMENTS, every=every)


def test_without_repeats_keeps_each_paragraph_once():
    documents = {"b": b"one\n\ntwo  words\n\nthree", "a": b"two\nwords\n \none", "c": b"\n\none"}
    assert text.without_repeats(documents) == {"a": b"two\nwords\n\none", "b": b"three"}


def test_stream_joins_in_order_of_name():
    assert text.stream({"b": b"2", "a": b"1"}).tobytes() == b"1" + text.SEPARATOR + b"2"


def test_random_windows_are_a_function_of_seed_and_step():
    draw = lambda seed, step: text.random_windows(DATA, batch=4, length=8, seed=seed, step=step)
    one = draw(0, 3)
    assert all(np.array_equal(a, b) for a, b in zip(one, draw(0, 3), strict=True))
    assert not np.array_equal(one.inputs, draw(0, 4).inputs)
    assert not np.array_equal(one.inputs, draw(1, 3).inputs)
    assert one.inputs.shape == (4, 8) and one.inputs.dtype == np.int32 and one.mask.all()
    assert np.array_equal(one.targets, one.inputs + 1)


def test_batches_can_start_anywhere():
    first = text.batches(DATA, batch=2, length=4, seed=7)
    skipped = [next(first) for _ in range(3)][2]
    resumed = next(text.batches(DATA, batch=2, length=4, seed=7, start=2))
    assert np.array_equal(skipped.inputs, resumed.inputs)


def test_random_windows_reach_both_ends():
    starts = {
        int(row[0])
        for step in range(50)
        for row in text.random_windows(DATA[:10], batch=8, length=8, seed=0, step=step).inputs
    }
    assert starts == {0, 1}


def test_random_windows_need_enough_text():
    with pytest.raises(ValueError, match="8 bytes are too few for windows of 8"):
        text.random_windows(DATA[:8], batch=1, length=8, seed=0, step=0)


@pytest.mark.parametrize("size", [2, 9, 10, 33, 200])
@pytest.mark.parametrize("length, batch", [(8, 3), (7, 1), (300, 2)])
def test_all_of_a_text_is_each_byte_once(size, length, batch):
    found = text.spread_windows(DATA[:size], batch=batch, length=length, count=size)
    targets = np.concatenate([b.targets[b.mask] for b in found])
    assert sorted(targets) == list(range(1, size))
    assert all(b.inputs.shape == (batch, length) for b in found)
    inputs = np.concatenate([b.inputs[b.mask] for b in found])
    assert np.array_equal(inputs + 1, targets)


def test_a_part_of_a_text_is_spread_over_it_without_overlap():
    found = text.spread_windows(DATA, batch=4, length=8, count=64)
    starts = np.concatenate([b.inputs[:, 0] for b in found])
    assert len(starts) == 8 and np.all(np.diff(starts) >= 8)
    assert starts[0] == 0 and starts[-1] > 150


@pytest.mark.parametrize("data, count", [(DATA[:1], 5), (DATA, 0)])
def test_spread_windows_refuses(data, count):
    with pytest.raises(ValueError, match="cannot cut"):
        text.spread_windows(data, batch=1, length=4, count=count)
