"""The one opening of a grader's test: validation images decide everything, then the test images are graded, once.

What it said of them is kept as `predictions.parquet`, from which every figure can be computed again, and
`test_opened.json` says when that was and by which epoch's weights. A run that was killed behind that point finds the
file and grades nothing again.
"""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from acne_lab.data.acne04 import HAYASHI_BANDS
from acne_lab.data.module import GraderData, truth_of
from acne_lab.data.slices import slice_columns
from acne_lab.data.table import ImageTable
from acne_lab.data.toy import CLASSES
from acne_lab.grade.module import Grader
from acne_lab.metrics.calibration import fit_decision
from acne_lab.metrics.predictions import (
    Predictions,
    mean_counts,
    prediction_frame,
    read_predictions,
    write_predictions,
)
from acne_lab.runs import Run, write_text

CHOSEN_ON = "val/balanced_accuracy"  # what the epoch is chosen by
FILE, OPENED = "predictions.parquet", "test_opened.json"


def opened(run: Run) -> Predictions | None:
    """What the run's grader has said already; None: its test has not been opened."""
    path = run.path / FILE
    return read_predictions(path) if path.exists() else None


def open_test(run: Run, model: Grader, trainer: pl.Trainer, data: GraderData, *, decision: dict) -> Predictions:
    """Take the best epoch's weights, fit the decision on the validation images, grade the test images.

    Args:
        run: has checkpoints/best.ckpt, and gets the two files.
        model, trainer, data: those of the training.
        decision: `temperature`, `weights`: whether each is fitted.
    """
    best = torch.load(run.path / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    model.load_state_dict(best["state_dict"])
    probabilities, counts = graded(model, trainer, data.val_dataloader())
    decided = fit_decision(probabilities, data.val[0].labels, **decision)
    about = {"classes": data.classes, "decision": decided, "class_counts": class_means(data)}
    frames = [prediction_frame(known_of(data.val[0], "val"), probabilities, counts, **about)]
    if not (run.path / OPENED).exists():  # a run that was killed while it graded has opened it before
        now = datetime.now(UTC).isoformat(timespec="seconds")
        opening = {"time": now, "epoch": best["epoch"] + 1, "chosen_on": CHOSEN_ON}
        write_text(run.path / OPENED, json.dumps(opening) + "\n")
    frames.append(
        prediction_frame(known_of(data.test[0], "test"), *graded(model, trainer, data.test_dataloader()), **about)
    )
    # Grades of other names are not Hayashi's, so their counts say nothing of them.
    bands = HAYASHI_BANDS if tuple(data.classes) == CLASSES else None
    return write_predictions(run.path / FILE, pd.concat(frames), classes=data.classes, decision=decided, bands=bands)


def opening(run: Run) -> dict:
    """When the test was opened, with the weights of which epoch, and what that epoch was chosen by."""
    return json.loads((run.path / OPENED).read_text())


def graded(model: Grader, trainer: pl.Trainer, loader: object) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, C] and lesion counts [N], NaN where the head says nothing of them, in the loader's order."""
    columns = zip(*trainer.predict(model, loader))
    probabilities, counts = (torch.cat(column).double().numpy() for column in columns)
    return probabilities, counts


def class_means(data: GraderData) -> np.ndarray:
    """Mean lesions of the training images of each class [C], NaN where nobody has counted any."""
    labels, lesions = truth_of(data.train)
    return mean_counts(labels.numpy(), lesions.numpy(), len(data.classes))


def known_of(table: ImageTable, split: str) -> pd.DataFrame:
    """What predictions keep of each image: who, what, and what slices need."""
    columns = ["file_name", "subject", "severity", "source", "lesions"]
    slices = slice_columns(table).drop(columns=["file_name", "source"])
    return pd.concat([table.rows[columns].reset_index(drop=True), slices], axis=1).assign(split=split)
