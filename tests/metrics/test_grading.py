import json

import numpy as np
import pytest
import torch
from graded import BANDS, CLASSES, drawn, said
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_specificity,
)

from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.grading import figures, grade_of_count, grading_report
from acne_lab.metrics.predictions import Predictions


def one_hot(predicted, num_classes=4):
    return torch.nn.functional.one_hot(torch.as_tensor(predicted), num_classes).float()


def test_against_hand_computation():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    predicted = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    report = grading_report(one_hot(predicted), labels, CLASSES)
    assert report["confusion"] == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert report["num_test"] == 8
    assert report["accuracy"] == pytest.approx(5 / 8)
    assert report["recall"] == pytest.approx({"mild": 3 / 4, "moderate": 1 / 2, "severe": 1, "very_severe": 0})
    assert report["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1 + 0) / 4)
    # F1 = 2 TP / (2 TP + FP + FN): mild 6/7, moderate 2/4, severe 2/4, very severe 0/1
    assert report["macro_f1"] == pytest.approx((6 / 7 + 1 / 2 + 1 / 2 + 0) / 4)


def test_is_plain_json():
    report = grading_report(one_hot([0, 1]), torch.tensor([0, 1]), CLASSES)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_absent_class_is_null_and_not_averaged():
    report = grading_report(one_hot([0, 1, 1]), torch.tensor([0, 1, 0]), CLASSES)
    assert report["recall"]["severe"] is None
    assert report["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert report["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_absent_class_that_is_predicted_costs_f1_but_has_no_recall():
    report = grading_report(one_hot([0, 3]), torch.tensor([0, 1]), CLASSES)
    assert report["recall"]["very_severe"] is None
    assert report["balanced_accuracy"] == pytest.approx((1 + 0) / 2)
    assert report["macro_f1"] == pytest.approx((1 + 0 + 0) / 3)


def test_everything_predicted_as_one_class_is_chance():
    report = grading_report(one_hot([1] * 8), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]), CLASSES)
    assert report["balanced_accuracy"] == pytest.approx(1 / 4)
    assert report["recall"] == {"mild": 0, "moderate": 1, "severe": 0, "very_severe": 0}
    assert report["macro_f1"] == pytest.approx((4 / 10) / 4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_against_torchmetrics_and_bounds(pairs):
    labels, predicted = torch.tensor(pairs).T
    labels, predicted = torch.cat([labels, torch.arange(4)]), torch.cat([predicted, torch.arange(4)])
    report = grading_report(one_hot(predicted), labels, CLASSES)
    reference = {"num_classes": 4, "average": "macro"}  # every class occurs, so the conventions agree
    assert report["balanced_accuracy"] == pytest.approx(multiclass_recall(predicted, labels, **reference).item())
    assert report["macro_f1"] == pytest.approx(multiclass_f1_score(predicted, labels, **reference).item())
    assert 0 <= report["accuracy"] <= 1


def test_errors_name_the_fix():
    good = one_hot([0, 1])
    with pytest.raises(ValueError, match="1 of 2 images have NaN"):
        grading_report(torch.where(torch.arange(2)[:, None] == 1, torch.nan, good), torch.tensor([0, 1]), CLASSES)
    with pytest.raises(ValueError, match="trained on other classes"):
        grading_report(one_hot([0, 1], 3), torch.tensor([0, 1]), CLASSES)
    with pytest.raises(ValueError, match="without a severity"):
        grading_report(good, torch.tensor([0, -1]), CLASSES)
    with pytest.raises(ValueError, match="no image"):
        grading_report(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), CLASSES)


# ---- against scikit-learn and by hand --------------------------------------------------------------------------


def random_grades(num, *, seed=0, num_classes=4):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(num_classes), num)
    labels = rng.integers(0, num_classes, num)
    labels[:num_classes] = np.arange(num_classes)
    return probabilities, labels


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 80), st.integers(0, 999), st.integers(2, 6))
def test_against_scikit_learn(num, seed, num_classes):
    """Every class occurs in the truth: the conventions agree."""
    probabilities, labels = random_grades(num, seed=seed, num_classes=num_classes)
    grades = probabilities.argmax(axis=1)
    report = grading_report(probabilities, labels, [f"c{i}" for i in range(num_classes)])
    macro = {"average": "macro", "zero_division": 0}
    assert report["confusion"] == sk.confusion_matrix(labels, grades).tolist()
    specificity = [sk.recall_score(labels != i, grades != i) for i in range(num_classes)]
    expected = {
        "accuracy": sk.accuracy_score(labels, grades),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, grades),
        "macro_precision": sk.precision_score(labels, grades, **macro),
        "macro_sensitivity": sk.recall_score(labels, grades, **macro),
        "macro_specificity": np.mean(specificity),
        "youden": sk.recall_score(labels, grades, **macro) + np.mean(specificity) - 1,
        "macro_f1": sk.f1_score(labels, grades, **macro),
        "kappa": sk.cohen_kappa_score(labels, grades, weights="quadratic"),
        "mae_grade": sk.mean_absolute_error(labels, grades),
    }
    assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert [*report["recall"].values()] == pytest.approx(sk.recall_score(labels, grades, average=None))


def test_specificity_and_youden_by_hand():
    report = grading_report(one_hot([0, 0, 0, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]), CLASSES)
    # TN / (TN + FP): mild 4/4, moderate 5/6, severe 5/7, very severe 7/7
    assert report["macro_specificity"] == pytest.approx((1 + 5 / 6 + 5 / 7 + 1) / 4)
    assert report["youden"] == pytest.approx((3 / 4 + 1 / 2 + 1 + 0) / 4 + (1 + 5 / 6 + 5 / 7 + 1) / 4 - 1)
    assert report["macro_precision"] == pytest.approx((3 / 3 + 1 / 2 + 1 / 3 + 0) / 4)
    assert report["mae_grade"] == pytest.approx(3 / 8)
    # Squared distances: 3 observed; by chance sum of n_i m_j (i - j)^2 / 8 with n = 4, 2, 1, 1 and m = 3, 2, 3, 0
    by_chance = (4 * (2 + 12) + 2 * (3 + 3) + 1 * (12 + 2) + 1 * (27 + 8 + 3)) / 8
    assert report["kappa"] == pytest.approx(1 - 3 / by_chance)


def test_where_torchmetrics_averages_otherwise():
    """A class that is predicted but never true: a recall of 0 in torchmetrics, none here."""
    labels, grades = torch.tensor([0, 1]), torch.tensor([0, 3])
    macro = {"num_classes": 4, "average": "macro"}
    report = grading_report(one_hot(grades), labels, CLASSES)
    assert multiclass_recall(grades, labels, **macro).item() == pytest.approx(1 / 3)
    assert report["macro_sensitivity"] == report["balanced_accuracy"] == pytest.approx(1 / 2)
    assert report["macro_specificity"] == 1  # of mild and moderate; torchmetrics adds that of very severe, 1/2
    assert multiclass_specificity(grades, labels, **macro).item() == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert report["macro_precision"] == pytest.approx(multiclass_precision(grades, labels, **macro).item())
    assert report["macro_f1"] == pytest.approx(multiclass_f1_score(grades, labels, **macro).item())


def test_calibration_error_by_hand():
    # Bins of 1/15: two images at .9 (one right), two at .62 (both right); |1 - 1.8| and |2 - 1.24| of 4 images.
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.38, 0.62]])
    report = grading_report(p, torch.tensor([0, 1, 0, 1]), CLASSES[:2])
    assert report["ece"] == pytest.approx((0.8 + 0.76) / 4, abs=1e-6)


def test_calibration_error_of_a_calibrated_grader():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20_000)
    labels = (p.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert grading_report(p, labels, CLASSES)["ece"] < 0.015
    surer = p**2 / (p**2).sum(axis=1, keepdims=True)
    assert grading_report(surer, labels, CLASSES)["ece"] > 0.1


def test_a_rounding_error_above_one_is_not_taken_for_logits():
    """torchmetrics puts anything beyond [0, 1] through a softmax."""
    p = torch.tensor([[1.0000001, 0.0], [0.0, 1.0]])
    assert grading_report(p, torch.tensor([0, 1]), CLASSES[:2])["ece"] == pytest.approx(0, abs=1e-6)


def test_decided_grades_may_differ_from_the_most_probable():
    p = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    report = grading_report(p, torch.tensor([0, 1]), CLASSES[:2], predicted=[0, 1])
    assert report["accuracy"] == 1
    assert report["ece"] == pytest.approx(0.1)  # still of the most probable: right half of the times, sure by .6


# ---- what is defined where -------------------------------------------------------------------------------------


def test_everything_predicted_as_one_class_agrees_by_chance():
    report = grading_report(one_hot([1] * 8), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]), CLASSES)
    assert report["kappa"] == 0
    assert report["youden"] == pytest.approx(0)


def test_one_image():
    right = grading_report(one_hot([2]), torch.tensor([2]), CLASSES)
    wrong = grading_report(one_hot([0]), torch.tensor([2]), CLASSES)
    assert right["accuracy"] == right["balanced_accuracy"] == right["macro_f1"] == 1
    assert wrong["accuracy"] == wrong["balanced_accuracy"] == wrong["macro_f1"] == 0
    assert (right["mae_grade"], wrong["mae_grade"]) == (0, 2)
    for report in (right, wrong):  # no other class that it could be kept apart from
        assert report["macro_specificity"] is None and report["youden"] is None
    assert right["kappa"] is None and wrong["kappa"] == 0
    assert [*right["recall"].values()] == [None, None, 1, None]


def test_numbers_that_are_no_probabilities():
    with pytest.raises(ValueError, match="1 of 2 images have NaN"):
        grading_report(np.array([[np.inf, 0.0], [1, 0]]), [0, 1], CLASSES[:2])
    for logits in ([2.0, -1.0], [0.4, 0.4], [3.0, 1.0]):
        with pytest.raises(ValueError, match="sum of 1"):
            grading_report(np.array([logits, [1, 0]]), [0, 1], CLASSES[:2])


# ---- counts ----------------------------------------------------------------------------------------------------


def test_counts_by_hand():
    one = said(
        [0, 1, 2, 3, 0],
        [0, 1, 1, 3, 0],
        subjects=["a", "a", "b", "c", "c"],
        lesions=[2, 10, 30, np.nan, 4],
        count=[4.0, 20.4, 26, 70, np.nan],
        count_from_grade=[3.0, 12, 12, 60, np.nan],
    )
    found = figures(one)
    assert (found["num_test"], found["num_subjects"], found["num_counted"]) == (5, 3, 4)
    assert found["mae_count"] == pytest.approx((2 + 10.4 + 4) / 3)
    assert found["rmse_count"] == pytest.approx(np.sqrt((2**2 + 10.4**2 + 4**2) / 3))
    assert found["count_from_grade"] == pytest.approx({"mae": (1 + 2 + 18) / 3, "rmse": np.sqrt((1 + 4 + 18**2) / 3)})
    # 4 mild, 20.4 -> 20 moderate, 26 severe, 70 very severe: the image without a count is left out
    assert found["grade_from_count"] == {"accuracy": 1, "balanced_accuracy": 1}
    assert found["accuracy"] == 4 / 5


def test_counts_against_scikit_learn():
    one = drawn(0)
    lesions, counts = one.counts("lesions"), one.counts("count")
    known = ~np.isnan(lesions) & ~np.isnan(counts)
    assert 0 < known.sum() < len(one)
    found = figures(one)
    assert found["mae_count"] == pytest.approx(sk.mean_absolute_error(lesions[known], counts[known]))
    assert found["rmse_count"] == pytest.approx(sk.root_mean_squared_error(lesions[known], counts[known]))


def test_counts_that_nobody_knows():
    found = figures(said([0, 1], [0, 1], lesions=[3, 9]))
    assert found["mae_count"] is None and found["rmse_count"] is None and found["num_counted"] == 2
    assert found["count_from_grade"] == {"mae": None, "rmse": None}
    assert found["grade_from_count"] == {"accuracy": None, "balanced_accuracy": None}
    found = figures(said([0, 1], [0, 1], count=[3.0, 9]))
    assert found["mae_count"] is None and found["num_counted"] == 0
    assert found["grade_from_count"]["accuracy"] == 1  # which needs no true count
    counted = said([0, 1], [0, 1], count=[3.0, 9])
    assert figures(Predictions(counted.frame, CLASSES))["grade_from_count"]["accuracy"] is None  # no bands


def test_grade_of_count():
    counts = np.array([-2.0, 0, 5, 5.4, 5.5, 20, 20.5, 50, 51, 400])
    assert grade_of_count(counts, BANDS).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_figures_are_plain_json_and_of_the_decision():
    one = drawn(0)
    assert json.loads(json.dumps(figures(one), allow_nan=False)) == figures(one)
    calmer = Predictions(one.frame, CLASSES, Decision(2.0, (1, 1, 1, 50)), BANDS)
    found, before = figures(calmer), figures(one)
    assert found["recall"]["very_severe"] == 1 > before["recall"]["very_severe"]
    assert found["ece"] != pytest.approx(before["ece"], abs=1e-3)
