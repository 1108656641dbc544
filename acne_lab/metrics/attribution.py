"""Does a grader look at lesions? How much of its attribution lies on them, beside how much of the picture they cover.

It knows maps and boxes on one square, of side 1; which network made the maps, and what they mean, it does not. A rate
says where attribution lies and not whether the grader is right, nor whether it would be wrong without the lesion.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from acne_lab.metrics.statistics import LEAST_PEOPLE
from acne_lab.metrics.two_sample import Resampled, ratio_by_subject

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


def where_located(boxes: Sequence[np.ndarray | None]) -> np.ndarray:
    """bool [N]: which of N photographs have a lesion that is seen on the square."""
    return np.array([each is not None and bool(coverage(each).any()) for each in boxes])


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


def hit_rate(found: Hits, subjects: Sequence[str], *, seed: int = 0) -> Resampled:
    """Attribution on lesions over the area they cover, sums over photographs: 1 is chance, 2 twice as much as chance.

    A ratio of sums and not a mean of ratios: a photograph of one small lesion would drown all others.
    """
    known = ~np.isnan(found.inside)
    return ratio_by_subject(found.inside[known], found.area[known], np.asarray(subjects)[known], seed=seed)


def pointing_rate(found: Hits, subjects: Sequence[str], *, seed: int = 0) -> Resampled:
    """How often the highest place is on a lesion: the pointing game (Zhang et al., IJCV 2018)."""
    known = ~np.isnan(found.pointed)
    ones = np.ones(known.sum())
    return ratio_by_subject(found.pointed[known], ones, np.asarray(subjects)[known], seed=seed)


def figures(
    boxes: Sequence[np.ndarray | None],
    rows: pd.DataFrame,
    maps: Mapping[str, np.ndarray],
    random: Sequence[np.ndarray],
    *,
    classes: Sequence[str],
    seed: int,
) -> tuple[dict, pd.DataFrame]:
    """Hit and pointing rates of a grader's maps by group of photographs, each beside its controls.

    Photographs whose lesions nobody has located, or without any, have no hit rate; without others there is no figure.

    Args:
        boxes: of N photographs, as of `coverage`; None where nobody has located the lesions.
        rows: N, with severity, subject and right (bool: the grader's answer).
        maps: {score: [N, h, w] >= 0}.
        random: maps of the score "severity" by networks that have learned nothing, each [N, h, w].
        classes: severities, mild first.
        seed: of the intervals.

    Returns:
        {score: {"all", a severity, "right" or "wrong": numbers of photographs, and figures as value, low, high}}, low
        and high None where they cannot be told; and N rows of columns SCORE_inside, SCORE_pointed and area, see `Hits`.
    """
    located = where_located(boxes)
    columns = pd.DataFrame(index=rows.index)
    if not located.any():
        return {}, columns
    on = np.stack([coverage(each) for each, there in zip(boxes, located) if there])
    severity, subject = (rows.loc[located, name].to_numpy() for name in ("severity", "subject"))
    controls = _mean_hits([hits(enlarged(each[located]), on) for each in random])
    groups = {"all": np.ones(len(on), dtype=bool)}
    groups |= {name: severity == name for name in classes}
    groups |= {"right": rows.loc[located, "right"].to_numpy(), "wrong": ~rows.loc[located, "right"].to_numpy()}
    found = {}
    for score, each in maps.items():
        large = enlarged(each[located])
        own, others = hits(large, on), hits_elsewhere(large, on, severity, subject)
        for name, values in (("inside", own.inside), ("pointed", own.pointed), ("area", own.area)):
            column = np.full(len(rows), np.nan)
            column[located] = values
            columns["area" if name == "area" else f"{score}_{name}"] = column
        found[score] = {
            group: _figures_of(own.rows(keep), others.rows(keep), controls.rows(keep), subject[keep], seed=seed)
            for group, keep in groups.items()
            if keep.any()
        }
    return found, columns


def _figures_of(own: Hits, others: Hits, random: Hits, subjects: np.ndarray, *, seed: int) -> dict:
    """Of one group of photographs: numbers of them, and figures as {value, low, high} (None: it cannot be told)."""

    def estimate(rate: Callable, found: Hits) -> Resampled | None:
        known = ~np.isnan(found.inside)
        return rate(found.rows(known), subjects[known], seed=seed) if known.any() else None

    estimates = {"hit_rate": estimate(hit_rate, own), "pointing": estimate(pointing_rate, own)}
    for name, control in (("elsewhere", others), ("random", random)):
        estimates[f"hit_rate_{name}"] = estimate(hit_rate, control)
        estimates[f"pointing_{name}"] = estimate(pointing_rate, control)
    if (elsewhere := estimates["hit_rate_elsewhere"]) is not None and elsewhere.value > 0:
        same_people = estimate(hit_rate, Hits(own.inside + 0 * others.inside, own.area, own.pointed))
        estimates["beyond_elsewhere"] = same_people.over(elsewhere)
    enough = len(set(subjects)) >= LEAST_PEOPLE
    return {
        "num_images": len(subjects),
        "num_subjects": len(set(subjects)),
        "num_silent": int(np.isnan(own.inside).sum()),  # maps without any attribution
        "area": float(own.area.mean()),
        **{name: _plain(each, enough=enough) for name, each in estimates.items() if each is not None},
    }


def _plain(estimate: Resampled, *, enough: bool) -> dict:
    interval = estimate.interval
    tells = enough and interval.low < interval.high  # else it is the same whoever is drawn
    return asdict(interval) if tells else {"value": interval.value, "low": None, "high": None}


def _mean_hits(each: Sequence[Hits]) -> Hits:
    """Of several networks on the same photographs; NaN where all of their maps are empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean, which is NaN as it should
        inside, pointed = (np.nanmean([getattr(hits, name) for hits in each], axis=0) for name in ("inside", "pointed"))
    return Hits(inside, each[0].area, pointed)
