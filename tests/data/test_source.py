"""Data is found by path, below LORAX_DATA and by glob, and read through its compression."""

import gzip
import lzma

import pytest

from lorax.core.errors import LoraxError
from lorax.data import source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder that LORAX_DATA names, and another one that is the working directory."""
    data, here = tmp_path / "data", tmp_path / "here"
    for place in (data, here):
        place.mkdir()
    (data / "a.txt.xz").write_bytes(lzma.compress("Ω text".encode()))
    (data / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfbee"))
    monkeypatch.setenv(source.VARIABLE, str(data))
    monkeypatch.chdir(here)
    return data


def test_a_path_comes_before_a_name_in_the_data_folder(folder):
    assert source.find("a.txt.xz") == folder / "a.txt.xz"
    (folder.parent / "here" / "a.txt.xz").write_bytes(lzma.compress(b"near"))
    assert source.read_text("a.txt.xz") == "near"
    assert source.read_text(str(folder / "a.txt.xz")) == "Ω text"


def test_what_is_no_file_may_be_an_id(folder):
    assert source.find_or_name("a.txt.xz") == folder / "a.txt.xz"
    assert source.find_or_name("org/model") == "org/model"


def test_compression_and_a_byte_order_mark_are_taken_off(folder):
    assert source.read_text("b.txt.gz") == "bee"
    assert [source.kind(n) for n in ("a.TXT.xz", "b.tsv", "c.gz")] == [".txt", ".tsv", ""]


def test_globs_are_sorted_and_leave_folders_out(folder):
    (folder / "c.txt").mkdir()
    assert source.find_all("*.txt*") == [folder / "a.txt.xz", folder / "b.txt.gz"]
    (folder / "[x].txt").write_text("brackets")
    assert source.find_all("[x].txt") == [folder / "[x].txt"]


@pytest.mark.parametrize("name", ["c.txt", "*.csv"])
def test_a_missing_file(folder, name):
    with pytest.raises(LoraxError, match=r"is not in .* nor in LORAX_DATA="):
        source.find_all(name)
    with pytest.raises(LoraxError, match=r"did you mean '.*a\.txt\.xz'"):
        source.find("a.txt")


def test_mistakes(folder, monkeypatch):
    (folder / "c.txt").write_bytes(b"ab\xffd")
    with pytest.raises(LoraxError, match=r"c\.txt' \(byte 2 is 0xff"):
        source.read_text("c.txt")
    for name in ("d.txt.xz", "d.txt.gz"):
        (folder / name).write_bytes(b"no archive")
        with pytest.raises(LoraxError, match=f"cannot read .*{name}"):
            source.read_text(name)
    with pytest.raises(LoraxError, match=r"cannot read .*e\.gz' \(No such file or directory\)"):
        source.read_bytes(folder / "e.gz")
    with pytest.raises(LoraxError, match="is a folder: name a file in it"):
        source.find_all(str(folder))
    with pytest.raises(LoraxError, match="no file is named"):
        source.find("")
    monkeypatch.delenv(source.VARIABLE)
    with pytest.raises(LoraxError, match="LORAX_DATA is not set"):
        source.find("a.txt.xz")


@pytest.mark.parametrize("ending, compress", [("xz", lzma.compress), ("gz", gzip.compress)])
def test_of_a_damaged_file_the_beginning_is_told(folder, ending, compress):
    whole = bytes(range(256)) * 256
    packed = compress(whole)
    file = folder / f"e.{ending}"
    for damaged in (packed[:-9], packed[: len(packed) // 2], packed[:20]):
        file.write_bytes(damaged)
        with pytest.raises(source.DamagedFile, match=rf"cannot read .*e\.{ending}.* bytes") as told:
            source.read_bytes(file)
        before = told.value.before
        assert whole.startswith(before) and f"found {len(before):,} bytes" in str(told.value)
        assert "\n" not in str(told.value)
    file.write_bytes(packed[:-9])
    with pytest.raises(source.DamagedFile) as told:
        source.read_bytes(file)
    assert len(told.value.before) > len(whole) / 2
