"""The arms of a study: ways to train a grader, and what the test split said of each of their graders.

The figures are computed here and now from the predictions that every grader has left, so a page never repeats what a
run once logged. A grader without predictions, of an older version or removed, keeps the figures that were noted, and
`Arm.num_noted` says how many of these an arm has.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import Estimate, subject_bootstrap, t_interval
from acne_lab.metrics.totals import flat
from acne_lab.report.names import KINDS

PRIMARY = "balanced_accuracy"  # the one figure that arms are tested on; the others describe


@dataclass(frozen=True)
class Arm:
    """One way to train the grader, and what the test split said of it: of one grader, or of one for each seed.

    Args:
        name: as the study calls it.
        label: the name without its backbone, where a study compares several.
        backbone: of its graders; "" where nobody has noted it.
        stages: names of the stages that trained and tested its graders.
        seeds: of each of them.
        tests: figures of each on the test split, as `acne_lab.metrics.grading` names them. {} while it is not tested.
        predictions: what each predicted of the images of the test split; None where it has left none.
        train: `metrics.json["train"]`: num_images and sources {source: count}. {} if it was not noted.
        lineage: `metrics.json["lineage"]`: known, protocol, leaked_share. {} if it was not noted.
        classes: severities from mild to very severe, the order of `confusion`.
        null: whose labels were dealt anew, so that they say nothing: "all" the training images', only those of the
            images "added" to the real ones, or "" where none were.
        is_leaked: it was trained on people of the test set on purpose, to show what that does.
    """

    name: str
    label: str
    backbone: str
    stages: tuple[str, ...]
    seeds: tuple[int, ...]
    tests: tuple[dict, ...]
    predictions: tuple[Predictions | None, ...]
    train: dict
    lineage: dict
    classes: tuple[str, ...]
    null: str = ""
    is_leaked: bool = False

    @cached_property
    def test(self) -> dict:
        """What its tests say together: figures are means over the graders, the confusion is their sum.

        A figure that one of them does not have is None, as is the recall of a severity without a test image.
        """
        tested = [test for test in self.tests if test]
        if len(tested) < 2:
            return tested[0] if tested else {}
        together = _mean(tested)
        if all("confusion" in test for test in tested):
            together["confusion"] = np.sum([test["confusion"] for test in tested], axis=0).tolist()
        return {**together, "num_test": tested[0].get("num_test")}

    @property
    def group(self) -> str:
        """The backbone where the study compares several, "" where it does not: arms of one group have one baseline."""
        return self.backbone if self.name != self.label else ""

    @property
    def num_tested(self) -> int:
        return sum(map(bool, self.tests))

    @property
    def num_noted(self) -> int:
        """How many of its tests are as noted by the run, for want of predictions to compute them from."""
        return sum(bool(test) and each is None for test, each in zip(self.tests, self.predictions, strict=True))

    @property
    def leaked_share(self) -> float:
        """Share in [0, 1] of the test images that show a person whom its graders have seen, as far as is known."""
        return self.lineage.get("leaked_share") or 0.0

    def values(self, figure: str) -> dict[int, float]:
        """{seed: the figure of its grader}, of those that have it."""
        found = {seed: flat(test).get(figure) for seed, test in zip(self.seeds, self.tests, strict=True)}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, figure: str) -> Estimate | None:
        """Mean of a figure over the graders that have it, with the 95 % interval; None where none has."""
        values = list(self.values(figure).values())
        return t_interval(values) if values else None

    def predicted(self, seed: int) -> Predictions | None:
        """What the grader of that seed predicted of the test split; None where it has left nothing."""
        return self.predictions[self.seeds.index(seed)]

    @cached_property
    def people(self) -> dict[str, tuple[float, float]]:
        """{figure: 95 % interval of its mean, had other people been tested}; {} unless all its tests are recomputed."""
        kept = [each for each in self.predictions if each is not None]
        found = subject_bootstrap(kept) if kept and not self.num_noted else {}
        return {name: (each.low, each.high) for name, each in found.items() if each.low is not None}

    @property
    def num_per_class(self) -> dict[str, int]:
        """Test images of each severity; {} where the arm has no confusion matrix."""
        confusion = next((test["confusion"] for test in self.tests if "confusion" in test), [])
        return {name: sum(row) for name, row in zip(self.classes, confusion)}

    @property
    def commonest_share(self) -> float | None:
        """Accuracy in [0, 1] of a grader that always answers the commonest severity of the test split."""
        counts = self.num_per_class.values()
        return max(counts) / sum(counts) if sum(counts) else None


def figures_of(arms: Iterable[Arm]) -> list[str]:
    """Names of the figures that at least one of the arms has, in the order of `KINDS`, recalls last."""
    there = {}
    for test in (test for arm in arms for test in arm.tests):
        there |= {name: None for name, value in flat(test).items() if value is not None}
    return [*(name for name in KINDS if name in there), *(name for name in there if name.startswith("recall."))]


def _mean(tests: Sequence[Mapping]) -> dict:
    """Means of the numbers that all the nested `tests` have a place for; None where one has none."""
    found = {}
    for name in tests[0]:
        values = [test.get(name) for test in tests]
        if all(isinstance(value, Mapping) for value in values):
            found[name] = _mean(values)
        elif all(value is None or isinstance(value, int | float) for value in values):
            found[name] = None if None in values else float(np.mean(values))
    return found
