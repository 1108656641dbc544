"""What the folder of a study says of its arms in metrics.json, to a logger, and at the end of its command."""

from collections.abc import Mapping

from acne_lab.report.arms import Arm
from acne_lab.report.collect import Study
from acne_lab.report.comparison import baselines

FIGURES = ("balanced_accuracy", "accuracy", "macro_f1", "num_test")


def without_baseline(study: Study) -> list[str]:
    """What to run for arms that nothing is compared with, as their baseline has no grader; [] where it has."""
    if len(study.arms) < 2:
        return []
    groups = dict.fromkeys(arm.group for arm in study.arms)
    if not (lacking := [group for group in groups if group not in baselines(study.arms, study.baseline)]):
        return []
    label = next((arm.label for arm in study.arms if arm.name == study.baseline), study.baseline)
    of = f" with {', '.join(lacking)}" if study.backbones else ""
    return [f"Nothing is compared{of}, as the baseline “{label}” was not run: add arm={label}."]


def arm_figures(study: Study) -> dict[str, dict]:
    """What metrics.json says of every arm, as its page has it: recomputed from the graders' predictions."""
    return {arm.name: summary(arm) for arm in study.arms}


def summary(arm: Arm) -> dict:
    """What metrics.json says of an arm: its figures; of several seeds the means, 95 % intervals and each seed's."""
    if len(arm.tests) == 1:
        return {name: arm.tests[0].get(name) for name in FIGURES}
    estimates = {name: arm.estimate(name) for name in FIGURES[:-1]}
    intervals = {name: each for name, each in estimates.items() if each is not None and each.half_width is not None}
    return {
        **{name: each.mean if each is not None else None for name, each in estimates.items()},
        "num_test": arm.test.get("num_test"),
        "interval": {name: [e.mean - e.half_width, e.mean + e.half_width] for name, e in intervals.items()},
        "by_seed": {name: [test.get(name) for test in arm.tests] for name in FIGURES},
    }


def numbers(figures: Mapping[str, dict]) -> dict[str, float]:
    """Those of `arm_figures` that a logger takes: {"real/accuracy": 0.8, ...}."""
    flat = {f"{arm}/{name}": of_arm[name] for arm, of_arm in figures.items() for name in FIGURES}
    return {name: value for name, value in flat.items() if value is not None}
