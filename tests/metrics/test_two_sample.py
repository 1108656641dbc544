"""Distances and classifiers on sets that are the same, that differ a little, and that nobody would confuse."""

import numpy as np
import pytest
import torch
from graded import said
from scipy import stats

from acne_lab.metrics import distances
from acne_lab.metrics.statistics import expanded_tail, subject_bootstrap
from acne_lab.metrics.two_sample import (
    NUM_FOLDS,
    Sample,
    classifier_auc,
    difference_of_means,
    evened,
    halves,
    kernel_distance,
    mean_by_subject,
    ratio_by_subject,
    subject_folds,
)


def people(seed, tag, *, num=20, each=6, shift=0.0, dims=12):
    """Vectors of people who differ: a mean of their own, and noise."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(num), each)
    features = 0.7 * rng.normal(size=(num, dims))[whose] + rng.normal(size=(num * each, dims)) + shift
    return Sample(features, [f"{tag}{i}" for i in whose])


def test_distance_is_that_of_distances_where_everybody_has_one_vector():
    x, y = people(0, "a", each=1), people(1, "b", each=1, shift=0.3)
    plain = distances.kernel_distance(torch.from_numpy(x.features), torch.from_numpy(y.features))
    assert kernel_distance(x, y).value == pytest.approx(float(plain))


def test_pairs_within_a_subject_do_not_count():
    """Five copies of every vector change nothing; counted as independent they would make any two groups differ."""
    x, y = people(0, "a", each=1), people(1, "b", each=1)
    copies = [Sample(np.repeat(s.features, 5, axis=0), np.repeat(s.subjects, 5)) for s in (x, y)]
    assert kernel_distance(*copies).value == pytest.approx(kernel_distance(x, y).value)
    naive = distances.kernel_distance(*(torch.from_numpy(s.features) for s in copies))
    assert float(naive) > kernel_distance(x, y).value + 0.1


def test_sets_that_do_not_differ():
    """Over 40 pairs of groups: no bias, and nine intervals in ten, or more, cover what is true."""
    found = [
        (kernel_distance(*pair, seed=k).interval, classifier_auc(*pair, seed=k)[0].interval)
        for k, pair in enumerate(SAME)
    ]
    for figures, truth in zip(zip(*found), (0.0, 0.5)):
        values = np.array([f.value for f in figures])
        assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(len(values))
        assert np.mean([f.low <= truth <= f.high for f in figures]) >= 0.9


SAME = [(people(2 * k, "a"), people(2 * k + 1, "b")) for k in range(40)]


def test_sets_that_differ():
    x = people(0, "a")
    little, much = (people(1, "b", shift=shift) for shift in (0.3, 2.0))
    assert 0 < kernel_distance(x, little).value < kernel_distance(x, much).interval.low
    assert 0.55 < classifier_auc(x, little)[0].value < 0.95
    area, scores = classifier_auc(x, much)
    assert area.value > 0.99 and area.interval.low > 0.95 and area.interval.high <= 1
    assert scores[len(x.features) :].min() > scores[: len(x.features)].mean()


def test_names_do_not_matter():
    x, y = people(0, "a"), people(1, "b", shift=0.3)
    swapped = [Sample(s.features, [name.translate(str.maketrans("ab", "ba")) for name in s.subjects]) for s in (x, y)]
    assert kernel_distance(*swapped).value == pytest.approx(kernel_distance(x, y).value)
    assert classifier_auc(*swapped)[0].value == pytest.approx(classifier_auc(x, y)[0].value, abs=0.05)


def test_a_classifier_cannot_use_who_it_is():
    """Everybody is far from everybody else, and the two sets have the same people: nothing to tell them apart by."""
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(30, 40)) * 10
    x, y = (Sample(faces + rng.normal(size=faces.shape), [f"p{i}" for i in range(30)]) for _ in range(2))
    area, _ = classifier_auc(x, y)
    assert area.interval.low < 0.5 < area.interval.high


def excess(x, y, z, seed=0):
    """How much farther y is from x than z is, y and z being of the same people: distance and area."""
    shared = {"people": (x.subjects, [*y.subjects, *z.subjects]), "seed": seed}
    (distance, area), (other_distance, other_area) = (
        (kernel_distance(x, side, **shared), classifier_auc(x, side, num_repeats=1, **shared)[0]) for side in (y, z)
    )
    return distance.minus(other_distance).interval, area.minus(other_area).interval


def test_what_two_sets_of_the_same_people_share_cancels():
    """Over 30 times: y and z are the same people, who are far from those of x. No bias, and nine intervals in ten hold
    0, of a length that the common difference does not add to."""
    found = []
    for k in range(30):
        x, y = people(3 * k, "a"), people(3 * k + 1, "b", shift=0.4, each=12)
        even = np.arange(len(y.subjects)) % 2 == 0
        found.append(excess(x, y.rows(even), y.rows(~even), seed=k))
    for figures in zip(*found):
        values = np.array([f.value for f in figures])
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
        assert np.mean([f.low <= 0 <= f.high for f in figures]) >= 0.9
    distances_apart = kernel_distance(x, y.rows(even)).interval
    assert np.median([f.high - f.low for f, _ in found]) < distances_apart.high - distances_apart.low


def test_what_is_done_to_one_of_two_sets_of_the_same_people_remains():
    x, y = people(0, "a"), people(1, "b", shift=0.2, each=12)
    even = np.arange(len(y.subjects)) % 2 == 0
    changed = Sample(y.features[even] + 1.0, np.asarray(y.subjects)[even])
    for figure in excess(x, changed, y.rows(~even)):
        assert figure.low > 0


def test_folds_keep_subjects_whole_and_sides_even():
    sides = np.repeat([0, 1, 2], [13, 20, 7])
    fold = subject_folds(sides)
    assert set(fold) == set(range(NUM_FOLDS))
    for side in range(3):
        counts = np.bincount(fold[sides == side], minlength=NUM_FOLDS)
        assert counts.max() - counts.min() <= 1


def test_halves_share_nobody():
    sample = people(0, "a", num=11, each=4)
    first, second = halves(sample, seed=3)
    names = np.asarray(sample.subjects)
    assert not set(names[first]) & set(names[second])
    assert (first ^ second).all() and abs(first.sum() - second.sum()) <= 4


def test_a_busy_person_is_no_half_of_the_people():
    subjects = np.repeat([f"p{i}" for i in range(10)], [60] + [2] * 9)
    for seed in range(5):
        halved = halves(Sample(np.zeros((78, 1)), subjects), seed=seed)
        assert [len(set(subjects[half])) for half in halved] == [5, 5]


def test_nobody_has_more_than_three_times_the_median():
    subjects = np.repeat([f"p{i}" for i in range(10)], [60] + [2] * 9)
    kept = evened(subjects, np.random.default_rng(0))
    counts = np.unique(subjects[kept], return_counts=True)[1]
    assert counts.tolist() == [6] + [2] * 9 and (np.diff(kept) > 0).all()
    assert len(evened(subjects[60:], np.random.default_rng(0))) == 18
    assert len(evened([], np.random.default_rng(0))) == 0


def test_means_by_subject():
    same = mean_by_subject([1.0, 3.0, 5.0, 7.0], ["a", "a", "b", "b"])
    assert same.value == 4 and (same.low, same.high) == (2, 6)  # both are a, or both are b
    gap = difference_of_means([1.0, 1.0], [2.0, 4.0], ["a", "b"], ["c", "d"])
    assert gap.value == 2 and (gap.low, gap.high) == (1, 3)


def test_too_few_people_are_an_error():
    with pytest.raises(ValueError, match="lesions of 2 subjects are too few"):
        people(0, "a", num=2)


def test_few_people_have_intervals_as_wide_as_those_of_graders():
    """The expanded percentiles of `statistics`: of six people 2.57 * sqrt(6/5) deviations in place of 1.96."""
    values, people = np.arange(6.0), list("abcdef")
    found = ratio_by_subject(values, np.ones(6), people, seed=0)
    plain = np.nanquantile(found.resampled, [0.025, 0.975])
    assert found.interval.low < plain[0] and found.interval.high > plain[1]
    assert found.tail == expanded_tail(0.95, 6) == pytest.approx(stats.norm.sf(2.5706 * np.sqrt(6 / 5)), rel=1e-3)
    right = np.tile([1.0, 0.0, 1.0, 1.0], 3)
    names = [str(k // 2) for k in range(12)]
    truth = [0] * 12
    of_grader = subject_bootstrap([said(truth, [int(k == 0) for k in right], subjects=names)], seed=0)["accuracy"]
    mine = mean_by_subject(right, names, seed=0)
    assert (mine.low, mine.high) == pytest.approx((of_grader.low, of_grader.high), abs=0.02)
