"""How well a grader grades: every figure of a run's metrics.json, from its predictions.

Figures come from torchmetrics where it has them. Averages over classes do not: torchmetrics 1.9 counts a class that is
predicted but never true as a recall of 0, and one without a test image has no recall. What is averaged over which
classes is said at each function.

It knows neither models nor images. How far a figure may be off, and whether two graders differ, is the question of
`statistics.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_cohen_kappa,
    multiclass_confusion_matrix,
)

from acne_lab.metrics.predictions import Bands, Predictions, check_probabilities

NUM_BINS = 15  # of the calibration error, as in Guo et al. (ICML 2017)

# ---- of a confusion matrix [..., C, C] (row = true class, column = predicted class) ----------------------------


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)


def _mean(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean over the last axis of those `among` which to average; NaN where there are none."""
    return _share(np.where(among, values, 0).sum(axis=-1), among.sum(axis=-1))


def class_recall(confusion: np.ndarray) -> np.ndarray:
    """TP / (TP + FN) of each class [..., C] in [0, 1]; NaN for a class that no image has."""
    return _share(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1))


def confusion_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of confusion matrices [..., C, C], each an array [...]; NaN where one is not defined.

    * accuracy.
    * balanced_accuracy, macro_sensitivity: mean recall over the classes that occur in the truth (Brodersen et al.,
      ICPR 2010).
    * macro_specificity: mean TN / (TN + FP) over the same classes, and youden their mean sensitivity + specificity - 1
      (Youden, Cancer 1950); not defined where all images have one class. A class without an image has a specificity,
      but taking it in would make the two averages speak of different classes.
    * macro_precision, macro_f1: means of TP / (TP + FP) and 2 TP / (2 TP + FP + FN) over the classes that are true or
      predicted at least once; 0 for a class that is only one of the two (as scikit-learn and torchmetrics do).
    * mae_grade: mean distance in grades.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted, total = confusion.sum(axis=-1), confusion.sum(axis=-2), confusion.sum(axis=(-2, -1))
    others = total[..., None] - true
    specificity = _share(others - (predicted - hits), others)
    of_truth, occurs = true > 0, (true > 0) | (predicted > 0)
    sensitivity = _mean(class_recall(confusion), of_truth)
    with np.errstate(invalid="ignore"):
        macro_specificity = _mean(specificity, of_truth)
    grades = np.arange(confusion.shape[-1])
    return {
        "accuracy": _share(hits.sum(axis=-1), total),
        "balanced_accuracy": sensitivity,
        "macro_precision": _mean(np.nan_to_num(_share(hits, predicted)), occurs),
        "macro_sensitivity": sensitivity,
        "macro_specificity": macro_specificity,
        "youden": sensitivity + macro_specificity - 1,
        "macro_f1": _mean(np.nan_to_num(_share(2 * hits, true + predicted)), occurs),
        "mae_grade": _share((confusion * np.abs(grades[:, None] - grades)).sum(axis=(-2, -1)), total),
    }


# ---- of predictions --------------------------------------------------------------------------------------------


def grading_report(
    probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str], *, predicted: ArrayLike | None = None
) -> dict:
    """What probabilities of grades say, in plain Python numbers; None for a figure that is not defined.

    Args:
        probabilities: [N, C] in [0, 1], one row an image; the calibration error is of these.
        labels: [N] integers, the true class of each image as an index into `classes`.
        classes: the C class names, mild first.
        predicted: [N] grades; None: the most probable.

    Returns:
        those of `confusion_figures`; kappa, quadratic-weighted (Cohen, Psychol. Bull. 1968; 0 where everything is
        predicted as one class, not defined where truth and predictions are the same single class); ece, the expected
        calibration error of the most probable class over 15 bins of equal width (Guo et al., ICML 2017, eq. 3; a
        confidence of exactly 1 has a bin of its own in torchmetrics); num_test = N; recall (class name -> recall, None
        for a class without an image); confusion (C lists of C counts, rows = truth).

    Raises:
        ValueError: no image, shapes that do not fit together, a label that is no class, NaN in a probability.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels)
    num_classes = len(classes)
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(
            f"probabilities must be [{len(labels)}, {num_classes}] for {len(labels)} labels and the classes "
            f"{list(classes)}, but are {list(probabilities.shape)}: was the grader trained on other classes?"
        )
    if len(labels) == 0:
        raise ValueError("there is no image to grade: give this split at least one")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, but reach from {labels.min()} to {labels.max()}: "
            "images without a severity cannot be graded, drop them first"
        )
    check_probabilities(probabilities)
    # torchmetrics takes rows that reach above 1 by a rounding error for logits.
    probabilities = torch.as_tensor(probabilities / probabilities.sum(axis=1, keepdims=True))
    truth = torch.as_tensor(labels)
    grades = probabilities.argmax(dim=1) if predicted is None else torch.as_tensor(np.asarray(predicted))
    confusion = multiclass_confusion_matrix(grades, truth, num_classes=num_classes)
    shares = confusion_figures(confusion.numpy())
    recall = class_recall(confusion.numpy())
    kappa = multiclass_cohen_kappa(grades, truth, num_classes=num_classes, weights="quadratic")
    ece = multiclass_calibration_error(probabilities, truth, num_classes=num_classes, n_bins=NUM_BINS, norm="l1")
    return {
        **{name: _plain(value) for name, value in shares.items()},
        "kappa": _plain(kappa),
        "ece": _plain(ece),
        "num_test": len(labels),
        "recall": {name: _plain(value) for name, value in zip(classes, recall, strict=True)},
        "confusion": confusion.tolist(),
    }


def figures(predictions: Predictions) -> dict:
    """Every figure of a grader on these images: the `test` or `val` entry of its run's metrics.json.

    Returns:
        those of `grading_report`, of calibrated probabilities and decided grades; num_subjects; num_counted, images
        with a known number of lesions; over these mae_count and rmse_count of the grader's own count,
        count_from_grade {mae, rmse}, and over all images with a count of the grader grade_from_count {accuracy,
        balanced_accuracy}. None where one is not defined.
    """
    lesions, counts = predictions.counts("lesions"), predictions.counts("count")
    own, expected = count_errors(counts, lesions), count_errors(predictions.counts("count_from_grade"), lesions)
    from_count = {"accuracy": None, "balanced_accuracy": None}
    if predictions.bands is not None and (counted := ~np.isnan(counts)).any():
        graded = torch.as_tensor(grade_of_count(counts[counted], predictions.bands))
        truth = torch.as_tensor(predictions.labels[counted])
        matrix = multiclass_confusion_matrix(graded, truth, num_classes=len(predictions.classes))
        shares = confusion_figures(matrix.numpy())
        from_count = {name: _plain(shares[name]) for name in from_count}
    return {
        **grading_report(
            predictions.probabilities, predictions.labels, predictions.classes, predicted=predictions.predicted
        ),
        "num_subjects": len(set(predictions.people)),
        "num_counted": int((~np.isnan(lesions)).sum()),
        "mae_count": own["mae"],
        "rmse_count": own["rmse"],
        "grade_from_count": from_count,
        "count_from_grade": expected,
    }


def count_errors(counts: np.ndarray, lesions: np.ndarray) -> dict[str, float | None]:
    """{mae, rmse} in lesions over the images [N] where both are known, None where that is none."""
    known = ~np.isnan(counts) & ~np.isnan(lesions)
    if not known.any():
        return {"mae": None, "rmse": None}
    said, truth = torch.as_tensor(counts[known]), torch.as_tensor(lesions[known])
    return {
        "mae": mean_absolute_error(said, truth).item(),
        "rmse": mean_squared_error(said, truth, squared=False).item(),
    }


def grade_of_count(counts: np.ndarray, bands: Bands) -> np.ndarray:
    """int64 [N]: the class in whose band a number of lesions lies, rounded half up and at least 0.

    Args:
        counts: float [N].
        bands: largest count of each class in rising order, None for the last, e.g. `data.acne04.HAYASHI_BANDS`.
    """
    return np.searchsorted(np.array(bands[:-1]), np.floor(counts + 0.5), side="left")


def _plain(value: float | np.ndarray | torch.Tensor) -> float | None:
    value = float(value)
    return None if np.isnan(value) else value
