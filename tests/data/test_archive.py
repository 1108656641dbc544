"""Zip files that strangers have made."""

import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from acne_lab.data.archive import unpack, unpack_all


def packed(path, entries):
    """A zip file with (name or ZipInfo, content) entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_unpacks_what_is_in_it_and_leaves_out_what_is_hidden(tmp_path):
    names = ["Mild/1.png", "Mild/deep/2.png", "__MACOSX/Mild/._1.png", ".DS_Store", "Mild/.thumbs/1.png"]
    archive = packed(tmp_path / "set.zip", [("Mild/", ""), *((name, name) for name in names)])
    folder = unpack(archive, tmp_path / "set")
    assert {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()} == {
        name: name for name in names[:2]
    }
    assert visible(tmp_path) == ["set", "set.zip"]


def test_what_is_there_is_left_as_it_is(tmp_path):
    archive = packed(tmp_path / "set.zip", [("1.png", "new")])
    (tmp_path / "set").mkdir()
    unpack(archive, tmp_path / "set")
    assert list((tmp_path / "set").iterdir()) == []


def test_two_processes_may_want_it(tmp_path):
    archive = packed(tmp_path / "set.zip", [(f"{k}.png", bytes(1000)) for k in range(300)])
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: unpack(archive, tmp_path / "set"), range(4)))
    assert len(list(folders[0].iterdir())) == 300


def test_backslashes_are_folders(tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = "Severe\\1.png"
    unpack(packed(tmp_path / "set.zip", [(info, "x")]), tmp_path / "set")
    assert (tmp_path / "set" / "Severe" / "1.png").is_file()


OUTSIDE = ["../outside.png", "/outside.png", "a/../../outside.png", "..\\outside.png", "C:\\x.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_lands_outside(tmp_path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    (tmp_path / "in").mkdir()
    archive = packed(tmp_path / "in" / "set.zip", [(info, "x")])
    with pytest.raises(ValueError, match="would lie outside"):
        unpack(archive, tmp_path / "in" / "set")
    assert visible(tmp_path) == ["in"] and visible(tmp_path / "in") == ["set.zip"]


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("passwords")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match="holds a link"):
        unpack(packed(tmp_path / "set.zip", [(link, "/etc")]), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_bomb_is_refused_before_it_is_lit(tmp_path):
    archive = packed(tmp_path / "set.zip", [("zeros", bytes(2_000_000))])
    assert archive.stat().st_size < 5000
    with pytest.raises(ValueError, match="more than"):
        unpack(archive, tmp_path / "set", max_bytes=1_000_000)
    assert not (tmp_path / "set").exists()


def test_an_entry_that_lies_about_its_size_is_not_read_on(tmp_path):
    archive = packed(tmp_path / "set.zip", [("zeros", bytes(2_000_000))])
    content = archive.read_bytes().replace((2_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "set", max_bytes=1000)
    assert visible(tmp_path) == ["set.zip"]
    assert not list(tmp_path.glob(".*unpacking"))


@pytest.mark.parametrize("damage", ["no zip", "cut", "spoilt", "password"])
def test_damage_leaves_nothing(tmp_path, damage):
    archive = packed(tmp_path / "set.zip", [("1.png", bytes(range(256)) * 50)])
    content = bytearray(archive.read_bytes())
    if damage == "no zip":
        content = bytearray(b"<html>not found</html>")
    elif damage == "cut":
        content = content[:-30]
    elif damage == "spoilt":
        content[60:70] = bytes(10)
    else:
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "set")
    assert visible(tmp_path) == ["set.zip"]
    assert not list(tmp_path.glob(".*unpacking"))


@pytest.mark.parametrize("name", ["./", ".", "", "/."])
def test_an_entry_for_the_folder_itself_is_nothing(tmp_path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    if name.startswith("/"):
        with pytest.raises(ValueError, match="would lie outside"):
            unpack(packed(tmp_path / "set.zip", [(info, "")]), tmp_path / "set")
        return
    folder = unpack(packed(tmp_path / "set.zip", [(info, ""), ("1.png", "x")]), tmp_path / "set")
    assert [path.name for path in folder.iterdir()] == ["1.png"]


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_file_that_is_a_folder_too_is_damage(tmp_path, names):
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(packed(tmp_path / "set.zip", [(name, "x") for name in names]), tmp_path / "set")
    assert visible(tmp_path) == ["set.zip"]


def test_spoilt_lzma_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("1.png", bytes(range(256)) * 50)
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[44:60] = b"\xff" * 16
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(tmp_path / "set.zip", tmp_path / "set")


def test_zip_files_in_zip_files_have_one_limit_and_an_end(tmp_path):
    inner = packed(tmp_path / "inner.zip", [("zeros", bytes(1_000_000))])
    root = tmp_path / "root"
    root.mkdir()
    packed(root / "set.zip", [(f"{k}.zip", inner.read_bytes()) for k in range(3)])
    with pytest.raises(ValueError, match="more than"):
        unpack_all(lambda: root.rglob("*.zip"), max_bytes=2_500_000)
    nested = inner
    for level in range(3):
        nested = packed(tmp_path / f"{level}.zip", [("in.zip", nested.read_bytes())])
    deep = tmp_path / "deep"
    deep.mkdir()
    nested.rename(deep / "set.zip")
    with pytest.raises(ValueError, match="lies in more than 3 zip files"):
        unpack_all(lambda: deep.rglob("*.zip"))
