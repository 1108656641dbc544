"""The published supplement: training rows with the grade of their folder and nobody's known parents."""

import shutil

import pandas as pd
import pytest

from acne_lab.data.collect import build_table
from acne_lab.data.folder import Folder
from acne_lab.data.supplement import Supplement, read_supplement
from acne_lab.data.table import BadData, ImageTable

CLASSES = ["mild", "moderate", "severe", "very_severe"]


@pytest.fixture
def table(tmp_path, photo):
    """A table like ACNE04's: three photographs a grade, with its names."""
    for grade, severity in enumerate(CLASSES):
        for index in range(3):
            photo(tmp_path / "photographs" / severity / f"levle{grade}_{index}.jpg", seed=3 * grade + index)
    source = Folder(root=str(tmp_path / "photographs"), classes=CLASSES)
    return build_table(source, tmp_path / "table", split={"seed": 0}, on_bad="error", num_workers=1)


@pytest.fixture
def root(tmp_path, photo):
    for index in range(3):
        photo(tmp_path / "supplement" / "levle2_generated" / f"a{index}.jpg", seed=100 + index)
    for index in range(4):
        photo(tmp_path / "supplement" / "levle3_generated" / f"a{index}.jpg", seed=200 + index)
    return tmp_path / "supplement"


def test_training_rows_of_the_rare_grades(root, table, tmp_path):
    supplement = read_supplement(str(root), table, tmp_path / "out")
    assert supplement.counts()["train"].to_dict() == {"mild": 0, "moderate": 0, "severe": 3, "very_severe": 4}
    assert supplement.classes == table.classes
    rows = supplement.rows
    assert set(rows["source"]) == {"edited"}
    assert set(rows["split"]) == {"train"}
    assert set(rows["subject"]) == set(rows["parent"]) == {""}
    assert rows["lesions"].isna().all()
    assert supplement.report["unknown_parents"] is True
    assert "levle2_generated: 3 of the 218 published" in supplement.report["notes"]
    assert all(path.is_file() for path in supplement.paths)
    again = ImageTable.read(tmp_path / "out")
    assert again.key == supplement.key
    assert again.report == supplement.report


def test_it_joins_the_table_and_no_name_appears_twice(root, table, tmp_path, photo):
    photo(root / "levle3_generated" / "levle0_1.jpg", seed=300)  # called as a photograph of the table is
    supplement = read_supplement(root, table, tmp_path / "out")
    joined = pd.concat([table.rows, supplement.rows])
    assert joined["file_name"].is_unique
    assert any(note.startswith("1 files are called as") for note in supplement.report["notes"])


def test_unchanged_photographs_are_no_edits(root, table, tmp_path):
    shutil.copy(tmp_path / "photographs" / "mild" / "levle0_1.jpg", root / "levle3_generated" / "copy.jpg")
    supplement = read_supplement(root, table, tmp_path / "out")
    assert len(supplement) == 7
    (dropped,) = supplement.report["dropped"]
    assert dropped["file_name"] == "images/levle3_generated/copy.jpg"
    assert dropped["reason"].startswith("is a photograph of the table, unchanged: images/mild/levle0_1.jpg, split ")
    assert ImageTable.read(tmp_path / "out").report["num_images"] == 7


def test_an_edit_that_is_there_twice_is_noted(root, table, tmp_path):
    shutil.copy(root / "levle2_generated" / "a1.jpg", root / "levle2_generated" / "b.jpg")
    supplement = read_supplement(root, table, tmp_path / "out")
    assert len(supplement) == 8
    assert supplement.report["duplicates"] == [
        {"file_name": "images/levle2_generated/b.jpg", "same_as": "images/levle2_generated/a1.jpg", "kept": True}
    ]


def test_files_that_are_no_images_are_named(root, table, tmp_path):
    (root / "levle2_generated" / "a0.jpg").write_bytes(b"no image")
    (root / "levle3_generated" / "a3.jpg").write_bytes((root / "levle3_generated" / "a3.jpg").read_bytes()[:200])
    with pytest.raises(BadData, match=r"(?s)levle2_generated/a0\.jpg: cannot.*levle3_generated/a3\.jpg: cannot"):
        read_supplement(root, table, tmp_path / "out")
    assert not (tmp_path / "out" / "metadata.csv").exists()


def test_missing_and_empty_folders(root, table, tmp_path):
    shutil.rmtree(root / "levle3_generated")
    with pytest.raises(ValueError, match="levle2_generated and levle3_generated in it, found levle2_generated"):
        read_supplement(root, table, tmp_path / "out")
    (root / "levle3_generated").mkdir()
    with pytest.raises(BadData, match="class very_severe: no usable image"):
        read_supplement(root, table, tmp_path / "out")
    with pytest.raises(ValueError, match="found no such folder"):
        read_supplement(tmp_path / "nowhere", table, tmp_path / "out")


def test_another_table_than_acne04s_is_refused(root):
    with pytest.raises(ValueError, match="4 grades; the table has mild, severe"):
        Supplement(root, classes=("mild", "severe"))


def test_fingerprint_follows_content(root, photo):
    before = Supplement(root, classes=tuple(CLASSES)).fingerprint()
    photo(root / "levle2_generated" / "a0.jpg", seed=999)
    assert Supplement(root, classes=tuple(CLASSES)).fingerprint() != before
