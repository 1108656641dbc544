"""Does a grader look at lesions? How much of its attribution lies on them, beside how much of the picture they cover.

It knows maps and boxes on one square, of side 1; which network made the maps, and what they mean, it does not. A rate
says where attribution lies and not whether the grader is right, nor whether it would be wrong without the lesion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from acne_lab.metrics.two_sample import Estimate, ratio_by_subject

SIDE = 128  # cells of the grid on which attribution and lesions are compared
FINE = 4  # per cell and axis, for the share of it that lesions cover
DILATION = 1.5  # a lesion's box with the rim around it, in widths of the box


def enlarged(maps: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Maps [N, h, w] as [N, side, side], between the centres of their cells linear."""
    large = F.interpolate(torch.from_numpy(maps)[:, None], (side, side), mode="bilinear")
    return large.squeeze(1).numpy()


def coverage(boxes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The share of each cell that lies in at least one box, with its rim: float32 [side, side].

    Args:
        boxes: float [N, 4], x0 y0 x1 y1 in sides of the square, with 0 the left and upper edge; what lies beyond the
            square is cut off. The smallest ones count as a quarter of a cell wide.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * DILATION / 2
    first, last = (np.floor(corner * FINE * side + 0.5).astype(int) for corner in (middle - half, middle + half))
    last = np.maximum(last, first + 1)
    fine = np.zeros((FINE * side, FINE * side), dtype=bool)
    for x0, y0, x1, y1 in np.clip(np.concatenate([first, last], axis=1), 0, FINE * side):
        fine[y0:y1, x0:x1] = True
    return fine.reshape(side, FINE, side, FINE).mean(axis=(1, 3), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Hits:
    """Of N maps, each with the lesions of one photograph.

    Args:
        inside: [N] in [0, 1], share of the map's attribution that lies on the lesions; NaN where it has none at all.
        area: [N] in [0, 1], share of the square that the lesions cover.
        pointed: [N] 1.0 or 0.0, whether the map's highest place is on a lesion; NaN as above.
    """

    inside: np.ndarray
    area: np.ndarray
    pointed: np.ndarray

    def rows(self, keep: np.ndarray) -> "Hits":
        """Those where `keep` (bool [N] or indices) says so."""
        return Hits(self.inside[keep], self.area[keep], self.pointed[keep])


def hits(maps: np.ndarray, covered: np.ndarray) -> Hits:
    """Each of the maps float [N, S, S] >= 0 beside its photograph's `coverage` [N, S, S]."""
    flat, on = maps.reshape(len(maps), -1), covered.reshape(len(covered), -1)
    total = flat.sum(axis=1, dtype=np.float64)
    nothing = total <= 0
    inside = np.einsum("ij,ij->i", flat, on, dtype=np.float64) / np.where(nothing, np.nan, total)
    pointed = np.where(nothing, np.nan, on[np.arange(len(on)), flat.argmax(axis=1)] > 0)
    return Hits(inside, on.mean(axis=1, dtype=np.float64), pointed)


def hits_elsewhere(maps: np.ndarray, covered: np.ndarray, groups: Sequence[str], subjects: Sequence[str]) -> Hits:
    """The maps beside the lesions of other people of the same group, the mean over these; NaN where there are none.

    Lesions lie on faces, and faces in the middle: whatever looks there hits some. What a grader owes to the very
    lesions of a photograph is what it hits beyond this.

    Args:
        maps, covered: as of `hits`.
        groups: N names, e.g. severities: with more lesions more is hit.
        subjects: whose photograph each is, N names.
    """
    flat, on = maps.reshape(len(maps), -1), covered.reshape(len(covered), -1)
    groups, subjects = np.asarray(groups), np.asarray(subjects)
    others = (groups[:, None] == groups) & (subjects[:, None] != subjects)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = others / others.sum(axis=1, keepdims=True)
        inside = ((flat @ on.T) * share).sum(axis=1) / flat.sum(axis=1, dtype=np.float64)
        area = share @ on.mean(axis=1, dtype=np.float64)
        pointed = ((on[:, flat.argmax(axis=1)] > 0).T * share).sum(axis=1)
        pointed[flat.sum(axis=1) <= 0] = np.nan
    return Hits(inside, area, pointed)


def hit_rate(found: Hits, subjects: Sequence[str], *, seed: int = 0) -> Estimate:
    """Attribution on lesions over the area they cover, sums over photographs: 1 is chance, 2 twice as much as chance.

    A ratio of sums and not a mean of ratios: a photograph of one small lesion would drown all others.
    """
    known = ~np.isnan(found.inside)
    return ratio_by_subject(found.inside[known], found.area[known], np.asarray(subjects)[known], seed=seed)


def pointing_rate(found: Hits, subjects: Sequence[str], *, seed: int = 0) -> Estimate:
    """How often the highest place is on a lesion: the pointing game (Zhang et al., IJCV 2018)."""
    known = ~np.isnan(found.pointed)
    ones = np.ones(known.sum())
    return ratio_by_subject(found.pointed[known], ones, np.asarray(subjects)[known], seed=seed)
