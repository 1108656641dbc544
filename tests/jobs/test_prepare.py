"""Preparing a table: found again when its photographs were moved."""

import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import composed

from acne_lab.data.table import ImageTable
from acne_lab.jobs.prepare import prepare


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "photographs" / ("mild", "severe")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photographs"


def test_a_moved_folder_finds_its_table_again(photographs, tmp_path):
    first = prepare(composed("prepare", "data=folder", f"data.root={photographs}", f"runs_dir={tmp_path}"))
    moved = tmp_path / "moved"
    shutil.move(photographs, moved)
    again = prepare(composed("prepare", "data=folder", f"data.root={moved}", f"runs_dir={tmp_path}"))
    assert again.path == first.path
    table = ImageTable.read(again.path)
    assert len(table) == 20
    assert all(path.is_file() for path in table.paths)
    assert (again.path / "table" / "images").resolve() == moved
