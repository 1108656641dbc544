import numpy as np
import pytest
from scipy import stats

from acne_lab.metrics.statistics import t_interval


def test_interval_by_hand():
    estimate = t_interval([0.78, 0.80, 0.82, 0.79, 0.81])  # s = 0.0158, t_4 = 2.776
    assert estimate.mean == pytest.approx(0.80)
    assert estimate.half_width == pytest.approx(2.776 * 0.015811 / 5**0.5, rel=1e-3)


def test_it_is_that_of_a_t_test():
    """It excludes zero exactly where a two-sided t-test at the 5 % level rejects it."""
    rng = np.random.default_rng(0)
    samples = [rng.normal(shift, 1, 5) for shift in np.linspace(-3, 3, 60)]
    rejects = [stats.ttest_1samp(sample, 0).pvalue < 0.05 for sample in samples]
    assert [t_interval(sample).excludes_zero for sample in samples] == rejects
    assert 0 < sum(rejects) < 60


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    estimates = [t_interval(rng.normal(0.7, 0.02, 5)) for _ in range(4000)]
    covered = np.mean([abs(estimate.mean - 0.7) <= estimate.half_width for estimate in estimates])
    assert covered == pytest.approx(0.95, abs=0.015)  # four standard errors


def test_one_value_has_no_interval():
    assert t_interval([0.5]).half_width is None
    assert not t_interval([0.5]).excludes_zero
