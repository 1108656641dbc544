"""Whether the arms of a study can be told apart: paired differences to the baseline, and what may be concluded.

Two kinds of luck stand between a difference and a conclusion. The luck of training: other seeds would give other
graders, and Student's interval over the differences seed by seed says how far that goes. The luck of the people who
were tested: the permutation test swaps the two arms' answers person by person, and the bootstrap draws other people.
An arm is called better or worse only where both agree, after Holm's correction for all comparisons of the study. One
seed says nothing of the luck of training, so with one seed no arm is called either.

All of it is about one figure, balanced accuracy, which was chosen before any result was seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import (
    Estimate,
    holm,
    paired_bootstrap,
    permutation_test,
    seeds_needed,
    t_interval,
)
from acne_lab.report.arms import PRIMARY, Arm

ALPHA = 0.05
BETTER, WORSE, NOT_TOLD_APART = "better", "worse", "not told apart"
NOT_TESTED, ONE_SEED = "not tested", "one seed"


@dataclass(frozen=True)
class Contrast:
    """One arm against the baseline, on the images that both were tested on, seed by seed.

    Args:
        baseline: the name of the other arm.
        difference: mean over seeds of this arm's balanced accuracy minus the baseline's, with Student's interval.
        by_seed: the difference of every seed.
        people: 95 % interval of the mean over the people tested; None without predictions.
        p: of the permutation test; None without predictions.
        p_holm: p after Holm's correction for all comparisons of its family.
        seeds_needed: to find a difference of this size in four of five studies; None of one seed or of more than
            anyone would train.
        num_images: test images that both arms have; None without predictions.
        num_people: who are on them.
    """

    baseline: str
    difference: Estimate
    by_seed: tuple[float, ...]
    people: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    seeds_needed: int | None
    num_images: int | None
    num_people: int | None

    @property
    def verdict(self) -> str:
        """Better or worse need a corrected p below 0.05 and an interval over seeds without 0, so more than one seed."""
        if self.p_holm is None:
            return NOT_TESTED
        if self.difference.half_width is None:
            return ONE_SEED
        if self.p_holm >= ALPHA or not self.difference.excludes_zero:
            return NOT_TOLD_APART
        return BETTER if self.difference.mean > 0 else WORSE


@dataclass(frozen=True)
class Contrasts:
    """All that a study compares. Each of the two is a family of its own for Holm's correction.

    Args:
        arms: {name of an arm: it against the baseline of its backbone}; no baseline is in it.
        labels: {label of an arm: it against the baseline, all backbones together}; {} of fewer than two backbones.
    """

    arms: Mapping[str, Contrast]
    labels: Mapping[str, Contrast]


def compare(arms: Sequence[Arm], baseline: str) -> Contrasts:
    """Every tested arm with the baseline of its backbone, and with several backbones every label over all of them.

    Args:
        arms: of one study.
        baseline: name or label of the arm that the others are compared with.
    """
    bases = baselines(arms, baseline)
    pairs = {arm.name: (arm, bases[arm.group]) for arm in arms if arm.group in bases and arm is not bases[arm.group]}
    found = {name: _compared([pair]) for name, pair in pairs.items()}
    together = {}
    if len(bases) > 1:
        for label in dict.fromkeys(arm.label for arm, _ in pairs.values()):
            same = [pair for pair in pairs.values() if pair[0].label == label]
            if len(same) == len(bases):
                together[label] = _compared(same)
    return Contrasts(_corrected(found), _corrected(together))


def baselines(arms: Sequence[Arm], baseline: str) -> dict[str, Arm]:
    """{group: the arm that those of its group are compared with}; a group without one is left out."""
    label = next((arm.label for arm in arms if arm.name == baseline), baseline)
    return {arm.group: arm for arm in arms if arm.label == label}


def _compared(pairs: Sequence[tuple[Arm, Arm]]) -> Contrast | None:
    """The mean difference of the pairs, seed by seed; None where no seed has been tested in all of them."""
    scores = [(arm.values(PRIMARY), base.values(PRIMARY)) for arm, base in pairs]
    seeds = [seed for seed in pairs[0][0].seeds if all(seed in each for pair in scores for each in pair)]
    if not seeds:
        return None
    by_seed = tuple(float(np.mean([_difference(*pair, seed) for pair in pairs])) for seed in seeds)
    kept = [(arm.predicted(seed), base.predicted(seed)) for arm, base in pairs for seed in seeds]
    mine, theirs = zip(*kept)
    if any(each is None for each in (*mine, *theirs)):
        test, people = None, None
    else:
        test, people = (make(mine, theirs, grades_only=True)[PRIMARY] for make in (permutation_test, paired_bootstrap))
    return Contrast(
        baseline=pairs[0][1].name if len(pairs) == 1 else pairs[0][1].label,
        difference=t_interval(by_seed),
        by_seed=by_seed,
        people=None if people is None or people.low is None else (people.low, people.high),
        p=None if test is None else test.p,
        p_holm=None,
        seeds_needed=seeds_needed(by_seed),
        num_images=None if test is None else test.num_images,
        num_people=None if test is None else test.num_subjects,
    )


def _difference(arm: Arm, base: Arm, seed: int) -> float:
    """That of one seed, on the images that both were tested on: of a leaked arm these are fewer."""
    mine, theirs = arm.predicted(seed), base.predicted(seed)
    if mine is not None and theirs is not None and (common := _common_files(mine, theirs)):
        return _score(mine, common) - _score(theirs, common)
    return arm.values(PRIMARY)[seed] - base.values(PRIMARY)[seed]


def _common_files(mine: Predictions, theirs: Predictions) -> set[str]:
    """Those that both have; none where each has all of the other's, so that nothing needs to be cut."""
    first, second = set(mine.frame["file_name"]), set(theirs.frame["file_name"])
    return set() if first == second else first & second


def _score(run: Predictions, files: set[str]) -> float:
    return figures(run.where(run.frame["file_name"].isin(files).to_numpy()))[PRIMARY]


def _corrected(found: Mapping[str, Contrast | None]) -> dict[str, Contrast]:
    """Those that could be made, with Holm's p."""
    found = {name: each for name, each in found.items() if each is not None}
    tested = [name for name, each in found.items() if each.p is not None]
    adjusted = dict(zip(tested, holm([found[name].p for name in tested]))) if tested else {}
    return {name: replace(each, p_holm=adjusted.get(name)) for name, each in found.items()}
