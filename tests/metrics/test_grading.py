import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

from acne_lab.metrics.grading import grading_report

CLASSES = ("mild", "moderate", "severe", "very_severe")


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
