import json

import numpy as np
import pandas as pd
import pytest

from acne_lab.data.table import BadData, ImageTable

CLASSES = ("mild", "moderate", "severe")


def make(root, **columns):
    rows = pd.DataFrame(
        {
            "file_name": ["images/a.png", "images/b.png", "images/c.png", "images/d.png"],
            "severity": ["mild", "severe", "severe", ""],
            "lesions": [3, 30, None, None],
            "subject": ["007", "NA", "null", "7"],
            "split": ["train", "train", "test", "val"],
            "source": "real",
            "parent": "",
            "sha256": ["aa", "bb", "cc", "dd"],
        }
        | columns
    )
    boxes = pd.DataFrame(
        {
            "file_name": ["images/a.png", "images/b.png"],
            "x0": [1, 2.5],
            "y0": [1, 2],
            "x1": [4, 5],
            "y1": [4, 6],
        }
    )
    return ImageTable(root=root, rows=rows, classes=CLASSES, report={"notes": ["é"]}, boxes=boxes)


def test_round_trip_is_exact(tmp_path):
    table = make(tmp_path / "t", fold=[0, 1, 2, 3], skin_tone=["IV", "", "I", "NA"])
    table.write()
    again = ImageTable.read(tmp_path / "t")
    pd.testing.assert_frame_equal(again.rows, table.rows.assign(skin_tone=["IV", np.nan, "I", "NA"]), check_dtype=False)
    pd.testing.assert_frame_equal(again.boxes, table.boxes)
    assert again.rows["subject"].tolist() == ["007", "NA", "null", "7"]
    assert again.rows["fold"].tolist() == [0, 1, 2, 3]
    assert (again.classes, again.report, again.key) == (table.classes, table.report, table.key)
    assert sorted(path.name for path in table.root.iterdir()) == ["boxes.csv", "metadata.csv", "table.json"]


def test_read_finds_the_table_of_a_run(tmp_path):
    make(tmp_path / "run" / "table").write()
    assert ImageTable.read(tmp_path / "run").root == tmp_path / "run" / "table"


def test_writing_without_boxes_removes_old_ones(tmp_path):
    table = make(tmp_path)
    table.write()
    ImageTable(root=tmp_path, rows=table.rows, classes=CLASSES).write()
    assert ImageTable.read(tmp_path).boxes is None


def test_labels_counts_and_paths(tmp_path):
    table = make(tmp_path)
    assert table.labels.dtype == np.int64
    assert table.labels.tolist() == [0, 2, 2, -1]
    assert table.counts().to_numpy().tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]
    assert table.counts().index.tolist() == list(CLASSES)
    assert table.counts().columns.tolist() == ["train", "val", "test"]
    assert table.paths[0] == tmp_path / "images" / "a.png"


def test_select_keeps_order_and_its_own_boxes(tmp_path):
    chosen = make(tmp_path).select(split="train", severity="severe")
    assert chosen.rows["file_name"].tolist() == ["images/b.png"]
    assert chosen.boxes["file_name"].tolist() == ["images/b.png"]
    assert len(make(tmp_path).select(severity="moderate")) == 0
    with pytest.raises(ValueError, match="severity must be one of mild, moderate, severe"):
        make(tmp_path).select(severity="sever")
    with pytest.raises(ValueError, match="split must be one of train, val, test"):
        make(tmp_path).select(split="valid")


def test_key_depends_on_content_alone(tmp_path):
    table = make(tmp_path / "here")
    elsewhere = ImageTable(
        root=tmp_path / "there",
        rows=table.rows,
        classes=CLASSES,
        report={"other": 1},
        boxes=table.boxes.iloc[::-1],
    )
    assert len(table.key) == 16
    assert int(table.key, 16) >= 0
    assert elsewhere.key == table.key


def test_key_changes_with_the_order_of_rows(tmp_path):
    """Batches are drawn by row number: in another order the same seed trains on other images."""
    table = make(tmp_path)
    shuffled = ImageTable(root=tmp_path, rows=table.rows.iloc[[2, 0, 3, 1]], classes=CLASSES, boxes=table.boxes)
    assert shuffled.key != table.key


@pytest.mark.parametrize("column", ["severity", "lesions", "subject", "split", "source", "sha256"])
def test_key_changes_with_each_column(tmp_path, column):
    other = {
        "severity": "moderate",
        "lesions": 9,
        "subject": "x",
        "split": "val",
        "source": "toy",
        "sha256": "z",
    }
    table = make(tmp_path)
    changed = table.rows.copy()
    changed.loc[0, column] = other[column]
    assert ImageTable(root=tmp_path, rows=changed, classes=CLASSES, boxes=table.boxes).key != table.key


def test_key_changes_with_classes_and_boxes(tmp_path):
    table = make(tmp_path)
    reordered = ImageTable(root=tmp_path, rows=table.rows, classes=CLASSES[::-1], boxes=table.boxes)
    moved = ImageTable(root=tmp_path, rows=table.rows, classes=CLASSES, boxes=table.boxes.assign(x1=7))
    assert len({table.key, reordered.key, moved.key}) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"severity": "awful"},
            "severity must be one of mild, moderate, severe, .*4 row.*images/a.png: awful",
        ),
        ({"split": "dev"}, "split must be one of train, val, test"),
        ({"source": "web"}, "source must be one of real, toy, edited, generated"),
        ({"lesions": 1.5}, "lesions must hold whole numbers"),
        ({"lesions": "many"}, "lesions must hold whole numbers"),
        ({"file_name": "a.png"}, "file_name appears twice"),
        ({"file_name": ["/a", "b", "c", "d"]}, "relative path inside the table"),
        ({"file_name": ["../a", "b", "c", "d"]}, "relative path inside the table"),
        ({"file_name": ["a", "b", "c", "d"]}, "boxes.csv names images that metadata.csv lacks"),
    ],
)
def test_impossible_values_are_named(tmp_path, columns, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make(tmp_path, **columns)


def test_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="missing: subject, sha256"):
        ImageTable(root=tmp_path, rows=make(tmp_path).rows.drop(columns=["subject", "sha256"]), classes=CLASSES)


def test_reading_what_is_no_table_says_what_one_is(tmp_path):
    with pytest.raises(ValueError, match=r"not an image table: it has no metadata.csv.*acne-lab prepare"):
        ImageTable.read(tmp_path)
    make(tmp_path).write()
    (tmp_path / "table.json").unlink()
    with pytest.raises(ValueError, match=r"it has no table\.json"):
        ImageTable.read(tmp_path)


def test_report_stays_readable_json(tmp_path):
    make(tmp_path).write()
    assert json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["report"] == {"notes": ["é"]}


def test_bad_data_names_the_first_twenty_and_the_count():
    error = BadData([f"{index}.png: torn" for index in range(25)], "mend them")
    text = str(error)
    assert text.startswith("25 problem(s)")
    assert "19.png: torn" in text
    assert "20.png" not in text
    assert "and 5 more" in text
    assert text.endswith("Fix: mend them")
    assert len(error.problems) == 25
