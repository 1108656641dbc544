"""What one grader's test can say, and what several runs say together: intervals, and differences between two arms.

Two kinds of luck move a figure. Which people were collected: `subject_bootstrap` and `permutation_test` resample or
swap whole people, since images of one person are not independent; both take the trained graders as they are. How
training went: `t_interval` over seeds, which takes the test images as they are. A difference that is to hold for new
people and for another training has to pass both: of simulated arms that differ in nothing but the luck of training,
with five seeds and sixty people, the permutation alone tells 13 to 22 % apart at the 5 % level, Student's t 3 to 4 %,
both 2 to 3 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.totals import Totals, totals_by_person

NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 10_000
MOST_SEEDS = 100_000  # more than anyone trains
LEAST_PEOPLE = 8  # of a group: an interval over fewer is a matter of luck itself
ROUNDING = 1e-9  # differences that only rounding has made


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it may be off: the true one is in mean +- half_width; None: one value alone cannot say."""

    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Interval:
    """Ends of an interval; None where it cannot be told, with the reason."""

    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same images.

    Args:
        difference: of a figure, first arm minus second, mean over seeds.
        p: how often chance alone would make it as large, two-sided, not corrected for other comparisons.
        num_images: that both were tested on.
        num_subjects: people on these.
    """

    difference: float
    p: float
    num_images: int
    num_subjects: int


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Mean of independent, roughly normal values [N >= 1] with Student's interval, t_{N-1} s / sqrt(N) on each side.

    Of two arms' values, seed by seed, the differences make the paired interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 1:
        return Estimate(float(values[0]), None)
    t = stats.t.ppf((1 + confidence) / 2, df=len(values) - 1)
    return Estimate(float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values))))


def subject_bootstrap(
    runs: Sequence[Predictions],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """An interval for every figure (names as in `totals.flat`) of one grader, or of the mean over an arm's seeds.

    People are resampled with replacement (Efron 1979), and the interval lies between percentiles that are pushed
    outwards as Student's t is beyond the normal (the expanded percentile interval of Hesterberg, Am. Stat. 2015):
    plain ones are too narrow for few people. In simulations with people of one to four images 95 % intervals hold the
    truth in 91 to 96 % of tests of 40 to 300 people.

    There is none of the calibration error: a resample of images is always worse calibrated than the images, so that at
    300 people such intervals hold the truth in 84 %, and at 40 in 11 %.

    Args:
        runs: predictions of one grader, or of an arm's graders, one a seed; all resamples take the same people.
        num_resamples: each of as many people as there are.
        confidence: of the interval, in (0, 1).
        seed: of the resamples.
    """
    people = sorted(set().union(*(run.people for run in runs)))
    num = len(people)
    totals = [totals_by_person(run, people) for run in runs]
    point = _mean_figures([each.weighed(np.ones(num)) for each in totals])
    weights = _resampled_people(num, num_resamples, seed=seed)
    resampled = _mean_figures([each.weighed(weights) for each in totals])
    return {
        name: _interval(resampled[name], confidence, num, _why_none(name, totals))
        for name, value in point.items()
        if not np.isnan(value)
    }


def expanded_tail(confidence: float, num_people: int) -> float:
    """Share of resampled values beyond each end of an expanded percentile interval (Hesterberg 2015, section 5.3).

    Percentiles of resampled people are as narrow as if the normal held, and by sqrt((n - 1) / n) too narrow besides;
    this is less than (1 - confidence) / 2 by what Student's t makes of both. Of one person it is 0: nothing is known.
    """
    if num_people < 2:
        return 0.0
    t = stats.t.ppf((1 + confidence) / 2, df=num_people - 1)
    return float(stats.norm.sf(t * np.sqrt(num_people / (num_people - 1))))


def permutation_test(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    grades_only: bool = False,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Do two arms grade the same images equally well? A paired test of every figure, names as in `totals.flat`.

    Where it makes no difference which arm graded a person, the two arms' predictions of this person can be swapped, of
    all seeds together: p is the share of swaps, the given one among them, with a mean difference over seeds at least
    as large (Phipson and Smyth 2010, (k + 1) / (n + 1)).

    It takes the graders as trained: another training of the same two arms may turn out otherwise, see `t_interval`.
    Of 1,500 simulated pairs of graders that grade equally well, sixty people each, p < .05 in 3 to 5 %, the less the
    more often differences tie.

    Args:
        a, b: predictions of each arm, one a seed and in the same order. Only images that all were tested on count.
        grades_only: only the figures of `grading.confusion_figures`, in a tenth of the time.
        num_permutations: n, drawn at random.
        seed: of the drawing.

    Raises:
        ValueError: the arms have other numbers of seeds, other classes, no image in common, or disagree on the truth.
    """
    of_a, of_b, num_images, num_people = _paired(a, b, grades_only=grades_only)
    swaps = np.random.default_rng(seed).integers(0, 2, size=(num_permutations + 1, num_people)).astype(float)
    swaps[0] = 0  # the given one

    first, second = [], []
    for x, y in zip(of_a, of_b, strict=True):
        moved = swaps @ (y.values - x.values)
        first.append(Totals(x.values.sum(axis=0) + moved, x.classes))
        second.append(Totals(y.values.sum(axis=0) - moved, y.classes))
    of_first, of_second = _mean_figures(first), _mean_figures(second)
    found = {}
    for name in of_first:
        differences = of_first[name] - of_second[name]
        if np.isnan(differences[0]):
            continue
        as_large = ~(np.abs(differences) < np.abs(differences[0]) - ROUNDING)
        found[name] = Comparison(float(differences[0]), float(as_large.mean()), num_images, num_people)
    return found


def paired_bootstrap(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    grades_only: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """An interval for the difference of every figure between two arms, mean over seeds, had other people been tested.

    Both arms are tested on the same resampled people, so what makes people hard for both is not in the interval.

    Args: as of `permutation_test` and `subject_bootstrap`.

    Raises:
        ValueError: as `permutation_test`.
    """
    of_a, of_b, _, num = _paired(a, b, grades_only=grades_only)
    weights = _resampled_people(num, num_resamples, seed=seed)
    mine, theirs = (_mean_figures([each.weighed(weights) for each in totals]) for totals in (of_a, of_b))
    differences = {name: mine[name] - theirs[name] for name in mine}
    return {
        name: _interval(values, confidence, num, _why_none(name, [*of_a, *of_b]))
        for name, values in differences.items()
        if not np.isnan(values).all()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that the chance of any false alarm is kept (Holm 1979), in [0, 1]."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted.tolist()


def seeds_needed(differences: Sequence[float], *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many seeds a paired t-test needs to find a difference like this one in a share `power` of studies.

    The power of the two-sided test is that of the noncentral t distribution (Cohen 1988, chapter 2), with mean and
    standard deviation of `differences` taken for the true ones. Of few seeds both are rough, and so is this.

    Args:
        differences: [N] of two arms, seed by seed.
        power: in (alpha, 1).
        alpha: level of the test.

    Returns:
        None where fewer than two differences say nothing, where their mean is zero, or beyond MOST_SEEDS.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if len(differences) < 2 or abs(differences.mean()) < ROUNDING:
        return None
    if (spread := differences.std(ddof=1)) < ROUNDING:
        return 2
    effect = abs(differences.mean()) / spread

    def enough(num: int) -> bool:
        bound = stats.t.ppf(1 - alpha / 2, df=num - 1)
        shift = effect * np.sqrt(num)
        return stats.nct.sf(bound, num - 1, shift) + stats.nct.cdf(-bound, num - 1, shift) >= power

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def figures_with_intervals(predictions: Predictions, *, seed: int = 0) -> dict:
    """`grading.figures`, and under `interval` {figure: {low, high}} of `subject_bootstrap`, or {reason} for none."""
    found = subject_bootstrap([predictions], seed=seed)
    return {
        **figures(predictions),
        "interval": {
            name: {"reason": each.reason} if each.low is None else {"low": each.low, "high": each.high}
            for name, each in found.items()
        },
    }


def _resampled_people(num: int, num_resamples: int, *, seed: int) -> np.ndarray:
    """How often each of `num` people is drawn, [num_resamples, num]; as many draws as people, with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(float)


def _mean_figures(totals: Sequence[Totals]) -> dict[str, np.ndarray]:
    """Mean over runs of every figure; NaN where one of them has none."""
    every = [each.figures() for each in totals]
    return {name: np.mean([one[name] for one in every], axis=0) for name in every[0]}


def _paired(
    a: Sequence[Predictions], b: Sequence[Predictions], *, grades_only: bool
) -> tuple[list[Totals], list[Totals], int, int]:
    """Sums by person of both arms on the images that both were tested on; how many images and people these are."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} graders cannot be paired: train both arms with the same seeds")
    a, b = _on_common_images(a, b)
    people = sorted(set(a[0].people))
    of_a, of_b = ([totals_by_person(run, people) for run in runs] for runs in (a, b))
    if grades_only:
        of_a, of_b = ([each.of_grades() for each in totals] for totals in (of_a, of_b))
    return of_a, of_b, len(a[0]), len(people)


def _why_none(name: str, totals: Sequence[Totals]) -> str:
    """Why resampled people cannot say how far this figure may be off; "" where they can."""
    if len(totals[0].values) < 2:
        return "there is one person only"
    if name == "ece":
        return "a calibration error is larger in every resample than in what was resampled"
    alone = [each.classes[i] for each in totals for i in np.flatnonzero(each.num_people(name) == 1)]
    return f"one person only is {alone[0]}" if alone else ""


def _interval(values: np.ndarray, confidence: float, num_people: int, reason: str) -> Interval:
    """Expanded percentiles of resampled values [B], those that are defined."""
    if reason:
        return Interval(None, None, reason)
    tail = expanded_tail(confidence, num_people)
    low, high = np.nanquantile(values, [tail, 1 - tail])
    if high - low < ROUNDING:
        return Interval(None, None, "it is the same whoever is drawn")
    return Interval(float(low), float(high))


def _on_common_images(
    a: Sequence[Predictions], b: Sequence[Predictions]
) -> tuple[list[Predictions], list[Predictions]]:
    """Both cut to the images that all were tested on, in one order."""
    runs = [*a, *b]
    if len({run.classes for run in runs}) > 1:
        raise ValueError(f"graders of other classes cannot be compared: {sorted({run.classes for run in runs})}")
    names = [list(zip(run.frame["split"], run.frame["file_name"])) for run in runs]
    cut = runs
    if any(each != names[0] for each in names[1:]):
        if not (common := sorted(set(names[0]).intersection(*names[1:]))):
            raise ValueError("the two arms were tested on different images: test both on the same table")
        rows = [{name: i for i, name in enumerate(each)} for each in names]
        cut = [run.where([row[name] for name in common]) for run, row in zip(runs, rows, strict=True)]
    for other in cut[1:]:
        if (other.labels != cut[0].labels).any() or (other.people != cut[0].people).any():
            raise ValueError("the same images have other severities or people in the two arms: test both on one table")
    return cut[: len(a)], cut[len(a) :]
