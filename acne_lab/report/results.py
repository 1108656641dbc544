"""`results.csv`: every figure of every arm of a study, a row each, for other programs and for a paper's tables."""

import pandas as pd

from acne_lab.report.arms import PRIMARY, figures_of
from acne_lab.report.collect import Study
from acne_lab.report.comparison import Contrast

ALL_BACKBONES = "all"
COLUMNS = (
    "backbone",
    "arm",
    "role",
    "figure",
    "mean",
    "low",
    "high",
    "num_seeds",
    "people_low",
    "people_high",
    "num_images",
    "recomputed",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "difference_people_low",
    "difference_people_high",
    "p",
    "p_holm",
    "verdict",
    "seeds_needed",
)


def results_table(study: Study) -> pd.DataFrame:
    """A row for each figure of each arm that has it, and of each arm over all backbones where there are several.

    Returns:
        backbone, arm; role: "baseline", "null", "leaked" or ""; figure, by its name in `metrics.json`, `.` between the
        levels; mean over seeds, low and high of Student's 95 % interval, num_seeds; people_low and people_high, the
        interval had other people been tested; num_images of the test; recomputed: from predictions, not as noted;
        then of balanced accuracy, the one figure that arms are tested on: baseline, difference to it with
        difference_low and _high (over seeds) and difference_people_low and _high, p, p_holm, verdict, seeds_needed.
        Empty where there is none.
    """
    rows = []
    for arm in study.arms:
        about = {"backbone": arm.backbone, "arm": arm.label, "role": study.role(arm)}
        for figure in figures_of([arm]):
            estimate, people = arm.estimate(figure), arm.people.get(figure, (None, None))
            half = estimate.half_width
            rows.append(
                {
                    **about,
                    "figure": figure,
                    "mean": estimate.mean,
                    "low": None if half is None else estimate.mean - half,
                    "high": None if half is None else estimate.mean + half,
                    "num_seeds": len(arm.values(figure)),
                    "people_low": people[0],
                    "people_high": people[1],
                    "num_images": arm.test.get("num_test"),
                    "recomputed": arm.num_noted == 0,
                    **(_contrast(study.compared.arms.get(arm.name)) if figure == PRIMARY else {}),
                }
            )
    for label, each in study.compared.labels.items():
        arm = next(arm for arm in study.arms if arm.label == label)
        about = {"backbone": ALL_BACKBONES, "arm": label, "role": study.role(arm), "figure": PRIMARY}
        rows.append({**about, "num_seeds": len(each.by_seed), **_contrast(each)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _contrast(each: Contrast | None) -> dict:
    if each is None:
        return {}
    mean, half = each.difference.mean, each.difference.half_width
    people = each.people or (None, None)
    return {
        "baseline": each.baseline,
        "difference": mean,
        "difference_low": None if half is None else mean - half,
        "difference_high": None if half is None else mean + half,
        "difference_people_low": people[0],
        "difference_people_high": people[1],
        "p": each.p,
        "p_holm": each.p_holm,
        "verdict": each.verdict,
        "seeds_needed": each.seeds_needed,
    }
