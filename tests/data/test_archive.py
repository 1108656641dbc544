"""Zip files that strangers have made."""

import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from acne_lab.data.archive import unpack


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
