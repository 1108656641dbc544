"""Whether some photographs are graded worse than others, arm by arm: balanced accuracy by skin tone, camera, face, ...

Of a study of several backbones only the baselines are shown, a column each: arms times backbones times slices is more
than anyone reads.
"""

from collections.abc import Sequence

import numpy as np

from acne_lab.metrics.grading import confusion_figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.slices import IN_TERCILES, SLICES, ordered, slice_values
from acne_lab.metrics.statistics import subject_bootstrap
from acne_lab.report.arms import PRIMARY
from acne_lab.report.collect import Study

NUM_RESAMPLES = 1000
TITLES = {
    "skin_tone": "skin tone",
    "photo_size": "size of the photograph",
    "face_found": "face found",
    "lesion_size": "size of the lesions",
}


def slices_facts(study: Study) -> dict | None:
    """Heads of the columns, and of every slice a table with a row a value; None where no slice is told apart."""
    arms = [arm for arm in study.arms if study.role(arm) not in ("null", "leaked")]
    if study.backbones:
        arms = [arm for arm in arms if study.is_baseline(arm)]
    runs = {arm.group or arm.label: [each for each in arm.predictions if each is not None] for arm in arms}
    runs = {name: kept for name, kept in runs.items() if kept}
    if not runs:
        return None
    first = next(iter(runs.values()))[0]
    tables = []
    for name in (name for name in SLICES if name in first.frame):
        values = slice_values(first.frame[name], terciles=IN_TERCILES.get(name))
        if values.nunique() < 2:
            continue
        rows = []
        for value in ordered(values, name):
            files = set(first.frame["file_name"][(values == value).to_numpy(dtype=bool, na_value=False)])
            part = _cut(first, files)
            rows.append(
                {
                    "value": value,
                    "num_images": len(part),
                    "num_people": len(set(part.people)),
                    "classes": len(set(part.labels)),
                    "cells": [_cell([cut for run in kept if (cut := _cut(run, files))]) for kept in runs.values()],
                }
            )
        tables.append({"title": TITLES.get(name, name), "rows": rows})
    if not tables:
        return None
    return {
        "heads": list(runs),
        "tables": tables,
        "num_classes": len(first.classes),
        "is_baseline": bool(study.backbones),
    }


def _cut(run: Predictions, files: set[str]) -> Predictions | None:
    keep = run.frame["file_name"].isin(files).to_numpy()
    return run.where(keep) if keep.any() else None


def _cell(runs: Sequence[Predictions]) -> dict:
    """Mean over the seeds, and its interval over people."""
    if not runs:
        return {"mean": "", "interval": "", "share": 0.0}
    mean = float(np.mean([_balanced_accuracy(run) for run in runs]))
    interval = subject_bootstrap(runs, num_resamples=NUM_RESAMPLES)[PRIMARY]
    ends = "" if interval.low is None else f"{interval.low:.2f} to {interval.high:.2f}"
    return {"mean": f"{mean:.3f}", "interval": ends, "share": mean}


def _balanced_accuracy(run: Predictions) -> float:
    num = len(run.classes)
    confusion = np.bincount(run.labels * num + run.predicted, minlength=num * num).reshape(num, num)
    return float(confusion_figures(confusion)[PRIMARY])
