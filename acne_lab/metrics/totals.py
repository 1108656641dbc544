"""What each person adds to the sums that every figure is made of: the fast path of `grading.figures`.

A figure of any weighing of people (a resample, a swap of two graders' predictions) is then one matrix product away.
Each figure here is checked by tests against the one of `grading`, which is the reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from acne_lab.metrics.grading import NUM_BINS, class_recall, confusion_figures, grade_of_count
from acne_lab.metrics.predictions import Predictions

AVERAGES = ("balanced_accuracy", "macro_precision", "macro_sensitivity", "macro_specificity", "youden", "macro_f1")
_PARTS = ("confusion", "from_count", "bins", "count", "count_from_grade")


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums of each of S people, or of any weighing of them.

    Args:
        values: float64 [..., K], in the order of `_PARTS`: two confusion matrices [C, C], of grades and of grades from
            counts; number, sum of confidences and number of hits in each calibration bin [3, NUM_BINS + 1]; number,
            sum of absolute and of squared errors of two counts [3].
        classes: the C classes.
    """

    values: np.ndarray
    classes: tuple[str, ...]

    def weighed(self, weights: np.ndarray) -> "Totals":
        """Sums [..., K] of S people who count `weights` [..., S] times each."""
        return Totals(weights @ self.values, self.classes)

    def num_people(self, figure: str) -> np.ndarray:
        """How many people each class of a figure is told by, int [C]; [0] of a figure that is not one of classes."""
        kind, _, last = figure.rpartition(".")
        shown = (self._part("from_count" if kind == "grade_from_count" else "confusion").sum(axis=-1) > 0).sum(axis=0)
        if last in AVERAGES:
            return shown
        return shown * (np.array(self.classes) == last) if kind == "recall" else np.zeros(1, dtype=int)

    def _part(self, name: str) -> np.ndarray:
        num = len(self.classes)
        shapes = dict(zip(_PARTS, ((num, num), (num, num), (3, NUM_BINS + 1), (3,), (3,)), strict=True))
        start = 0
        for each, shape in shapes.items():
            stop = start + int(np.prod(shape))
            if each == name:
                return self.values[..., start:stop].reshape(*self.values.shape[:-1], *shape)
            start = stop
        raise AssertionError(name)

    def of_grades(self) -> "Totals":
        """The sums of grades alone, without counts and confidences: a tenth of the work for those figures."""
        return Totals(self.values[..., : len(self.classes) ** 2], self.classes)

    def figures(self) -> dict[str, np.ndarray]:
        """Every figure that `grading.figures` has as one number, by its name in `flat`: arrays [...], NaN undefined.

        Of `of_grades` those of `confusion_figures`.
        """
        confusion = self._part("confusion")
        if confusion.shape[-1] ** 2 == self.values.shape[-1]:
            return confusion_figures(confusion)
        from_count = confusion_figures(self._part("from_count"))
        recall = class_recall(confusion)
        errors = {name: _errors(self._part(name)) for name in ("count", "count_from_grade")}
        return {
            **confusion_figures(confusion),
            "kappa": quadratic_kappa(confusion),
            "ece": _calibration_error(self._part("bins")),
            **{f"recall.{name}": recall[..., i] for i, name in enumerate(self.classes)},
            "mae_count": errors["count"][0],
            "rmse_count": errors["count"][1],
            **{f"grade_from_count.{name}": from_count[name] for name in ("accuracy", "balanced_accuracy")},
            "count_from_grade.mae": errors["count_from_grade"][0],
            "count_from_grade.rmse": errors["count_from_grade"][1],
        }


def totals_by_person(predictions: Predictions, people: Sequence[str]) -> Totals:
    """Sums [S, K] of what a grader said of each of S people; zeros of one who is on none of its images."""
    number = {name: i for i, name in enumerate(people)}
    person = np.array([number[name] for name in predictions.people])
    num, labels = len(predictions.classes), predictions.labels

    def summed(cell: np.ndarray, cells: int, weights: np.ndarray | None = None, keep: np.ndarray = ...) -> np.ndarray:
        flat = person[keep] * cells + cell
        return np.bincount(flat, weights, minlength=len(people) * cells).reshape(len(people), cells)

    lesions, counts = predictions.counts("lesions"), predictions.counts("count")
    from_count = np.zeros((len(people), num * num))
    if predictions.bands is not None:
        known = ~np.isnan(counts)
        graded = grade_of_count(counts[known], predictions.bands)
        from_count = summed(labels[known] * num + graded, num * num, keep=known)
    probabilities = predictions.probabilities
    confidence, surest = probabilities.max(axis=1), probabilities.argmax(axis=1)
    edges = torch.linspace(0, 1, NUM_BINS + 1)  # in single precision, as torchmetrics takes them
    bins = torch.bucketize(torch.as_tensor(confidence).float(), edges, right=True).numpy() - 1
    parts = [
        summed(labels * num + predictions.predicted, num * num),
        from_count,
        *(summed(bins, NUM_BINS + 1, weights) for weights in (None, confidence, (surest == labels).astype(float))),
    ]
    for said in (counts, predictions.counts("count_from_grade")):
        known = ~np.isnan(said) & ~np.isnan(lesions)
        off = np.abs(said - lesions)[known]
        zero = np.zeros(len(off), dtype=int)
        parts += [summed(zero, 1, weights, keep=known) for weights in (np.ones(len(off)), off, off**2)]
    return Totals(np.concatenate(parts, axis=1).astype(np.float64), predictions.classes)


def flat(figures: Mapping[str, object]) -> dict[str, float | None]:
    """The numbers of `grading.figures` by one name each: recall.mild, count_from_grade.mae, accuracy, ..."""
    numbers = {}
    for name, value in figures.items():
        if name.startswith("num_"):
            continue
        if isinstance(value, Mapping):
            numbers |= {f"{name}.{key}": number for key, number in value.items()}
        elif not isinstance(value, list):
            numbers[name] = value
    return numbers


def quadratic_kappa(confusion: np.ndarray) -> np.ndarray:
    """1 - observed / expected squared distance in grades (Cohen 1968) of [..., C, C] -> [...]; NaN where none is."""
    grades = np.arange(confusion.shape[-1])
    distance = (grades[:, None] - grades).astype(np.float64) ** 2
    by_chance = np.einsum("...i,ij,...j->...", confusion.sum(axis=-1), distance, confusion.sum(axis=-2))
    observed, total = (confusion * distance).sum(axis=(-2, -1)), confusion.sum(axis=(-2, -1))
    return 1 - np.divide(observed * total, by_chance, out=np.full(total.shape, np.nan), where=by_chance > 0)


def _calibration_error(bins: np.ndarray) -> np.ndarray:
    """[..., 3, bins] of number, confidences and hits -> [...]: their absolute gaps, summed over bins, an image."""
    number, confidence, hits = np.moveaxis(bins, -2, 0)
    total = number.sum(axis=-1)
    gap = np.abs(hits - confidence).sum(axis=-1)
    return np.divide(gap, total, out=np.full(total.shape, np.nan), where=total > 0)


def _errors(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., 3] of number, absolute and squared errors -> their mean and the root of the mean square."""
    number, absolute, squared = np.moveaxis(sums, -1, 0)
    mean = [
        np.divide(part, number, out=np.full(number.shape, np.nan), where=number > 0) for part in (absolute, squared)
    ]
    return mean[0], np.sqrt(mean[1])
