"""Several processes at one folder, played by threads: whole or not at all, and all hear of it."""

import concurrent.futures
import os
import threading

from lorax import LoraxError
from lorax.io.atomic import new_directory
from lorax.io.together import Meeting

TOKEN = "0123abcd"


def meetings(tmp_path, count=3, patience=20.0):
    return [
        Meeting(tmp_path / "5", TOKEN, i, count, threading.Event(), patience) for i in range(count)
    ]


def write_own(meeting):
    return lambda partial: (partial / f"own.{meeting.process}").write_text("x") and None


def lead(meeting):
    """What process 0 does."""
    try:
        with new_directory(meeting.folder, "mark", token=meeting.token) as partial:
            write_own(meeting)(partial)
            meeting.collect()
            (partial / "mark").write_text("")
    except LoraxError as error:
        meeting.fail(str(error))
        raise


def follow(meeting, write=None):
    committed = (meeting.folder / "mark").exists
    meeting.contribute(write or write_own(meeting), committed)


def outcomes(*calls):
    """What each of several calls at once raises, or None."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.exception() for future in [pool.submit(*call) for call in calls]]


def test_all_write_and_all_hear_of_it(tmp_path):
    first, *others = meetings(tmp_path)
    assert outcomes((lead, first), *((follow, other) for other in others)) == [None] * 3
    assert os.listdir(tmp_path) == ["5"]
    assert sorted(os.listdir(tmp_path / "5")) == ["mark", "own.0", "own.1", "own.2"]


def test_a_part_that_fails_fails_them_all_with_one_line(tmp_path):
    first, second, third = meetings(tmp_path)

    def refuse(partial):
        raise OSError(28, "No space left on device")

    errors = outcomes((lead, first), (follow, second), (follow, third, refuse))
    texts = {str(error) for error in errors}
    assert len(texts) == 1 and all(isinstance(error, LoraxError) for error in errors)
    (text,) = texts
    assert "(process 2: No space left on device)" in text and "\n" not in text
    assert os.listdir(tmp_path) == [f".5.{TOKEN}.failed"]
    first.forget()
    assert os.listdir(tmp_path) == []


def test_what_was_there_stays_when_it_fails(tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "other").write_text("")
    first, second = meetings(tmp_path, 2)
    told, heard = outcomes((lead, first), (follow, second))
    assert "exists already" in str(told) and str(heard) == str(told)
    assert os.listdir(tmp_path / "5") == ["other"]


def test_nobody_waits_for_ever(tmp_path):
    first, second = meetings(tmp_path, 2, patience=0.05)
    (told,) = outcomes((lead, first))
    assert "process 1 wrote no part" in str(told)
    first.forget()
    (heard,) = outcomes((follow, second))
    assert isinstance(heard, LoraxError)
    assert "cannot tell whether" in str(heard) and "process 0 says nothing" in str(heard)


def test_on_the_way_out_it_takes_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("lorax.io.together.HURRY", 0.05)
    first, _ = meetings(tmp_path, 2, patience=600)
    first.leaving.set()
    (told,) = outcomes((lead, first))
    assert "process 1 wrote no part" in str(told)
