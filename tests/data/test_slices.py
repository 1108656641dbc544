import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acne_lab.data.slices import lesion_diameters, slice_columns
from acne_lab.data.table import ImageTable


def make(root, *, boxes=None, sizes=((40, 20), (20, 40), (40, 20)), **columns):
    """Three photographs of these sizes."""
    names = ["a.png", "b.png", "c.png"]
    for name, size in zip(names, sizes):
        Image.new("RGB", size).save(root / name)
    rows = {
        "file_name": names,
        "severity": "mild",
        "lesions": None,
        "subject": names,
        "split": "val",
        "source": "real",
        "parent": "",
        "sha256": names,
    }
    return ImageTable(root=root, rows=pd.DataFrame({**rows, **columns}), classes=("mild",), boxes=boxes)


def boxes_of(**boxes):
    rows = [(f"{name}.png", *box) for name, given in boxes.items() for box in given]
    return pd.DataFrame(rows, columns=["file_name", "x0", "y0", "x1", "y1"])


def test_a_table_that_knows_nothing_has_its_source_alone(tmp_path):
    found = slice_columns(make(tmp_path, sizes=((8, 8),) * 3, camera=["", "", ""], skin_tone=[None] * 3))
    assert found.to_dict("list") == {"file_name": ["a.png", "b.png", "c.png"], "source": ["real"] * 3}


def test_what_is_known_comes_in_the_tables_order(tmp_path):
    boxes = boxes_of(c=[(0, 0, 4, 4), (5, 5, 6, 6), (0, 0, 1, 4)], a=[(0, 0, 1, 1)])
    table = make(tmp_path, boxes=boxes, camera=["phone", "", "clinic"], skin_tone=[2, None, 5], face_found=[True] * 3)
    found = slice_columns(table)
    assert found["file_name"].tolist() == ["a.png", "b.png", "c.png"]
    assert found["camera"].fillna("?").tolist() == ["phone", "?", "clinic"]
    assert found["skin_tone"].fillna(0).tolist() == [2, 0, 5]
    assert found["face_found"].tolist() == [True] * 3
    assert found["photo_size"].tolist() == ["40 x 20", "20 x 40", "40 x 20"]
    # diameters of c: 4, 1, sqrt(1 x 4) = 2 px; of a short side of 20 px the median is 0.1
    assert found["lesion_size"].tolist() == pytest.approx([1 / 20, np.nan, 2 / 20], nan_ok=True)


def test_photographs_that_are_gone_have_no_size(tmp_path):
    table = make(tmp_path, boxes=boxes_of(a=[(0, 0, 4, 4)], b=[(0, 0, 2, 2)]))
    (tmp_path / "a.png").unlink()
    assert lesion_diameters(table).tolist() == pytest.approx([np.nan, 0.1], nan_ok=True)
    assert slice_columns(table)["photo_size"].isna().tolist() == [True, False, False]
