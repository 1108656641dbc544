"""Photographs that a grader is asked about: pixels as it gets them, and lesions where its backbone sees them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from acne_lab.data.photo import fit_boxes
from acne_lab.data.slices import photo_sizes
from acne_lab.data.table import SPLITS, ImageTable
from acne_lab.grade.explain import view
from acne_lab.grade.module import Grader
from acne_lab.jobs.patches import boxes_of, spread
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import packed
from acne_lab.runs import Run, find_table


@dataclass(frozen=True, eq=False)
class Photographs:
    """What a grader is asked about.

    Args:
        table: N photographs.
        pixels: uint8 [N, R, R, 3].
        boxes: of each the lesions, float [M, 4] in sides of what the backbone sees; None: nobody has located them.
    """

    table: ImageTable
    pixels: np.ndarray
    boxes: list[np.ndarray | None]

    def batch(self, chosen: slice, grader: Grader) -> Tensor:
        """Some of the photographs, [B, 3, R, R], normalised for the grader and on its device."""
        mean, std = normalisation(grader)
        images = torch.from_numpy(self.pixels[chosen]).permute(0, 3, 1, 2).float() / 255
        return ((images - mean) / std).to(grader.device)

    def median_lesion(self, side: int) -> float | None:
        """Diameter of the median lesion in px of a backbone that sees `side` px; None: no lesion is known."""
        boxes = np.concatenate([each for each in self.boxes if each is not None] or [np.empty((0, 4))])
        if not len(boxes):
            return None
        return float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))) * side)


def photographs_of(of: Run, config: dict) -> ImageTable:
    """The rows of the split that is asked for, in the table that the grader knows or in the one that is given."""
    if config["split"] not in SPLITS:
        raise ValueError(f"split must be {', '.join(SPLITS)}, not {config['split']}")
    reference = config["table"] or (of.config["test"] if config["split"] == "test" else None)
    if reference:
        table = ImageTable.read(find_table(reference, config["runs_dir"]))
    else:
        table = table_of({**of.config, "runs_dir": config["runs_dir"]})
    rows = table.select(split=config["split"])
    rows = rows.only(rows.rows["severity"] != "")
    if len(rows) == 0:
        raise ValueError(f"{table.root} has no {config['split']} photograph with a severity: choose another split")
    return rows


def prepared_photographs(grader: Grader, table: ImageTable, of: Run, config: dict) -> Photographs:
    """Pixels as the grader gets them, and lesions where they are seen on them; `num_images` of the table's rows."""
    pixels = packed(table, of.config)
    chosen = spread(table.rows, config["num_images"], seed=config["seed"]).index
    keep = table.rows.index.isin(chosen)
    table, pixels = table.only(pd.Series(keep)), pixels[keep]
    resolution, fit = of.config["data"]["resolution"], of.config["data"]["fit"]
    seen = view(grader, resolution)
    boxes = []
    for name, size in zip(table.rows["file_name"], photo_sizes(table)):
        known = None if table.boxes is None else boxes_of(table, name)
        if known is not None:
            known = seen.boxes(fit_boxes(known, size, resolution, fit) / resolution)
        boxes.append(known)
    return Photographs(table, pixels, boxes)


def normalisation(grader: Grader) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] of pixels in 0..1, as the backbone wants them."""
    return tuple(torch.tensor(grader.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))
