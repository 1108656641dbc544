"""What a study's folder says of its arms."""

import pytest
from fake_study import StudyWriter

from acne_lab.jobs.study_figures import FIGURES, arm_figures, numbers, summary
from acne_lab.report.collect import read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    writer = StudyWriter(tmp_path_factory.mktemp("two"))
    writer.prepare()
    writer.seeds = [0, 1]
    for arm in ("real", "real", "edited", "edited"):
        writer.grader(arm, skill=0.6)
    return read_study(writer.write(), writer.runs_dir)


def test_figures_of_seeds_are_means_with_intervals(study):
    figures = arm_figures(study)
    assert list(figures) == ["real", "edited"]
    real, arm = figures["real"], study.arms[0]
    first, second = (test["accuracy"] for test in arm.tests)
    assert first != second
    assert real["accuracy"] == pytest.approx((first + second) / 2)
    half = 12.706 * abs(first - second) / 2  # t_1 x s / sqrt(2)
    assert real["interval"]["accuracy"] == pytest.approx([real["accuracy"] - half, real["accuracy"] + half], abs=1e-4)
    assert real["by_seed"]["accuracy"] == [first, second]
    assert real["num_test"] == 75
    assert set(numbers(figures)) == {f"{arm}/{name}" for arm in figures for name in FIGURES}


def test_figures_of_one_seed_are_its_own(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.prepare()
    writer.grader("real", skill=0.6)
    [arm] = read_study(writer.write(), writer.runs_dir).arms
    assert summary(arm) == {name: arm.tests[0][name] for name in FIGURES}
