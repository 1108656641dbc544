"""Photographs are looked at once, whatever kills the command."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from finds_faces import FindsFaces
from PIL import Image

from acne_lab.data.examine import Examiner, examine

NUM = 16


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Large enough that a process can be killed among them."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(NUM):
        coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((1800, 1200)).save(folder / f"{seed:02d}.jpg")
    return sorted(folder.iterdir())


def digests_of(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def look(paths, cache_dir, num_workers=0, stub=None):
    examiner = Examiner(finder=stub, embedder=stub)
    return examine(paths, digests_of(paths), examiner, cache_dir=cache_dir, num_workers=num_workers)


def same(a, b):
    plain = ("size", "orientation", "num_bytes", "hash", "detector", "angle")
    arrays = ("thumbnail", "identity", "mirrored")
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


COMMAND = """
import hashlib, sys
from pathlib import Path
from acne_lab.data.examine import Examiner, examine
from finds_faces import FindsFaces

paths = sorted(Path(sys.argv[1]).iterdir())
digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
stub = FindsFaces() if sys.argv[3] == "faces" else None
examine(paths, digests, Examiner(finder=stub, embedder=stub), cache_dir=sys.argv[2], num_workers=0)
"""


@pytest.mark.parametrize("stub", [None, FindsFaces()], ids=["whole", "faces"])
def test_a_killed_examination_goes_on(photographs, tmp_path, stub):
    killed = tmp_path / "killed"
    words = [str(photographs[0].parent), str(killed), "faces" if stub else "whole"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], env={**os.environ, "PYTHONPATH": path})
    folder = killed / Examiner(finder=stub, embedder=stub).version
    for _ in range(2000):
        if folder.is_dir() and len(list(folder.glob("[!.]*.npz"))) >= 4:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}
    assert 4 <= len(kept) < NUM
    results = look(photographs, killed, stub=stub)
    assert all((one.identity is not None) == (stub is not None) for one in results)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none was looked at again
    assert all(same(a, b) for a, b in zip(results, look(photographs, tmp_path / "whole", stub=stub)))


def test_damaged_files_of_the_cache_are_made_again(photographs, tmp_path):
    first = look(photographs[:2], tmp_path)
    for number, path in enumerate(sorted(tmp_path.rglob("*.npz"))):
        path.write_bytes(path.read_bytes()[:100] if number else b"")
    assert all(same(a, b) for a, b in zip(first, look(photographs[:2], tmp_path)))


@pytest.mark.slow  # two new processes import pandas and scipy
def test_processes_give_what_one_gives(photographs, tmp_path):
    alone = look(photographs[:4], tmp_path / "one")
    together = look(photographs[:4], tmp_path / "two", num_workers=2)
    assert all(same(a, b) for a, b in zip(alone, together))


def test_what_cannot_be_read_is_said_and_not_kept(photographs, tmp_path):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(photographs[0].read_bytes()[:3000])
    (text,) = look([damaged], tmp_path / "cache")
    assert text.startswith("cannot be read as an image")
    assert list((tmp_path / "cache").rglob("*.npz")) == []


def test_sizes_are_of_the_whole_upright_photograph(photographs, tmp_path):
    image = Image.open(photographs[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    examinations = look([photographs[0], tmp_path / "turned.jpg"], tmp_path / "cache")
    assert [one.size for one in examinations] == [(1800, 1200), (1200, 1800)]
    assert examinations[0].num_bytes == photographs[0].stat().st_size


def test_an_examiner_needs_both_or_neither():
    with pytest.raises(ValueError, match="finder and an embedder"):
        Examiner(embedder=object())


@pytest.mark.parametrize("identity", [[np.nan, 0.5, 0.5], [np.inf, 0, 0]])
def test_a_face_without_a_finite_identity_is_none(photographs, tmp_path, identity):
    """One of them would make every similarity of the set nan."""
    stub = FindsFaces(identity)
    examiner = Examiner(finder=stub, embedder=stub)
    (one,) = examine(photographs[:1], digests_of(photographs[:1]), examiner, cache_dir=tmp_path, num_workers=0)
    assert (one.identity, one.detector, one.angle) == (None, "", None)


def test_what_fails_with_a_face_is_no_unreadable_photograph(photographs, tmp_path):
    stub = FindsFaces(fails=True)
    with pytest.raises(ValueError, match="the network's input"):
        examine(
            photographs[:1],
            digests_of(photographs[:1]),
            Examiner(finder=stub, embedder=stub),
            cache_dir=tmp_path,
            num_workers=0,
        )


def test_another_version_of_what_finds_faces_looks_again(monkeypatch):
    stub = FindsFaces()
    before = Examiner(finder=stub, embedder=stub).version, Examiner().version
    monkeypatch.setattr("acne_lab.data.examine.metadata.version", lambda name: "99")
    after = Examiner(finder=stub, embedder=stub).version, Examiner().version
    assert before[0] != after[0] and before[1] == after[1]
