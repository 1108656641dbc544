"""Photographs of skin with lesions, and patches of them."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from acne_lab.data.table import ImageTable
from acne_lab.edit.patches import Patches, cut_patches

SKIN, RED = np.array([205, 155, 135]), np.array([190, 90, 85])
LESIONS = {"a.png": [[40, 30, 52, 42], [90, 80, 100, 90]], "b.png": [], "c.png": [[0, 0, 10, 10]]}


def table_of(root: Path) -> ImageTable:
    """Three skins of 128 px; one has two lesions, one none, one a lesion in the corner."""
    rng, rows, boxes = np.random.default_rng(0), [], []
    y, x = np.mgrid[:128, :128]
    flush = 4 * np.sin(x / 15) * np.cos(y / 20)  # no skin is as even as a wall
    for name, lesions in LESIONS.items():
        photo = SKIN + rng.normal(0, 2, (128, 128, 1)) - 0.1 * x[..., None] + flush[..., None] * [1, -1, -1]
        for x0, y0, x1, y1 in lesions:
            redness = np.exp(-(((x - (x0 + x1) / 2) / 5) ** 2) - ((y - (y0 + y1) / 2) / 5) ** 2)
            photo = photo + redness[..., None] * (RED - SKIN)
            boxes.append([name, x0, y0, x1, y1])
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(root / name)
        sha256 = hashlib.sha256((root / name).read_bytes()).hexdigest()
        about = {"severity": "mild", "lesions": len(lesions), "subject": name, "split": "train", "source": "real"}
        rows.append({"file_name": name, **about, "parent": "", "sha256": sha256})
    boxes = pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"])
    return ImageTable(root=root, rows=pd.DataFrame(rows), classes=("mild",), boxes=boxes)


def cut(table: ImageTable, cache_dir: Path, **arguments) -> Patches:
    """Patches of 32 px, 4 a photograph, without a look for faces."""
    given = {"side": 32, "per_photo": 4, "num_workers": 1, "landmarks": False, **arguments}
    return cut_patches(table, cache_dir=cache_dir, **given)
