import fcntl
import os

import pytest

from lorax import LoraxError
from lorax.io.atomic import clear_leftovers, discard, lock, new_directory, partial_of


def _write(folder, text="{}"):
    (folder / "mark.json").write_text(text)


def test_a_directory_appears_whole(tmp_path):
    target = tmp_path / "deep" / "adapter"
    with new_directory(target, "mark.json") as folder:
        _write(folder)
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["mark.json"]
    assert [file.name for file in target.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize("error", [KeyError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "adapter"
    with new_directory(target, "mark.json") as folder:
        _write(folder, "old")
    with pytest.raises(LoraxError if error is OSError else error):
        with new_directory(target, "mark.json", overwrite=True) as folder:
            _write(folder, "new")
            raise error("full")
    assert (target / "mark.json").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


def test_overwrite_on_request_and_only_of_its_own_kind(tmp_path):
    target = tmp_path / "adapter"
    with new_directory(target, "mark.json") as folder:
        _write(folder, "old")
    with pytest.raises(LoraxError, match="exists already.*overwrite=True"):
        with new_directory(target, "mark.json"):
            pass
    with new_directory(target, "mark.json", overwrite=True) as folder:
        _write(folder, "new")
    assert (target / "mark.json").read_text() == "new"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("…")
    (tmp_path / "file").write_text("…")
    for name in ("precious", "file"):
        with pytest.raises(LoraxError, match="holds no mark.json"):
            with new_directory(tmp_path / name, "mark.json", overwrite=True):
                pass


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with new_directory(tmp_path / "adapter", "mark.json") as folder:
        _write(folder)
        (folder / "inner").mkdir()
        _write(folder / "inner")
        wanted = [folder, *folder.rglob("*")]
        inodes = {path.stat().st_ino for path in wanted}
    assert len(inodes) == 4 and inodes <= set(synced)
    assert synced[-1] == tmp_path.stat().st_ino


def test_discarded_is_gone_or_untouched(tmp_path):
    (tmp_path / "a").mkdir()
    _write(tmp_path / "a")
    discard(tmp_path / "a")
    discard(tmp_path / "never")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_cleared_and_nothing_else(tmp_path):
    names = [".a.0123abcd.partial", ".b.0123abcd.old", ".c.0123abcd.old", "c", ".d.partial", "e"]
    for name in names:
        (tmp_path / name).mkdir()
        _write(tmp_path / name, name)
    (tmp_path / ".f.0123abcd.partial").write_text("a file")
    (tmp_path / ".g.0123abcd.failed").write_text("why")
    clear_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"b", "c", ".d.partial", "e", ".f.0123abcd.partial"}
    assert (tmp_path / "b" / "mark.json").read_text() == ".b.0123abcd.old"
    assert (tmp_path / "c" / "mark.json").read_text() == "c"


def test_with_a_token_others_may_have_begun(tmp_path):
    begun = partial_of(tmp_path / "a", "0123abcd")
    assert begun == tmp_path / ".a.0123abcd.partial"
    begun.mkdir()
    (begun / "theirs").write_text("x")
    with new_directory(tmp_path / "a", "mark.json", token="0123abcd") as partial:
        assert partial == begun
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "theirs").read_text() == "x"


def test_a_lock_has_one_holder(tmp_path):
    first = lock(tmp_path)
    assert first is not None and lock(tmp_path) is None
    os.close(first)
    second = lock(tmp_path)
    assert second is not None
    os.close(second)


def test_a_file_system_without_locks_is_left_to_the_caller(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    descriptor = lock(tmp_path)
    assert descriptor is not None
    os.close(descriptor)
