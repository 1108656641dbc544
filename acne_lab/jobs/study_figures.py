"""What the folder of a study says of its arms in metrics.json and to a logger."""

from collections.abc import Mapping

from acne_lab.report.arms import Arm
from acne_lab.report.collect import Study

FIGURES = ("balanced_accuracy", "accuracy", "macro_f1", "num_test")


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
