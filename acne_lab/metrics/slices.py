"""Does a grader grade some photographs worse than others? Figures by skin tone, camera, face found, size of lesions.

A slice is a group of images that share a value of one of `SLICES`. Slices differ in more than their name: in a set
where one camera took the mild cases, a worse camera may be nothing but a harder severity. Balanced accuracy is over the
severities that a slice has, so it is comparable between slices that have the same ones; `classes` says which.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from acne_lab.metrics.grading import grading_report
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import LEAST_PEOPLE, NUM_RESAMPLES, subject_bootstrap

SLICES = ("skin_tone", "camera", "photo_size", "source", "face_found", "lesion_size")  # columns of `data/slices.py`
IN_TERCILES = {"lesion_size": ("small", "medium", "large")}
LEAST_SHARE = 0.02  # of the images; rarer values are put together
OTHERS = "other"
FIGURES = ("balanced_accuracy", "accuracy", "mae_grade")


class Slice(NamedTuple):
    """The images that share a value: the names of their files, whoever grades them."""

    name: str
    value: str
    files: frozenset[str]


def slices_of(predictions: Predictions) -> list[Slice]:
    """A slice for each value that the predictions' columns tell apart, in the order of `SLICES`; of one value none."""
    found = []
    for name in (name for name in SLICES if name in predictions.frame):
        values = slice_values(predictions.frame[name], terciles=IN_TERCILES.get(name))
        if values.nunique() > 1:
            files = predictions.frame["file_name"].to_numpy()
            there = {value: (values == value).to_numpy(dtype=bool, na_value=False) for value in ordered(values, name)}
            found += [Slice(name, value, frozenset(files[keep])) for value, keep in there.items()]
    return found


def figures_of_slice(
    runs: Sequence[Predictions], part: Slice, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict | None:
    """How well one grader, or an arm's graders of several seeds, grade a slice; None where they have none of it.

    Args:
        runs: predictions of one split, of every seed.
        part: one of `slices_of`.
        num_resamples, seed: of the interval, see `subject_bootstrap`.

    Returns:
        num_images, num_subjects; classes, the severities that occur, mild first; balanced_accuracy, with its 95 %
        interval over people, balanced_accuracy_low and _high, None where it has none or of fewer than LEAST_PEOPLE;
        accuracy, mae_grade. Of several seeds these are means.
    """
    kept = [run.frame["file_name"].isin(part.files).to_numpy() for run in runs]
    cut = [run.where(keep) for run, keep in zip(runs, kept) if keep.any()]
    if not cut:
        return None
    reports = [grading_report(run.probabilities, run.labels, run.classes, predicted=run.predicted) for run in cut]
    num_subjects = len(set(cut[0].people))
    low = high = None
    if num_subjects >= LEAST_PEOPLE:
        interval = subject_bootstrap(cut, num_resamples=num_resamples, seed=seed)["balanced_accuracy"]
        low, high = interval.low, interval.high
    means = {name: float(np.mean([each[name] for each in reports])) for name in FIGURES}
    return {
        "num_images": len(cut[0]),
        "num_subjects": num_subjects,
        "classes": [name for name in cut[0].classes if reports[0]["recall"][name] is not None],
        "balanced_accuracy": means["balanced_accuracy"],
        "balanced_accuracy_low": low,
        "balanced_accuracy_high": high,
        "accuracy": means["accuracy"],
        "mae_grade": means["mae_grade"],
    }


def slice_values(column: pd.Series, *, terciles: tuple[str, str, str] | None = None) -> pd.Series:
    """The value of each image as text, <NA> where it is unknown.

    Numbers of a slice `terciles` become its names for the lower, middle and upper third; of other slices, values that
    few images have become `OTHERS`.
    """
    if terciles:
        known = pd.to_numeric(column).astype(float)
        ends = known.quantile([1 / 3, 2 / 3]).to_numpy()
        if np.isnan(ends).any():
            return pd.Series(pd.NA, index=column.index, dtype="string")
        third = pd.Series(np.searchsorted(ends, known.to_numpy()), index=column.index).map(dict(enumerate(terciles)))
        return third.where(known.notna()).astype("string")
    values = column.map(_word, na_action="ignore").astype("string")
    share = values.map(values.value_counts(normalize=True))
    return values.mask((share < LEAST_SHARE).fillna(False).astype(bool), OTHERS)


def ordered(values: pd.Series, name: str) -> list[str]:
    """The values that occur: terciles and numbers rising, others by their number of images; `OTHERS` last."""
    found = list(values.value_counts().index)
    if name in IN_TERCILES:
        found.sort(key=IN_TERCILES[name].index)
    elif name == "skin_tone":
        found.sort()
    return sorted(found, key=lambda value: value == OTHERS)


def _word(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
