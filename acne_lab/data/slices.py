"""What a table knows of its photographs that a grader should not depend on: skin, camera, face, size of lesions.

A slice is a group of photographs that share one of these. It reads the heads of the files, for their size; whether a
grader does worse on a slice is the question of `metrics/slices.py`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from acne_lab.data.photo import upright_size
from acne_lab.data.table import ImageTable


def slice_columns(table: ImageTable) -> pd.DataFrame:
    """One row an image, in the table's order; a column for each thing that is known of at least one of them.

    Returns:
        file_name; source, as in the table; and where the table knows it:
        skin_tone: 1 to 6, in the order of Fitzpatrick's types;
        camera: the table's own column;
        photo_size: "3112 x 3456" px, upright, if not all are alike: in a set from several places it tells the cameras
        apart as far as they differ in it;
        face_found: whether a detector saw a face, as `acne-lab prepare data=acne04` writes it;
        lesion_size: median diameter of the photograph's lesion boxes, in short sides of it.
    """
    rows = table.rows
    found = rows[["file_name", "source"]].copy()
    for name in ("skin_tone", "camera", "face_found"):
        known = rows[name].replace("", None) if name in rows else pd.Series(dtype=object)
        if known.notna().any():
            found[name] = known
    sizes = photo_sizes(table)
    if sizes.nunique() > 1:
        found["photo_size"] = [None if size is None else f"{size[0]} x {size[1]}" for size in sizes]
    if table.boxes is not None and not table.boxes.empty:
        by_photo = lesion_diameters(table).groupby(table.boxes["file_name"]).median()
        found["lesion_size"] = rows["file_name"].map(by_photo).astype(float)
    return found.reset_index(drop=True)


def lesion_diameters(table: ImageTable) -> pd.Series:
    """Diameter of each box, sqrt(width x height), in short sides of its photograph: float [N], indexed as the boxes.

    NaN where the photograph is gone.
    """
    if table.boxes is None or table.boxes.empty:
        return pd.Series(dtype=float)
    boxes = table.boxes
    short_sides = {
        name: np.nan if (size := _size(table.root / name)) is None else min(size)
        for name in boxes["file_name"].unique()
    }
    return np.sqrt((boxes["x1"] - boxes["x0"]) * (boxes["y1"] - boxes["y0"])) / boxes["file_name"].map(short_sides)


def photo_sizes(table: ImageTable) -> pd.Series:
    """(width, height) of each photograph in px, upright, in row order; None where the file is gone."""
    return pd.Series([_size(path) for path in table.paths], index=table.rows.index, dtype=object)


def _size(path: Path) -> tuple[int, int] | None:
    """From the head of the file."""
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except (OSError, ValueError):
        return None
