import json
import time

import numpy as np
import pytest
from graded import BANDS, CLASSES, drawn, said
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from acne_lab.metrics.grading import confusion_figures, figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import (
    figures_with_intervals,
    holm,
    paired_bootstrap,
    permutation_test,
    seeds_needed,
    subject_bootstrap,
    t_interval,
)
from acne_lab.metrics.totals import flat

# ---- seeds -----------------------------------------------------------------------------------------------------


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


# ---- people: bootstrap -----------------------------------------------------------------------------------------


def test_an_interval_for_every_figure():
    given = drawn(0, num_people=80)
    found, numbers = subject_bootstrap([given]), flat(figures(given))
    assert found.keys() == {name for name, value in numbers.items() if value is not None}
    assert [name for name, each in found.items() if each.low is None] == ["ece"]
    for name, each in found.items():
        if name != "ece":
            assert each.low < numbers[name] < each.high and each.reason == "", name


def test_accuracy_of_people_with_one_image_is_binomial():
    """Against the textbook: p +- t_{n-1} sqrt(p (1 - p) / (n - 1))."""
    right = [i % 4 != 0 for i in range(400)]
    given = said([0] * 400, [0 if each else 1 for each in right])
    each = subject_bootstrap([given], num_resamples=20_000)["accuracy"]
    half = stats.t.ppf(0.975, 399) * np.sqrt(0.75 * 0.25 / 399)
    assert (each.low, each.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.004)


def test_people_are_resampled_not_images():
    """Nine images of one person are worth one: the interval is three times as wide as if they were nine people's."""
    grades = [0, 1, 0, 0, 1, 0, 0, 0] * 10
    alone = said([0] * 720, np.repeat(grades, 9).tolist())
    together = said([0] * 720, np.repeat(grades, 9).tolist(), subjects=[f"s{i // 9}" for i in range(720)])
    narrow, wide = (subject_bootstrap([each])["accuracy"] for each in (alone, together))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(3, rel=0.1)


def test_the_same_seed_the_same_interval():
    given = drawn(0)
    assert subject_bootstrap([given]) == subject_bootstrap([given]) != subject_bootstrap([given], seed=1)


def test_several_graders_are_averaged_on_the_same_people():
    graders = [drawn(0, grader=k, luck=0.2) for k in range(5)]
    found = subject_bootstrap(graders)["accuracy"]
    mean = np.mean([figures(each)["accuracy"] for each in graders])
    assert found.low < mean < found.high
    assert subject_bootstrap([graders[0]] * 3)["accuracy"].low == pytest.approx(
        subject_bootstrap(graders[:1])["accuracy"].low
    )


def test_where_people_cannot_say():
    one = subject_bootstrap([said([0, 1, 2], [0, 1, 1], subjects=["ann"] * 3)])
    assert {(each.low, each.high, each.reason) for each in one.values()} == {(None, None, "there is one person only")}
    perfect = subject_bootstrap([said([0, 1] * 4, [0, 1] * 4)])
    assert perfect["accuracy"].reason == "it is the same whoever is drawn" and perfect["accuracy"].low is None
    rare = subject_bootstrap([said([0, 0, 0, 0, 3], [0, 0, 0, 1, 3])])
    for name in ("balanced_accuracy", "youden", "recall.very_severe"):
        assert rare[name].low is None and rare[name].reason == "one person only is very_severe"
    assert rare["accuracy"].low < 0.8 and rare["recall.mild"].low is not None
    assert "recall.moderate" not in rare  # has no value either


def test_figures_with_intervals_are_plain_json():
    given = drawn(0)
    report = figures_with_intervals(given)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["interval"]["kappa"].keys() == {"low", "high"} and report["interval"]["ece"].keys() == {"reason"}
    assert {name: value for name, value in report.items() if name != "interval"} == figures(given)


def coverage(num_people, num_tests):
    """How often intervals hold the figures of all people there are."""
    everyone = flat(figures(drawn(10**6, num_people=20_000)))
    names = ("accuracy", "balanced_accuracy", "macro_f1", "youden", "kappa", "mae_grade", "mae_count")
    hits = {name: [] for name in names}
    for seed in range(num_tests):
        found = subject_bootstrap([drawn(seed, num_people=num_people, grader=1)], num_resamples=1000)
        for name in names:
            if name in found and found[name].low is not None:
                hits[name].append(found[name].low <= everyone[name] <= found[name].high)
    return {name: float(np.mean(each)) for name, each in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("num_people", "least"), [(40, 0.89), (150, 0.90)])
def test_intervals_hold_the_truth_as_often_as_they_say(num_people, least):
    found = coverage(num_people, 500)
    print(num_people, found)
    assert least <= min(found.values()) and max(found.values()) <= 0.98


def test_a_thousand_resamples_of_three_hundred_people_take_no_time():
    given = drawn(0, num_people=300)
    start = time.process_time()
    subject_bootstrap([given], num_resamples=1000)
    assert time.process_time() - start < 1  # 0.05 s


# ---- people: permutation ---------------------------------------------------------------------------------------


def test_permutation_by_hand():
    """Four people, three of whom the first arm alone grades rightly: 2 of 8 swaps of those are as uneven."""
    truth = [0, 0, 0, 0]
    found = permutation_test([said(truth, [0, 0, 0, 0])], [said(truth, [1, 1, 1, 0])], num_permutations=20_000)
    accuracy = found["accuracy"]
    assert (accuracy.difference, accuracy.num_images, accuracy.num_subjects) == (0.75, 4, 4)
    assert accuracy.p == pytest.approx(2 / 8, abs=0.01)


def test_it_is_the_sign_test_of_people_with_one_image():
    rng = np.random.default_rng(0)
    a, b = (rng.random(60) < share for share in (0.85, 0.6))
    arms = [said([0] * 60, np.where(right, 0, 1).tolist()) for right in (a, b)]
    found = permutation_test(arms[:1], arms[1:], num_permutations=20_000)["accuracy"]
    exact = stats.binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue
    assert found.p == pytest.approx(exact, abs=0.01)


def test_people_are_swapped_not_images():
    """One person with many images is one swap: p is 1 however many images speak for it."""
    arms = [said([0] * 50, [grade] * 50, subjects=["ann"] * 50) for grade in (0, 1)]
    assert permutation_test(arms[:1], arms[1:])["accuracy"].p == 1


def test_seeds_are_swapped_together():
    """Five graders that say the same of the same people are no more evidence than one."""
    a, b = drawn(0, num_people=60), drawn(0, num_people=60, grader=1, noise=0.9)
    once, often = permutation_test([a], [b])["accuracy"], permutation_test([a] * 5, [b] * 5)["accuracy"]
    assert often.difference == pytest.approx(once.difference)
    assert often.p == once.p < 0.5


def test_sides_and_identical_arms():
    a, b = drawn(0), drawn(0, grader=1, noise=0.9)
    there, back = permutation_test([a], [b]), permutation_test([b], [a])
    for name, each in there.items():
        assert each.difference == -back[name].difference
        assert 0 < each.p <= 1
    assert {each.p for each in permutation_test([a], [a]).values()} == {1.0}


def test_only_images_that_both_were_tested_on_count():
    a, b = drawn(0), drawn(0, grader=1)
    fewer, shuffled = a.where(np.arange(len(a)) >= 10), b.where(np.arange(len(b)) < len(b) - 5)
    shuffled = Predictions(shuffled.frame[::-1], CLASSES, bands=BANDS)
    found = permutation_test([fewer], [shuffled])["accuracy"]
    middle = np.arange(10, len(a) - 5)
    assert found.num_images == len(middle) and found.num_subjects == len(set(a.people[middle]))
    expected = figures(a.where(middle))["accuracy"] - figures(b.where(middle))["accuracy"]
    assert found.difference == pytest.approx(expected)


def test_arms_that_cannot_be_compared():
    a = drawn(0)
    with pytest.raises(ValueError, match="same seeds"):
        permutation_test([a, a], [a])
    other = Predictions(a.frame.assign(file_name="other " + a.frame["file_name"]), CLASSES)
    with pytest.raises(ValueError, match="different images"):
        permutation_test([a], [other])
    moved = a.frame.assign(severity=["mild" if k else "severe" for k in a.frame["severity"] == "severe"])
    with pytest.raises(ValueError, match="other severities or people"):
        permutation_test([a], [Predictions(moved, CLASSES)])
    renamed = a.frame.rename(columns={"p_severe": "p_grave"}).replace({"severity": {"severe": "grave"}})
    with pytest.raises(ValueError, match="other classes"):
        permutation_test([a], [Predictions(renamed, ("mild", "moderate", "grave", "very_severe"))])


def rejections(num_studies, *, noise, luck, num_seeds=5, num_people=60):
    """Share of studies of two arms in which p < .05, the t interval over seeds excludes 0, and both; by figure."""
    found = {name: [] for name in ("accuracy", "balanced_accuracy", "kappa")}
    for study in range(num_studies):
        a = [drawn(study, grader=1 + k, luck=luck, num_people=num_people) for k in range(num_seeds)]
        b = [drawn(study, grader=101 + k, luck=luck, noise=noise, num_people=num_people) for k in range(num_seeds)]
        people = permutation_test(a, b, num_permutations=999)
        numbers = [(figures(x), figures(y)) for x, y in zip(a, b)]
        for name, each in found.items():
            seeds = t_interval([x[name] - y[name] for x, y in numbers])
            each.append((people[name].p < 0.05, seeds.excludes_zero, people[name].p < 0.05 and seeds.excludes_zero))
    return {name: np.mean(each, axis=0).round(3).tolist() for name, each in found.items()}


@pytest.mark.slow
def test_arms_that_do_not_differ_are_told_apart_as_often_as_they_may():
    """Without luck of training a permutation is exact: p < .05 in 5 % of studies, up to ties."""
    found = rejections(400, noise=0.5, luck=0.0, num_seeds=1)
    print("the same arm twice:", found)
    assert max(people for people, _, _ in found.values()) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400)
    assert min(people for people, _, _ in found.values()) > 0.01


@pytest.mark.slow
def test_luck_of_training_needs_both():
    """Graders that differ by their luck do differ: that is no error of the permutation, and the t interval is there."""
    found = rejections(100, noise=0.5, luck=0.3)
    print("the same arm twice, with luck:", found)
    assert max(both for _, _, both in found.values()) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)


@pytest.mark.slow
def test_a_clear_difference_is_found():
    found = rejections(60, noise=1.0, luck=0.1)
    print("a noisier arm:", found)
    assert min(both for _, _, both in found.values()) > 0.8


# ---- people: paired intervals ----------------------------------------------------------------------------------


def test_paired_interval_is_that_of_the_differences():
    """Against Student's interval of the differences of people with one image each."""
    rng = np.random.default_rng(0)
    a, b = (rng.random(300) < share for share in (0.8, 0.7))
    arms = [said([0] * 300, np.where(right, 0, 1).tolist()) for right in (a, b)]
    found = paired_bootstrap(arms[:1], arms[1:], num_resamples=20_000)["accuracy"]
    expected = t_interval(a.astype(float) - b)
    ends = (expected.mean - expected.half_width, expected.mean + expected.half_width)
    assert (found.low, found.high) == pytest.approx(ends, abs=0.005)


def test_what_is_hard_for_both_is_not_in_a_paired_interval():
    a, b = drawn(0, num_people=80), drawn(0, num_people=80, grader=1)
    paired, alone = paired_bootstrap([a], [b])["kappa"], subject_bootstrap([a])["kappa"]
    assert paired.low < figures(a)["kappa"] - figures(b)["kappa"] < paired.high
    assert paired.high - paired.low < np.sqrt(2) * (alone.high - alone.low)
    same = paired_bootstrap([a], [a])["kappa"]
    assert same.low is None and same.reason == "it is the same whoever is drawn"


@pytest.mark.parametrize("compared", [permutation_test, paired_bootstrap])
def test_grades_only_are_the_same_figures(compared):
    a, b = drawn(0), drawn(0, grader=1)
    every, some = compared([a], [b]), compared([a], [b], grades_only=True)
    assert some.keys() == confusion_figures(np.eye(4)).keys()
    assert some == {name: every[name] for name in some}


# ---- many comparisons ------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.02]) == pytest.approx([1, 1, 0.06])
    assert holm([0.2]) == [0.2] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_helps(p_values):
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    for raw, new in zip(p_values, adjusted, strict=True):
        assert raw <= new <= min(1, max(len(p_values) * raw, max(adjusted)))
    assert min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_holm_rejects_as_its_steps_do():
    """Step down: the smallest against alpha / m, the next against alpha / (m - 1), until one is not rejected."""
    for seed in range(50):
        p = np.random.default_rng(seed).beta(0.3, 3, 6)
        rejected, ordered = set(), np.argsort(p)
        for step, i in enumerate(ordered):
            if p[i] > 0.05 / (6 - step):
                break
            rejected.add(int(i))
        assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= 0.05} == rejected


# ---- how many seeds --------------------------------------------------------------------------------------------


def test_seeds_by_textbook():
    """As power tables of the paired t-test have it, at .05 and .8: a mean of half a standard deviation takes 34."""
    for effect, num in ((0.5, 34), (1.0, 10), (0.2, 199)):
        assert seeds_needed([effect - np.sqrt(0.5), effect + np.sqrt(0.5)]) == num


def test_seeds_against_simulation():
    differences = [0.01, 0.04, 0.03, -0.01, 0.02]
    mean, spread = np.mean(differences), np.std(differences, ddof=1)
    num = seeds_needed(differences)
    drawn_again = np.random.default_rng(0).normal(mean, spread, size=(20_000, num))

    def power(n):
        return (stats.ttest_1samp(drawn_again[:, :n], 0, axis=1).pvalue < 0.05).mean()

    assert power(num) > 0.8 - 0.01 and power(num - 1) < 0.8 + 0.01
    assert seeds_needed([-each for each in differences]) == num
    assert seeds_needed(differences, power=0.95) > num


def test_seeds_of_nothing():
    assert seeds_needed([0.01, -0.01]) is None
    assert seeds_needed([0.0, 0.0, 0.0]) is None
    assert seeds_needed([0.02]) is None and seeds_needed([]) is None
    assert seeds_needed([0.02, 0.02, 0.02]) == 2
    assert seeds_needed([1e-6, 1.0, -1.0]) is None  # more than anyone trains
