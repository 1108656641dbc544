import hashlib
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acne_lab.data import pack as pack_module
from acne_lab.data.pack import pack, pack_key
from acne_lab.data.table import BadData, ImageTable


def table_of(root, photo, number=6):
    names = [f"images/{index}.png" for index in range(number)]
    for seed, name in enumerate(names):
        photo(root / name, seed)
    rows = pd.DataFrame(
        {
            "file_name": names,
            "severity": "mild",
            "lesions": None,
            "subject": names,
            "split": "train",
            "source": "real",
            "parent": "",
            "sha256": [sha256(root / name) for name in names],
        }
    )
    return ImageTable(root=root, rows=rows, classes=("mild",))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(table, cache_dir, *, resolution=16, fit="crop"):
    return pack(table, resolution=resolution, fit=fit, cache_dir=cache_dir, num_workers=2)


@pytest.fixture
def table(tmp_path, photo):
    return table_of(tmp_path / "table", photo)


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


def forbid_build(monkeypatch):
    def fail(*args):
        raise AssertionError("built again")

    monkeypatch.setattr(pack_module, "_build", fail)


def test_pixels_in_row_order_read_only(table, cache_dir):
    pixels = run(table, cache_dir)
    assert isinstance(pixels, np.memmap)
    assert (pixels.shape, pixels.dtype) == ((6, 16, 16, 3), np.uint8)
    assert not pixels.flags.writeable
    for index, path in enumerate(table.paths):
        whole = np.asarray(Image.open(path))  # 20 x 16: the centre square needs no resampling
        np.testing.assert_array_equal(pixels[index], whole[:, 2:18])


def test_a_second_call_reads(table, cache_dir, monkeypatch):
    first = run(table, cache_dir).copy()
    forbid_build(monkeypatch)
    np.testing.assert_array_equal(run(table, cache_dir), first)


def test_the_address_is_the_content(table, cache_dir, tmp_path, photo, monkeypatch):
    run(table, cache_dir)
    elsewhere = table_of(tmp_path / "elsewhere", photo)
    relabelled = ImageTable(root=table.root, rows=table.rows.assign(split="test"), classes=("mild",))
    forbid_build(monkeypatch)
    run(elsewhere, cache_dir)
    run(relabelled, cache_dir)


def test_what_changes_pixels_changes_the_address(table):
    reversed_rows = ImageTable(root=table.root, rows=table.rows.iloc[::-1], classes=("mild",))
    other = ImageTable(root=table.root, rows=table.rows.assign(sha256="0" * 64), classes=("mild",))
    keys = {
        pack_key(table, resolution=16, fit="crop"),
        pack_key(table, resolution=32, fit="crop"),
        pack_key(table, resolution=16, fit="pad"),
        pack_key(reversed_rows, resolution=16, fit="crop"),
        pack_key(other, resolution=16, fit="crop"),
    }
    assert len(keys) == 5


def test_vanished_and_changed_files_are_named(table, cache_dir, photo):
    table.paths[1].unlink()
    photo(table.paths[3], 99)
    with pytest.raises(BadData) as caught:
        run(table, cache_dir)
    assert caught.value.problems == [
        "images/1.png: cannot be read (No such file or directory)",
        "images/3.png: has changed since the table was made",
    ]
    assert not list(cache_dir.rglob("images.npy*"))


def test_an_interrupted_build_leaves_nothing_that_is_taken_for_whole(table, cache_dir, monkeypatch):
    decoded = []

    def interrupted(*args, **kwargs):
        decoded.append(1)
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return Image.new("RGB", (16, 16))

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "read_photo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(table, cache_dir)
    assert not list(cache_dir.rglob("images.npy"))
    assert run(table, cache_dir).any(axis=(1, 2, 3)).all()
    assert [path.name for path in cache_dir.rglob("images.npy*")] == ["images.npy"]


BUILD_AND_COUNT = """
import sys
from acne_lab.data import pack
from acne_lab.data.table import ImageTable
build, builds = pack._build, []
def counted(*args):
    builds.append(1)
    build(*args)
pack._build = counted
table = ImageTable.read(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
pixels = pack.pack(table, resolution=64, fit="pad", cache_dir=sys.argv[2], num_workers=1)
print(len(builds), int(pixels.sum()))
"""


def test_two_processes_build_once(tmp_path, photo, cache_dir):
    table = table_of(tmp_path / "many", photo, number=300)
    table.write()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD_AND_COUNT, table.root, cache_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    (builds_a, sum_a), (builds_b, sum_b) = (process.communicate(timeout=60)[0].split() for process in processes)
    assert {builds_a, builds_b} == {"0", "1"}
    assert sum_a == sum_b


def test_a_full_disk_is_told_before_the_work(table, cache_dir, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    with pytest.raises(ValueError, match=r"has 0\.0 GB free: make room"):
        run(table, cache_dir)


def test_an_unknown_fit_is_refused(table, cache_dir):
    with pytest.raises(ValueError, match="crop, pad or stretch"):
        run(table, cache_dir, fit="squash")
