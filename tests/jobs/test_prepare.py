"""Preparing a table: found again when its photographs were moved, written up, and said what is in it."""

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


def test_it_says_what_is_in_the_table_and_where_its_report_lies(photographs, tmp_path, capsys):
    words = ("data=folder", f"data.root={photographs}", f"runs_dir={tmp_path}")
    for _ in range(2):  # made, and found
        run = prepare(composed("prepare", *words))
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            "20 photographs",
            "mild 10, severe 10",
            "train 14, val 2, test 4",
            f"report: {run.path / 'report.html'}",
        ]
    assert "20 photographs" in (run.path / "report.html").read_text()
    assert str(tmp_path) not in (run.path / "report.html").read_text()


def test_the_report_of_a_finished_run_loses_its_images_and_comes_back(photographs, tmp_path):
    words = ("data=folder", f"data.root={photographs}", f"runs_dir={tmp_path}")
    first = prepare(composed("prepare", *words))
    page = first.path / "report.html"
    assert "<img" in page.read_text()
    again = prepare(composed("prepare", *words, "data.contact_sheet=false"))
    assert again.path == first.path
    assert "<img" not in page.read_text()
    prepare(composed("prepare", *words))
    assert "<img" in page.read_text()
    written = page.stat().st_mtime_ns
    prepare(composed("prepare", *words))
    assert page.stat().st_mtime_ns == written


def test_the_page_of_a_moved_folder_is_made_of_where_it_lies_now(photographs, tmp_path):
    words = ("data=folder", f"runs_dir={tmp_path}")
    first = prepare(composed("prepare", *words, f"data.root={photographs}", "data.contact_sheet=false"))
    shutil.move(photographs, tmp_path / "moved")
    prepare(composed("prepare", *words, f"data.root={tmp_path / 'moved'}"))
    assert (first.path / "report.html").read_text().count("<img") == 14  # of the training photographs
