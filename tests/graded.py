"""Predictions of simulated graders, for tests of figures and of what compares them."""

import numpy as np
import pandas as pd

from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.predictions import Predictions, mean_counts, prediction_frame

CLASSES = ("mild", "moderate", "severe", "very_severe")
BANDS = (5, 20, 50, None)
FREQUENCY = np.array([513, 633, 182, 129]) / 1457  # of ACNE04


def drawn(
    seed: int,
    *,
    num_people: int = 40,
    noise: float = 0.5,
    grader: int = 0,
    luck: float = 0.0,
    decision: Decision | None = None,
    most: int = 4,
) -> Predictions:
    """What a grader says of people who are drawn by `seed`; the same ones whatever the other arguments.

    Args:
        seed: of people, images and truth.
        num_people: of 1 to `most` images each.
        noise: of the severity that the grader sees in an image, in grades.
        grader: seed of that noise.
        luck: standard deviation of what all images of one grader are off by, in grades: its training.
        decision: None: the most probable grade.
        most: images of a person.
    """
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(num_people), rng.integers(1, most + 1, num_people))
    usual = rng.choice(4, num_people, p=FREQUENCY)
    labels = np.clip(usual[person] + rng.choice([-1, 0, 1], len(person), p=[0.1, 0.8, 0.1]), 0, 3)
    lesions = rng.integers(np.array([0, 6, 21, 51])[labels], np.array([6, 21, 51, 66])[labels]).astype(float)
    lesions[rng.random(len(person)) < 0.2] = np.nan
    look = 0.4 * rng.normal(size=num_people)[person]  # a person's skin misleads every grader the same way

    eye = np.random.default_rng([seed, grader])
    seen = labels + look + luck * eye.normal() + noise * eye.normal(size=len(person))
    logits = -1.6 * (np.arange(4) - seen[:, None]) ** 2
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    counts = np.where(eye.random(len(person)) < 0.1, np.nan, np.abs(8 * np.exp(0.7 * seen) - 8))
    rows = pd.DataFrame(
        {
            "file_name": [f"{i}.jpg" for i in range(len(person))],
            "subject": [f"s{i}" for i in person],
            "split": "test",
            "severity": [CLASSES[i] for i in labels],
            "source": "toy",
            "lesions": lesions,
            "camera": [f"camera {i % 2}" for i in person],
        }
    )
    decision = decision or Decision()
    frame = prediction_frame(
        rows,
        probabilities.astype(np.float32),
        counts,
        classes=CLASSES,
        decision=decision,
        class_counts=mean_counts(labels, lesions, 4),
    )
    return Predictions(frame, CLASSES, decision, BANDS)


def said(truth: list[int], grades: list[int], *, subjects: list[str] | None = None, **columns: list) -> Predictions:
    """Predictions that are certain of `grades`, for images of `truth`; each of its own person unless told."""
    frame = pd.DataFrame(
        {
            "file_name": [f"{i}.jpg" for i in range(len(truth))],
            "subject": subjects or [f"s{i}" for i in range(len(truth))],
            "split": "test",
            "severity": [CLASSES[i] for i in truth],
            "source": "toy",
            **{name: columns.get(name, np.nan) for name in ("lesions", "count", "count_from_grade")},
            **{f"p_{name}": [float(grade == i) for grade in grades] for i, name in enumerate(CLASSES)},
        }
    )
    return Predictions(frame, CLASSES, bands=BANDS)
