import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acne_lab.data.acne04 import HAYASHI_BANDS
from acne_lab.data.collect import severity_of_count
from acne_lab.grade.counts import (
    BINS_PER_GRADE,
    band_log_probabilities,
    band_probabilities,
    between,
    count_distribution,
    count_intervals,
    require_counts,
    require_hayashi,
)

BANDS = dict(enumerate(HAYASHI_BANDS))


def test_the_distribution_of_a_count_by_hand():
    distribution = count_distribution(torch.tensor([10.0, 64.0], dtype=torch.float64), sigma=3.0)
    for count, row in zip((10, 64), distribution):
        gaussian = [math.exp(-((j - count) ** 2) / (2 * 3**2)) for j in range(1, 66)]
        np.testing.assert_allclose(row, [value / sum(gaussian) for value in gaussian], rtol=1e-9)


@given(count=st.integers(0, 434), sigma=st.floats(0.3, 10))
def test_it_peaks_at_the_count_and_falls_to_both_sides(count, sigma):
    (row,) = count_distribution(torch.tensor([float(count)]), sigma=sigma).tolist()
    peak = min(max(count, 1), 65) - 1  # 0 lesions share the bin of 1, and more than 65 that of 65
    assert row.index(max(row)) == peak
    assert row[: peak + 1] == sorted(row[: peak + 1])
    assert row[peak:] == sorted(row[peak:], reverse=True)
    assert sum(row) == pytest.approx(1, abs=1e-5)


@given(st.integers(1, 65))
def test_a_sharp_distribution_is_of_the_grade_of_its_count(count):
    sharp = count_distribution(torch.tensor([float(count)]), sigma=0.05)
    grades = band_log_probabilities(sharp.log()).exp()
    assert grades.argmax().item() == severity_of_count(count, BANDS)
    assert grades.max().item() == pytest.approx(1)
    assert BINS_PER_GRADE == [5, 15, 30, 15]


@given(st.integers(0, 200))
def test_a_count_lies_in_the_interval_of_its_grade(count):
    label = torch.tensor([severity_of_count(count, BANDS)])
    low, high = count_intervals(label, torch.tensor([float("nan")]))
    assert low <= math.sqrt(count) + 1e-6
    assert math.sqrt(count) <= high + 1e-6
    known = count_intervals(label, torch.tensor([float(count)]))
    assert known[0] == known[1] == pytest.approx(math.sqrt(count))


def test_band_probabilities_by_hand():
    def below(edge, root, spread):  # of a normal
        return (1 + math.erf((edge - root) / spread / math.sqrt(2))) / 2

    edges = [math.sqrt(count) for count in (5.5, 20.5, 50.5)]
    for root, spread in ((2.0, 0.5), (6.9, 1.5)):
        ends = [0, *(below(edge, root, spread) for edge in edges), 1]
        found = band_probabilities(torch.tensor([root], dtype=torch.float64), spread=torch.tensor(spread))
        np.testing.assert_allclose(found[0], np.diff(ends), rtol=1e-6, atol=1e-12)


@given(st.floats(-20, 40), st.floats(0.1, 5))
def test_band_probabilities_are_probabilities(root, spread):
    grades = band_probabilities(torch.tensor([root]), spread=torch.tensor(spread))[0]
    assert (grades >= 0).all()
    assert grades.sum().item() == pytest.approx(1, abs=1e-5)


@given(st.integers(0, 90))
def test_the_likeliest_band_is_that_of_the_count(count):
    grades = band_probabilities(torch.tensor([math.sqrt(count)]), spread=torch.tensor(0.1))
    assert grades.argmax().item() == severity_of_count(count, BANDS)


def test_between_by_hand():
    np.testing.assert_allclose(between(torch.tensor([[0.9, 0.5, 0.2]])), [[0.1, 0.4, 0.3, 0.2]], rtol=1e-6)


def test_counts_that_teach_nothing_are_refused():
    labels = torch.tensor([0, 1, 2, 3, 3])
    require_counts(labels, torch.tensor([0.0, 20.0, 21.0, 51.0, float("nan")]))  # ends of the bands
    require_counts(labels, torch.tensor([float("nan")] * 4 + [66.0]))
    with pytest.raises(ValueError, match=r"no training image has one: fill the column lesions .* choose head=softmax"):
        require_counts(labels, torch.full((5,), float("nan")))
    healthy_first = torch.tensor([0.0, 3.0, 12.0, 30.0, float("nan")])  # of healthy, mild, moderate, severe
    with pytest.raises(ValueError, match=r"75% of the counted training images have another grade than that: choose"):
        require_counts(labels, healthy_first)


def test_other_grades_than_hayashis_are_refused():
    require_hayashi(4, "ldl")
    with pytest.raises(ValueError, match=r"head=ldl .* 4 bands, the data has 3 classes: choose head=softmax"):
        require_hayashi(3, "ldl")
