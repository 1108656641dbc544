"""What a study's page shows of its graders: the comparison of arms, every figure, calibration, confusions, curves.

Here numbers become rows of tables and drawings. The numbers are `arms`' and `comparison`'s, the words `reading`'s.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from acne_lab.metrics.calibration import reliability
from acne_lab.report import explain
from acne_lab.report import grading_plots as plots
from acne_lab.report.arms import PRIMARY, Arm, figures_of
from acne_lab.report.collect import Study
from acne_lab.report.comparison import BETTER, WORSE, Contrast
from acne_lab.report.grading_plots import Row
from acne_lab.report.names import kind
from acne_lab.report.parts import NOT_RUN, Drawing, as_drawing, counted, score
from acne_lab.report.reading import estimated, known, points, probability
from acne_lab.report.slices import slices_facts

INFLATED = "inflated"  # a leaked arm is no better for being above the others
MARKS = {BETTER: "▲", WORSE: "▼", INFLATED: "△"}
FINEST_RANGE = 0.1  # of a column's shades: noise must not look like a difference


def grading_facts(study: Study) -> dict:
    """Everything that the templates name of graders."""
    return {
        "groups": [{"name": group, "rows": [_arm_row(study, arm) for arm in arms]} for group, arms in _grouped(study)],
        "overview": _overview(study),
        "is_compared": bool(study.compared.arms),
        "has_people": any(arm.people for arm in study.arms),
        "has_p": any(each.p is not None for each in study.compared.arms.values()),
        "has_seeds": len(study.seeds) > 1,
        "baseline": next((arm.label for arm in study.arms if study.is_baseline(arm)), study.baseline),
        "chance": 1 / len(study.classes) if study.classes else None,
        "commonest": next((arm.commonest_share for arm in study.arms if arm.commonest_share), None),
        "one_test_set": len({arm.test["num_test"] for arm in study.arms if "num_test" in arm.test}) == 1,
        "arms_drawing": _arms_drawing(study),
        "differences_drawing": _differences_drawing(study),
        "described": _described(study),
        "reliability_drawing": _reliability_drawing(study),
        "slices": slices_facts(study),
        "graders_drawing": _curves_drawing(study),
        "confusions": [
            {"name": group, "matrices": matrices}
            for group, arms in _grouped(study)
            if (matrices := [_confusion(arm) for arm in arms if arm.test.get("confusion")])
        ],
    }


def _grouped(study: Study) -> list[tuple[str, list[Arm]]]:
    """The arms of every backbone that is compared; all under "" where that is one."""
    groups = dict.fromkeys(arm.group for arm in study.arms)
    return [(group, [arm for arm in study.arms if arm.group == group]) for group in groups]


def _answering(study: Study) -> list[Arm]:
    """The arms that are not there to test the instrument."""
    return [arm for arm in study.arms if study.role(arm) not in ("null", "leaked")]


# -------------------------------------------------------------------------------- tables


def _arm_row(study: Study, arm: Arm) -> dict:
    each = study.compared.arms.get(arm.name)
    estimate = arm.estimate(PRIMARY)
    return {
        "name": arm.label,
        "tag": study.role(arm),
        "is_baseline": study.is_baseline(arm),
        "tested": bool(arm.test),
        "mean": score(estimate.mean if estimate else None),
        "half_width": f"± {score(estimate.half_width)}" if estimate and estimate.half_width is not None else "",
        "people": _to(arm.people.get(PRIMARY), "{:.3f}"),
        "num_test": known(arm.test.get("num_test")),
        "train_set": _train_set(study, arm),
        **_difference_cells(each, study.role(arm)),
    }


def _difference_cells(each: Contrast | None, role: str) -> dict:
    half = each.difference.half_width if each else None
    return {
        "difference": points(each.difference.mean) if each else "",
        "difference_half_width": f"± {100 * half:.1f}" if half is not None else "",
        "difference_people": _to(tuple(100 * end for end in each.people), "{:+.1f}") if each and each.people else "",
        "p": probability(each.p) if each else "",
        "p_holm": probability(each.p_holm) if each else "",
        **_verdict_cells(each, role),
        "seeds_needed": f"{each.seeds_needed:,}" if each and each.seeds_needed else "",
    }


def _verdict_cells(each: Contrast | None, role: str) -> dict:
    if each is None:
        return {"verdict": "", "mark": ""}
    verdict = INFLATED if role == "leaked" and each.verdict == BETTER else each.verdict
    return {"verdict": verdict, "mark": MARKS.get(verdict, "")}


def _train_set(study: Study, arm: Arm) -> str:
    """What the grader learned from as it says itself, or else what lies in the tables that its config names.

    The second may be more than it learned from, hence "reads": a grader also names the table that tests it.
    """
    if arm.train:
        return _by_source(arm.train["sources"]) if "sources" in arm.train else counted(arm.train["num_images"], "image")
    stage = study.named(arm.stages[0])
    tables = [other.table for other in study.inputs(stage) if other.table is not None] if stage is not None else []
    if not tables:
        return NOT_RUN if not arm.test else ""
    rows = pd.concat([table.select(split="train").rows for table in tables])
    return f"reads {_by_source(rows['source'].value_counts(sort=False).to_dict())}"


def _overview(study: Study) -> dict | None:
    """Balanced accuracy of every label with every backbone; None of one backbone."""
    if not study.backbones:
        return None
    cells = {(arm.label, arm.group): arm for arm in study.arms}
    labels = list(dict.fromkeys(label for label, _ in cells))
    means = [arm.estimate(PRIMARY).mean for arm in _answering(study) if arm.estimate(PRIMARY)]
    shade = _shades(means, higher_is_better=True)
    rows = []
    for label in labels:
        same = [cells.get((label, backbone)) for backbone in study.backbones]
        row = [_overview_cell(study, arm, shade) if arm is not None else None for arm in same]
        first = next(arm for arm in same if arm is not None)
        together = [arm.estimate(PRIMARY).mean for arm in same if arm is not None and arm.estimate(PRIMARY)]
        mean = float(np.mean(together)) if len(together) == len(study.backbones) else None
        rows.append(
            {
                "name": label,
                "tag": study.role(first),
                "is_baseline": study.is_baseline(first),
                "cells": row,
                "mean": score(mean) if mean is not None else "",
                **_difference_cells(study.compared.labels.get(label), study.role(first)),
            }
        )
    return {"backbones": study.backbones, "rows": rows, "is_compared": bool(study.compared.labels)}


def _overview_cell(study: Study, arm: Arm, shade: "Shade") -> dict:
    each, estimate = study.compared.arms.get(arm.name), arm.estimate(PRIMARY)
    return {
        "mean": score(estimate.mean if estimate else None),
        "share": shade(estimate.mean) if estimate else 0.0,
        "difference": points(each.difference.mean) if each else "",
        **_verdict_cells(each, study.role(arm)),
    }


def _described(study: Study) -> dict | None:
    """Every figure of every arm, with shades from the worst to the best of its column."""
    there = figures_of(study.arms)
    recalls = [(name, "recall<br>{}", name.removeprefix("recall.")) for name in there if name.startswith("recall.")]
    heads = [(name, kind(name).head, "") for name in there if kind(name).head]
    heads = [*heads[:1], *recalls, *heads[1:]]
    if not heads:
        return None
    estimates = {(arm.name, name): arm.estimate(name) for arm in study.arms for name, _, _ in heads}
    shades = {
        name: _shades(
            [each.mean for arm in _answering(study) if (each := estimates[arm.name, name]) is not None],
            higher_is_better=kind(name).higher_is_better,
        )
        for name, _, _ in heads
    }
    groups = []
    for group, arms in _grouped(study):
        rows = []
        for arm in arms:
            cells = []
            for name, _, _ in heads:
                each = estimates[arm.name, name]
                digits = kind(name).digits
                mean = "" if each is None else f"{each.mean:.{digits}f}"
                half = "" if each is None or each.half_width is None else f"± {each.half_width:.{digits}f}"
                cells.append({"mean": mean, "half_width": half, "share": shades[name](each.mean) if each else 0.0})
            if any(cell["mean"] for cell in cells):
                rows.append({"name": arm.label, "tag": study.role(arm), "cells": cells})
        groups.append({"name": group, "rows": rows})
    return {"heads": [{"head": head, "severity": severity} for _, head, severity in heads], "groups": groups}


class Shade:
    """From a figure to how dark its cell is, in [0, 1]: 1 is the best of its column."""

    def __init__(self, worst: float, best: float) -> None:
        self.worst, self.best = worst, best

    def __call__(self, value: float) -> float:
        return float(np.clip((value - self.worst) / (self.best - self.worst), 0, 1))


def _shades(values: Sequence[float], *, higher_is_better: bool) -> Shade:
    low, high = min(values, default=0.0), max(values, default=1.0)
    widen = max(FINEST_RANGE - (high - low), 0) / 2
    low, high = low - widen, high + widen
    return Shade(low, high) if higher_is_better else Shade(high, low)


def attribution_facts(study: Study) -> dict | None:
    """Of every grader that was explained where it looks, and pictures of it; None where none was."""
    rows = []
    for stage in study.explained:
        about = stage.metrics
        found = about["explain"].get("severity", {}).get("all", {})
        grader = study.made(about["grader"])
        cells = [explain.with_interval(found.get(name), "{:.2f}") for name in explain.COLUMNS]
        cells += [explain.with_interval(found.get(name), "{:.0%}") for name in explain.POINTING]
        rows.append(
            {
                "name": grader.name if grader is not None else about["grader"],
                "about": f"{counted(about['num_images'], 'photograph')} of the {about['split']} split",
                "cells": [*cells, (f"{found['area']:.0%}" if "area" in found else "", "")],
                "verdict": explain.verdict(found) if "hit_rate" in found else "",
                "pictures": [(path, path.stem.replace("_", " ")) for path in stage.samples],
            }
        )
    return {"heads": (explain.HEADS + explain.POINTING_HEADS)[1:], "rows": rows} if rows else None


def _confusion(arm: Arm) -> dict:
    rows = []
    for name, counts in zip(arm.classes, arm.test["confusion"]):
        total = sum(counts)
        cells = [(count, count / total if total else 0.0) for count in counts]
        rows.append((name, cells, total))
    return {"name": arm.label, "classes": arm.classes, "rows": rows}


# -------------------------------------------------------------------------------- drawings


def _arms_drawing(study: Study) -> Drawing | None:
    panels = {}
    for group, arms in _grouped(study):
        tested = [arm for arm in arms if arm.estimate(PRIMARY)]
        rows = [
            Row(
                arm.label,
                arm.estimate(PRIMARY).mean,
                by_seed=list(arm.values(PRIMARY).values()),
                half_width=arm.estimate(PRIMARY).half_width,
                people=arm.people.get(PRIMARY),
                recall=arm.test.get("recall", {}),
            )
            for arm in tested
        ]
        if rows:
            panels[group] = _highest_first(rows)
    if not panels:
        return None
    words = "; ".join(f"{arm.name} {estimated(arm.estimate(PRIMARY))}" for arm in study.arms if arm.estimate(PRIMARY))
    figure = plots.arms_figure(panels, classes=study.classes)
    return as_drawing(figure, "arms", f"Balanced accuracy of each arm: {words}")


def _differences_drawing(study: Study) -> Drawing | None:
    panels, shown = {}, _answering(study)
    labels = {arm.label for arm in shown}
    together = [_difference_row(name, each) for name, each in study.compared.labels.items() if name in labels]
    if together:
        panels["all backbones together"] = _highest_first(together)
    for group, arms in _grouped(study):
        compared = [(arm, study.compared.arms.get(arm.name)) for arm in arms if arm in shown]
        rows = [_difference_row(arm.label, each) for arm, each in compared if each is not None]
        if rows:
            panels[group] = _highest_first(rows)
    if not panels:
        return None
    baseline = next(arm.label for arm in study.arms if study.is_baseline(arm))
    figure = plots.differences_figure(panels, label=f"points of balanced accuracy above “{baseline}”")
    words = "; ".join(f"{name} {points(each.difference.mean)}" for name, each in study.compared.arms.items())
    return as_drawing(figure, "differences", f"Points of balanced accuracy above {baseline}: {words}")


def _difference_row(name: str, each: Contrast) -> Row:
    return Row(
        name,
        100 * each.difference.mean,
        by_seed=[100 * value for value in each.by_seed],
        half_width=None if each.difference.half_width is None else 100 * each.difference.half_width,
        people=tuple(100 * end for end in each.people) if each.people else None,
        verdict=each.verdict,
    )


def _highest_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.mean, reverse=True)


def _reliability_drawing(study: Study) -> Drawing | None:
    """Of every arm, all its seeds in one; a row a backbone."""
    groups, words = {}, []
    for group, arms in _grouped(study):
        cells = []
        for arm in arms:
            kept = [each for each in arm.predictions if each is not None]
            if not kept:
                continue
            right = np.concatenate([each.predicted == each.labels for each in kept])
            bins = reliability(np.concatenate([each.probabilities for each in kept]), right)
            error = arm.estimate("ece")
            cells.append((arm.label, bins, f"ECE {error.mean:.3f}" if error else ""))
            words.append(f"{arm.name} {estimated(error)}")
        if cells:
            groups[group] = cells
    if not groups:
        return None
    if study.backbones:
        figure = plots.reliability_matrix(groups)
    else:
        figure = plots.reliability_figure(next(iter(groups.values())))
    return as_drawing(figure, "reliability", f"Expected calibration error of each arm: {'; '.join(words)}")


def _curves_drawing(study: Study) -> Drawing | None:
    """Training curves by the name of the arm, the mean over its seeds; those of other graders by their stage."""
    frames = {stage.name: stage.curves for stage in study.graders if stage.curves is not None}
    arm_of = {stage: arm for arm in study.arms for stage in arm.stages}
    groups: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for stage, frame in frames.items():
        arm = arm_of.get(stage)
        group, label = (arm.group, arm.label) if arm is not None else ("", stage)
        groups.setdefault(group, {}).setdefault(label, []).append(frame)
    curves = {
        group: {
            label: same[0] if len(same) == 1 else pd.concat(same).groupby("epoch", as_index=False).mean()
            for label, same in labels.items()
        }
        for group, labels in groups.items()
    }
    if study.backbones:
        figure, names = plots.validation_figure(curves), list(curves)
    else:
        figure, names = plots.grader_figure(curves.get("", {})), list(curves.get("", {}))
    return as_drawing(figure, "graders", f"Training curves of the graders: {', '.join(names)}")


# -------------------------------------------------------------------------------- words


def _by_source(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{number:,} {source}" for source, number in counts.items())


def _to(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f"{form.format(ends[0])} to {form.format(ends[1])}".replace("-", "\N{MINUS SIGN}")
