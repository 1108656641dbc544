"""Can two sets of feature vectors be told apart? A distance and a classifier, with intervals over people.

Patches of one person are not independent, so everything here counts by subject: pairs within one subject are left out
of the distance, no subject is on both sides of a fold, and intervals resample subjects. Both figures are then ratios of
sums over pairs of subjects, and a resample only weighs these sums anew. What several runs or the seeds of an arm say
together is `statistics`'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from acne_lab.metrics.statistics import expanded_tail

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
NUM_FOLDS = 5
NUM_REPEATS = 4  # of the cross-validation: how subjects are dealt out moves the area
WEIGHT_DECAY = 1e-3  # of the classifier, whose inputs have unit length on average
MIN_SUBJECTS = 4  # on each side; an interval over fewer people says nothing
NONE = (-np.inf, np.inf)  # no limits
MOST_OF_ONE = 3  # medians: vectors of one subject beyond that say more of this subject than of the set


People = tuple[Sequence[str], Sequence[str]]  # names of the subjects of one side and of the other


@dataclass(frozen=True)
class Measured:
    """A figure and its 95 % interval over subjects."""

    value: float
    low: float
    high: float

    @classmethod
    def averaged(cls, estimates: Sequence["Measured"]) -> "Measured":
        """Means of the values and of the ends of the intervals.

        The result is not a 95 % interval: its ends say how wide the interval of one estimate is on average, and a mean
        of estimates on the same subjects strays less than one of them, by an amount that nobody knows.
        """
        return cls(*(float(np.mean(ends)) for ends in zip(*((e.value, e.low, e.high) for e in estimates))))


@dataclass(frozen=True, eq=False)
class Resampled:
    """A figure, and the same of resampled subjects.

    Args:
        value: the figure.
        resampled: [NUM_RESAMPLES], NaN where a resample has no pair of subjects.
        widening: of the interval around the value.
        limits: between which the figure lies.
        tail: share of the resampled beyond each end of the interval.
    """

    value: float
    resampled: np.ndarray
    widening: float = 1.0
    limits: tuple[float, float] = NONE
    tail: float = (1 - CONFIDENCE) / 2

    @property
    def interval(self) -> Measured:
        """The value between percentiles of the resampled ones (Efron 1979)."""
        ends = np.nanquantile(self.resampled, [self.tail, 1 - self.tail])
        low, high = np.clip(self.value + self.widening * (ends - self.value), *self.limits)
        return Measured(self.value, float(low), float(high))

    def minus(self, other: "Resampled") -> "Resampled":
        """The difference, resample by resample: both must have been made with the same `people` and `seed`.

        What both have in common, such as the very subjects they are compared with, then cancels out of the interval.
        """
        assert (self.widening, self.tail) == (other.widening, other.tail)
        return replace(self, value=self.value - other.value, resampled=self.resampled - other.resampled, limits=NONE)

    def over(self, other: "Resampled") -> "Resampled":
        """The ratio, likewise."""
        assert self.widening == other.widening == 1 and self.tail == other.tail
        with np.errstate(invalid="ignore", divide="ignore"):
            value, resampled = float(np.divide(self.value, other.value)), self.resampled / other.resampled
        return replace(self, value=value, resampled=resampled, limits=NONE)


@dataclass(frozen=True)
class Sample:
    """Feature vectors of one set.

    Args:
        features: float [N, C].
        subjects: whose each is, N names.

    Raises:
        ValueError: fewer than MIN_SUBJECTS subjects.
    """

    features: np.ndarray
    subjects: Sequence[str]

    def __post_init__(self) -> None:
        assert len(self.features) == len(self.subjects)
        if (there := len(set(self.subjects))) < MIN_SUBJECTS:
            raise ValueError(
                f"lesions of {there} subjects are too few to compare: it takes {MIN_SUBJECTS} on each side"
            )

    def rows(self, keep: np.ndarray) -> "Sample":
        """Those where `keep` (bool [N] or indices) says so."""
        return Sample(self.features[keep], np.asarray(self.subjects)[keep])


def kernel_distance(x: Sample, y: Sample, *, seed: int = 0, people: People | None = None) -> Resampled:
    """Squared MMD with the kernel (a.b/C + 1)^3, unbiased also where a subject has many vectors.

    It is `distances.kernel_distance` (Binkowski et al. 2018, section 4) over pairs of different subjects: two patches
    of one person are alike, and counting such pairs would make any two groups of people look apart.

    Args:
        x, y: the two sets, e.g. real and edited.
        seed: of the resamples.
        people: the subjects of both sides from whom is resampled, where more than those of x and y: two estimates
            with the same are compared by `Resampled.minus`.
    """
    group, sides = _numbered(x, y, people)
    num = len(sides)
    sizes = [np.bincount(part, minlength=num).astype(float) for part in (group[0], group[1])]
    a, b = (np.asarray(part.features, dtype=np.float64) for part in (x, y))

    def sums(p: np.ndarray, q: np.ndarray, of_p: np.ndarray, of_q: np.ndarray) -> np.ndarray:
        return _between_subjects((p @ q.T / p.shape[1] + 1) ** 3, of_p, of_q, num)

    others = 1 - np.eye(num)
    pairs = ((a, a, 0, 0, 1.0), (b, b, 1, 1, 1.0), (a, b, 0, 1, -2.0))
    terms = [
        (sums(p, q, group[i], group[j]) * others, np.outer(sizes[i], sizes[j]) * others, factor)
        for p, q, i, j, factor in pairs
    ]

    def distance(weights: np.ndarray) -> np.ndarray:
        return sum(factor * _ratio(weights, total, count) for total, count, factor in terms)

    return _resampled(distance, sides, seed)


def classifier_auc(
    x: Sample, y: Sample, *, seed: int = 0, num_repeats: int = NUM_REPEATS, people: People | None = None
) -> tuple[Resampled, np.ndarray]:
    """Area under the ROC curve of a classifier that tells y from x, on subjects that it has not learned from.

    L2-penalised logistic regression, cross-validated by subject; 0.5: it cannot, 1: at a glance. A pair counts where
    both of its members were scored by the same classifier: scores of two are not on one scale. The interval resamples
    subjects and is widened for what this leaves out, that the classifiers share most of what they have learned from
    (Nadeau and Bengio 2003, section 3: variance 1/k + n_test/n_train in place of 1/k).

    Args:
        x, y: the two sets.
        seed: of the folds and the resamples.
        num_repeats: of the cross-validation with other folds.
        people: as of `kernel_distance`.

    Returns:
        the area, and the mean scores [len(x) + len(y)] of the repeats, x first.
    """
    group, sides = _numbered(x, y, people)
    num = len(sides)
    subject = np.concatenate(group)
    label = np.repeat([0, 1], [len(group[0]), len(group[1])])
    features = np.concatenate([x.features, y.features]).astype(np.float64)
    score = np.zeros(len(label))
    wins, pairs = np.zeros((num, num)), np.zeros((num, num))
    for repeat in range(num_repeats):
        fold = subject_folds(sides, seed=seed + repeat)[subject]
        for number in range(NUM_FOLDS):
            held_out = fold == number
            found = _logistic_scores(features[~held_out], label[~held_out], features[held_out])
            score[held_out] += found / num_repeats
            low, high = label[held_out] == 0, label[held_out] == 1
            above = np.sign(found[high][:, None] - found[low][None]) / 2 + 0.5
            whose = subject[held_out]
            wins += _between_subjects(above, whose[high], whose[low], num)
            pairs += _between_subjects(np.ones_like(above), whose[high], whose[low], num)
    area = _resampled(lambda weights: _ratio(weights, wins, pairs), sides, seed)
    widening = float(np.sqrt(1 + NUM_FOLDS / (NUM_FOLDS - 1)))
    return Resampled(area.value, area.resampled, widening, limits=(0.0, 1.0)), score


def mean_by_subject(values: Sequence[float], subjects: Sequence[str], *, seed: int = 0) -> Measured:
    """Mean of values, with an interval that resamples subjects, see `ratio_by_subject`."""
    return ratio_by_subject(values, np.ones(len(values)), subjects, seed=seed).interval


def ratio_by_subject(over: Sequence[float], under: Sequence[float], subjects: Sequence[str], *, seed: int) -> Resampled:
    """Sum of `over` by sum of `under`, with resampled subjects; two of the same people may be subtracted.

    Its interval is as wide as those of graders' figures: `statistics.expanded_tail`.
    """
    _, group = np.unique(np.asarray(subjects), return_inverse=True)
    totals, counts = np.bincount(group, weights=over), np.bincount(group, weights=under)
    found = _resampled(lambda w: (w @ totals) / (w @ counts), np.zeros(len(totals), dtype=int), seed)
    return replace(found, tail=expanded_tail(CONFIDENCE, len(totals)))


def difference_of_means(
    x: Sequence[float], y: Sequence[float], of_x: Sequence[str], of_y: Sequence[str], *, seed: int = 0
) -> Measured:
    """Mean of y less mean of x, with an interval that resamples the subjects `of_x` and `of_y`."""
    _, group = np.unique(np.concatenate([np.asarray(of_x), np.asarray(of_y)]), return_inverse=True)
    num, parts = group.max() + 1, np.split(group, [len(of_x)])
    totals = [np.bincount(part, weights=values, minlength=num) for part, values in zip(parts, (x, y))]
    counts = [np.bincount(part, minlength=num) for part in parts]

    def difference(weights: np.ndarray) -> np.ndarray:
        return weights @ totals[1] / (weights @ counts[1]) - weights @ totals[0] / (weights @ counts[0])

    return _resampled(difference, _sides(parts, num), seed).interval


def halves(sample: Sample, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint halves of the subjects, as masks bool [N]: what any figure says of two sets that do not differ.

    Subjects are dealt out in snake order (1 2 2 1), those with the most vectors first: both halves have as many people,
    and about as many vectors. `evened` first, or the half with one busy person is that person.
    """
    names, group, counts = np.unique(np.asarray(sample.subjects), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    second = np.zeros(len(names), dtype=bool)
    second[order] = np.isin(np.arange(len(names)) % 4, (1, 2))
    return ~second[group], second[group]


def evened(subjects: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Indices of the vectors to keep, in order: of nobody more than MOST_OF_ONE times as many as of the median subject.

    Args:
        subjects: whose each vector is, N names.
        rng: chooses which of a busy subject's stay.
    """
    _, group, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    most = int(np.ceil(MOST_OF_ONE * np.median(counts))) if len(counts) else 0
    keep = np.zeros(len(group), dtype=bool)
    for subject in range(len(counts)):
        keep[rng.permutation(np.flatnonzero(group == subject))[:most]] = True
    return np.flatnonzero(keep)


def subject_folds(sides: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """A fold 0 .. NUM_FOLDS - 1 for each subject, in turn within those that are on one side, the other, or both."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(sides), dtype=int)
    for side in np.unique(sides):
        there = np.flatnonzero(sides == side)
        fold[rng.permutation(there)] = np.arange(len(there)) % NUM_FOLDS
    return fold


def _logistic_scores(features: np.ndarray, label: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Scores of `others` by a logistic regression on `features`; both classes weigh the same."""
    mean, scale = features.mean(axis=0), features.std(axis=0) * np.sqrt(features.shape[1])
    scale[scale < 1e-12] = np.inf  # a feature that never varies says nothing
    x, others = (features - mean) / scale, (others - mean) / scale
    if len(x) < x.shape[1]:  # the best weights are a sum of the vectors learned from: turn into their span
        squares, turn = np.linalg.eigh(x @ x.T)
        there = squares > 1e-9 * squares[-1]
        span = x.T @ (turn[:, there] / np.sqrt(squares[there]))
        x, others = x @ span, others @ span
    sign = np.where(label == 1, 1.0, -1.0)
    weight = np.where(label == 1, 0.5 / label.sum(), 0.5 / (1 - label).sum())

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        margin = sign * (x @ w + b)
        slope = -weight * sign * expit(-margin)
        value = weight @ np.logaddexp(0, -margin) + WEIGHT_DECAY / 2 * w @ w
        return value, np.append(x.T @ slope + WEIGHT_DECAY * w, slope.sum())

    best = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return others @ best[:-1] + best[-1]


def _numbered(x: Sample, y: Sample, people: People | None) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Subjects of both as numbers from 0 on, and of each number its side, see `_sides`."""
    first, second = (sorted(set(side)) for side in people or (x.subjects, y.subjects))
    names = np.array(sorted({*first, *second}))
    assert set(x.subjects) <= set(first) and set(y.subjects) <= set(second)
    sides = _sides([np.searchsorted(names, side) for side in (first, second)], len(names))
    return tuple(np.searchsorted(names, np.asarray(sample.subjects)) for sample in (x, y)), sides


def _sides(group: Sequence[np.ndarray], num: int) -> np.ndarray:
    """Of each subject: 0 in the first set only, 1 in the second only, 2 in both. A resample keeps these numbers."""
    first, second = (np.isin(np.arange(num), part) for part in group)
    return np.where(first & second, 2, np.where(second, 1, 0))


def _between_subjects(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, num: int) -> np.ndarray:
    """Sums of values [N, M] over the subjects of rows and columns: [num, num]."""
    by_row = np.zeros((num, values.shape[1]))
    np.add.at(by_row, rows, values)
    total = np.zeros((num, num))
    np.add.at(total.T, columns, by_row.T)
    return total


def _ratio(weights: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """w' total w / w' count w for each row of weights [B, S]."""
    return ((weights @ total) * weights).sum(axis=1) / ((weights @ count) * weights).sum(axis=1)


def _resampled(figure: Callable[[np.ndarray], np.ndarray], sides: np.ndarray, seed: int) -> Resampled:
    """`figure` of weights [B, S]: for all subjects once, and for resamples of each side."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((NUM_RESAMPLES, len(sides)))
    for side in np.unique(sides):
        there = np.flatnonzero(sides == side)
        weights[:, there] = rng.multinomial(len(there), np.full(len(there), 1 / len(there)), size=NUM_RESAMPLES)
    with np.errstate(invalid="ignore"):
        return Resampled(float(figure(np.ones((1, len(sides))))[0]), figure(weights))
