import pytest

from lorax import LoraxError
from lorax.io.atomic import new_directory


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
