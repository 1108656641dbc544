"""Does a grader grade some photographs worse than others? Figures by skin tone, camera, face found, size of lesions.

A slice is a group of images that share a value of one of `SLICES`. Slices differ in more than their name: in a set
where one camera took the mild cases, a worse camera may be nothing but a harder severity. Balanced accuracy is over the
severities that a slice has, so it is comparable between slices that have the same ones; `classes` says which.
"""

import numpy as np
import pandas as pd

from acne_lab.metrics.grading import grading_report
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import NUM_RESAMPLES, subject_bootstrap

SLICES = ("skin_tone", "camera", "photo_size", "source", "face_found", "lesion_size")  # columns of `data/slices.py`
IN_TERCILES = {"lesion_size": ("small", "medium", "large")}
LEAST_SHARE = 0.02  # of the images; rarer values are put together
OTHERS = "other"
COLUMNS = ("slice", "value", "num_images", "num_subjects", "classes")
FIGURES = ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "accuracy", "mae_grade")


def slice_figures(predictions: Predictions, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """A row for each value of each slice that the predictions' columns tell apart; those of one value say nothing.

    Args:
        predictions: of one split.
        num_resamples, seed: of the intervals, see `subject_bootstrap`.

    Returns:
        slice, value (text); num_images, num_subjects; classes, the severities that occur, mild first, joined by ", ";
        balanced_accuracy with the ends of its 95 % interval over people (NaN where it has none), accuracy, mae_grade.
    """
    rows = []
    for name in SLICES:
        if name not in predictions.frame:
            continue
        values = slice_values(predictions.frame[name], terciles=IN_TERCILES.get(name))
        if values.nunique() < 2:
            continue
        for value in ordered(values, name):
            part = predictions.where((values == value).to_numpy(dtype=bool, na_value=False))
            rows.append({"slice": name, "value": value, **_figures_of(part, num_resamples, seed)})
    return pd.DataFrame(rows, columns=[*COLUMNS, *FIGURES])


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


def _figures_of(part: Predictions, num_resamples: int, seed: int) -> dict:
    report = grading_report(part.probabilities, part.labels, part.classes, predicted=part.predicted)
    interval = subject_bootstrap([part], num_resamples=num_resamples, seed=seed)["balanced_accuracy"]
    low, high = (np.nan if end is None else end for end in (interval.low, interval.high))
    return {
        "num_images": len(part),
        "num_subjects": len(set(part.people)),
        "classes": ", ".join(name for name in part.classes if report["recall"][name] is not None),
        "balanced_accuracy": report["balanced_accuracy"],
        "balanced_accuracy_low": low,
        "balanced_accuracy_high": high,
        "accuracy": report["accuracy"],
        "mae_grade": report["mae_grade"],
    }
