"""Whether some photographs are graded worse than others, arm by arm: balanced accuracy by skin tone, camera, face, ...

Of a study of several backbones only the baselines are shown, a column each: arms times backbones times slices is more
than anyone reads.
"""

from collections.abc import Mapping
from itertools import groupby

from acne_lab.metrics.slices import figures_of_slice, slices_of
from acne_lab.report import names
from acne_lab.report.collect import Study

NUM_RESAMPLES = 1000


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
    for name, parts in groupby(slices_of(first), key=lambda part: part.name):
        rows = []
        for part in parts:
            cells = [figures_of_slice(kept, part, num_resamples=NUM_RESAMPLES) for kept in runs.values()]
            about = cells[0]  # that of `first`, so it is there
            rows.append(
                {
                    "value": part.value,
                    "num_images": about["num_images"],
                    "num_people": about["num_subjects"],
                    "classes": len(about["classes"]),
                    "cells": [_cell(each) for each in cells],
                }
            )
        tables.append({"title": names.SLICES[name], "rows": rows})
    if not tables:
        return None
    return {
        "heads": list(runs),
        "tables": tables,
        "num_classes": len(first.classes),
        "is_baseline": bool(study.backbones),
    }


def _cell(found: Mapping | None) -> dict:
    """Mean over the seeds, and its interval over people; empty of an arm that was not tested on the slice."""
    if found is None:
        return {"mean": "", "interval": "", "share": 0.0}
    mean, low, high = (found[f"balanced_accuracy{end}"] for end in ("", "_low", "_high"))
    ends = "" if low is None else f"{low:.2f} to {high:.2f}"
    return {"mean": f"{mean:.3f}", "interval": ends, "share": mean}
