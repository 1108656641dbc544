"""How well a grader grades: the numbers of a run's metrics.json, from its probabilities and the true labels.

It knows neither models nor images. It does not know confidence intervals or comparisons between arms either:
those need several seeds and belong to the statistics of a study.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts [C, C] int64: row = true class, column = predicted class."""
    return multiclass_confusion_matrix(predicted, labels, num_classes=num_classes)


def class_recall(confusion: Tensor) -> Tensor:
    """Recall of each class [C] in [0, 1]; NaN for a class that no test image has."""
    return confusion.diagonal() / confusion.sum(dim=1)


def balanced_accuracy(confusion: Tensor) -> Tensor:
    """Mean recall over the classes that occur in the truth (Brodersen et al., ICPR 2010).

    torchmetrics' macro recall also counts a class that is predicted but never true, as a recall of 0. A class
    without a test image has no recall, so here it is left out.
    """
    return class_recall(confusion).nanmean()


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean of 2 TP / (2 TP + FP + FN) over the classes that are true or predicted at least once.

    A class that is never predicted has an F1 of 0, and so has one that is predicted but never true.
    """
    return (2 * confusion.diagonal() / (confusion.sum(dim=0) + confusion.sum(dim=1))).nanmean()


def grading_report(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> dict:
    """Grade N images: the `test` (or `val`) entry of a grader run's metrics.json, in plain Python numbers.

    Args:
        probabilities: [N, C] in [0, 1], one row an image.
        labels: [N] integers, the true class of each image as an index into `classes`.
        classes: the C class names, mild first.

    Returns:
        accuracy, balanced_accuracy, macro_f1 (all in [0, 1]), num_test, recall (class name -> recall, None
        for a class without a test image) and confusion (C lists of C counts, rows = truth).

    Raises:
        ValueError: no image, shapes that do not fit together, a label that is no class, NaN in a probability.
    """
    probabilities, labels = torch.as_tensor(probabilities), torch.as_tensor(labels)
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
    if probabilities.isnan().any():
        num_bad = int(probabilities.isnan().any(dim=1).sum())
        raise ValueError(f"{num_bad} of {len(labels)} images have NaN probabilities: lower the learning rate")
    confusion = confusion_matrix(probabilities.argmax(dim=1), labels, num_classes)
    recall = class_recall(confusion).tolist()
    present = (confusion.sum(dim=1) > 0).tolist()
    return {
        "accuracy": (confusion.trace() / confusion.sum()).item(),
        "balanced_accuracy": balanced_accuracy(confusion).item(),
        "macro_f1": macro_f1(confusion).item(),
        "num_test": len(labels),
        "recall": {name: recall[i] if present[i] else None for i, name in enumerate(classes)},
        "confusion": confusion.tolist(),
    }
