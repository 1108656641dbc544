import math

import pytest
import torch

from acne_lab.grade.losses import cross_entropy, focal_loss, inverse_frequency


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    labels = torch.tensor([1, 0])
    assert cross_entropy(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    weights = torch.tensor([3.0, 1.0])
    weighted = cross_entropy(logits, labels, class_weights=weights)
    assert weighted.item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4)
    assert cross_entropy(logits, labels, class_weights=10 * weights).item() == pytest.approx(weighted.item())


def test_label_smoothing_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])
    smoothed = cross_entropy(logits, torch.tensor([1]), label_smoothing=0.2)  # target 0.1, 0.9
    assert smoothed.item() == pytest.approx(0.1 * math.log(4) + 0.9 * math.log(4 / 3))


def test_focal_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    labels = torch.tensor([1, 0])
    easy, hard = (1 / 4) ** 2 * math.log(4 / 3), (1 / 2) ** 2 * math.log(2)
    assert focal_loss(logits, labels).item() == pytest.approx((easy + hard) / 2)
    weights = torch.tensor([3.0, 1.0])
    assert focal_loss(logits, labels, class_weights=weights).item() == pytest.approx((easy + 3 * hard) / 4)


def test_focal_loss_without_focus_is_cross_entropy_and_stays_finite_where_all_is_certain():
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, weights = torch.arange(8) % 4, torch.tensor([1.0, 2.0, 3.0, 4.0])
    for class_weights in (None, weights):
        expected = cross_entropy(logits, labels, class_weights=class_weights)
        torch.testing.assert_close(focal_loss(logits, labels, class_weights=class_weights, gamma=0.0), expected)
    certain = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    focal_loss(certain, torch.tensor([0, 0])).backward()
    assert certain.grad.isfinite().all()


def test_inverse_frequency_gives_classes_equal_weight_in_all():
    counts = torch.tensor([513, 633, 182, 129])
    weights = inverse_frequency(counts)
    assert torch.allclose(weights * counts, torch.full((4,), 1457 / 4))
    weights = inverse_frequency(torch.tensor([4, 0, 2]))
    assert weights.tolist() == pytest.approx([6 / 4 / 2, 0, 6 / 2 / 2])
