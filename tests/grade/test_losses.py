import itertools
import math

import pytest
import torch

from acne_lab.grade.losses import (
    coral_loss,
    corn_loss,
    cross_entropy,
    focal_loss,
    inverse_frequency,
    ldl_loss,
    root_count_loss,
)

NAN = float("nan")
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


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
    for gamma in (0.5, 2.0):
        certain.grad = None
        focal_loss(certain, torch.tensor([0, 0]), gamma=gamma).backward()
        assert certain.grad.isfinite().all()


def test_inverse_frequency_gives_classes_equal_weight_in_all():
    counts = torch.tensor([513, 633, 182, 129])
    weights = inverse_frequency(counts)
    assert torch.allclose(weights * counts, torch.full((4,), 1457 / 4))
    weights = inverse_frequency(torch.tensor([4, 0, 2]))
    assert weights.tolist() == pytest.approx([6 / 4 / 2, 0, 6 / 2 / 2])


def test_coral_by_hand():
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0], [-LN3, 0.0]])  # P(y > k) is 3/4 or 1/4, then 1/2
    labels = torch.tensor([1, 0, 2])
    losses = [(LN4 - LN3) + LN2, LN4 + LN2, LN4 + LN2]  # of answers yes and no; no and no; yes and yes
    assert coral_loss(logits, labels).item() == pytest.approx(sum(losses) / 3)
    weighted = coral_loss(logits, labels, class_weights=torch.tensor([3.0, 1.0, 2.0])).item()
    assert weighted == pytest.approx((losses[0] + 3 * losses[1] + 2 * losses[2]) / 6)


def test_corn_by_hand():
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0], [-LN3, 0.0]])
    labels = torch.tensor([1, 0, 2])
    first, second, third = (LN4 - LN3) + LN2, LN4, LN4 + LN2  # the mildest is not asked the second question
    assert corn_loss(logits, labels).item() == pytest.approx((first + second + third) / 5)
    weighted = corn_loss(logits, labels, class_weights=torch.tensor([3.0, 1.0, 2.0])).item()
    assert weighted == pytest.approx((first + 3 * second + 2 * third) / (2 + 3 * 1 + 2 * 2))


def test_corn_of_the_mildest_alone_asks_one_question():
    logits = torch.tensor([[0.0, 5.0, NAN]]).nan_to_num(-7.0).requires_grad_()
    corn_loss(logits, torch.tensor([0])).backward()
    assert logits.grad[0].tolist() == [0.5, 0, 0]


def softmax(logits):
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def kl(target, given):
    return sum(t * math.log(t / g) for t, g in zip(target, given) if t > 0)


def bands(distribution):
    """Hayashi's, of the counts 1..65."""
    ends = (0, 5, 20, 50, 65)
    return [sum(distribution[low:high]) for low, high in itertools.pairwise(ends)]


def ldl_by_hand(grade_logits, count_logits, label, count):
    p, q = softmax(grade_logits), softmax(count_logits)
    if count is None:
        t = [float(grade == label) for grade in range(4)]
        return 0.6 / 2 * (kl(t, p) + kl(t, bands(q)))
    d = [math.exp(-((j - count) ** 2) / 18) for j in range(1, 66)]
    d = [value / sum(d) for value in d]
    return 0.6 / 2 * (kl(bands(d), p) + kl(bands(d), bands(q))) + 0.4 * kl(d, q)


def test_ldl_by_hand():
    grades = [[0.3, -0.1, 0.0, 0.2], [0.0, 1.0, 2.0, -1.0], [0.5, 0.5, 0.0, 0.0]]
    lesions = [[math.sin(j) for j in range(65)], [j / 20 for j in range(65)], [math.cos(j) for j in range(65)]]
    labels, counts = [1, 2, 0], [18, None, 3]
    given = (
        torch.tensor(grades, dtype=torch.float64),
        torch.tensor(lesions, dtype=torch.float64),
        torch.tensor(labels),
        torch.tensor([18.0, NAN, 3.0]),
    )
    losses = [ldl_by_hand(*image) for image in zip(grades, lesions, labels, counts)]
    assert ldl_loss(*given).item() == pytest.approx(sum(losses) / 3)
    weighted = ldl_loss(*given, class_weights=torch.tensor([3.0, 1.0, 2.0, 7.0], dtype=torch.float64)).item()
    assert weighted == pytest.approx((losses[0] + 2 * losses[1] + 3 * losses[2]) / 6)


def test_ldl_is_zero_where_both_branches_say_the_target():
    d = [math.exp(-((j - 19) ** 2) / 18) for j in range(1, 66)]  # some of it beyond the band of moderate
    grades, counts = (torch.tensor([each], dtype=torch.float64).log() for each in (bands(d), d))
    assert ldl_loss(grades, counts, torch.tensor([1]), torch.tensor([19.0])).item() == pytest.approx(0, abs=1e-12)
    assert ldl_loss(grades + 1, counts, torch.tensor([1]), torch.tensor([18.0])) > 0.01


def test_an_uncounted_image_teaches_ldl_its_grade_alone():
    """No gradient between counts of one band, and none at all where the grade has no share in the loss."""
    counts = torch.zeros(1, 65, requires_grad=True)
    image = torch.zeros(1, 4), counts, torch.tensor([1]), torch.tensor([NAN])
    ldl_loss(*image).backward()
    moderate, others = counts.grad[0, 5:20], torch.cat([counts.grad[0, :5], counts.grad[0, 20:]])
    assert (moderate < 0).all() and (others > 0).all()
    assert moderate.unique().numel() == others.unique().numel() == 1
    assert ldl_loss(*image, grade_share=0.0) == 0


def test_root_count_by_hand():
    roots = torch.tensor([3.0, 2.0, 3.0, 5.0, 9.0, 6.0], requires_grad=True)
    labels = torch.tensor([1, 0, 1, 1, 3, 3])
    counts = torch.tensor([16.0, NAN, NAN, NAN, NAN, NAN])
    # 4 - 3; 2 is in 0..sqrt(5); 3 in sqrt(6)..sqrt(20); 5 is above it; 9 is above sqrt(51), and 6 below it.
    errors = [1.0, 0.0, 0.0, 5 - math.sqrt(20), 0.0, math.sqrt(51) - 6]
    loss = root_count_loss(roots, labels, counts)
    assert loss.item() == pytest.approx(sum(error**2 for error in errors) / 6)
    weighted = root_count_loss(roots, labels, counts, class_weights=torch.tensor([1.0, 2.0, 1.0, 5.0])).item()
    assert weighted == pytest.approx((2 * (errors[0] ** 2 + errors[3] ** 2) + 5 * errors[5] ** 2) / 17)
    loss.backward()
    assert roots.grad.isfinite().all()
    assert root_count_loss(torch.tensor([0.0]), torch.tensor([0]), torch.tensor([0.0])) == 0  # no lesions


def two_branches(outputs, labels, counts, **given):
    return ldl_loss(outputs[:, :4], outputs[:, 4:], labels, counts, **given)


LOSSES = {
    "softmax": (4, lambda outputs, labels, counts, **given: cross_entropy(outputs, labels, **given)),
    "focal": (4, lambda outputs, labels, counts, **given: focal_loss(outputs, labels, **given)),
    "coral": (3, lambda outputs, labels, counts, **given: coral_loss(outputs, labels, **given)),
    "corn": (3, lambda outputs, labels, counts, **given: corn_loss(outputs, labels, **given)),
    "ldl": (69, two_branches),
    "count": (1, lambda outputs, *image, **given: root_count_loss(4 + outputs[:, 0], *image, **given)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_weights(name):
    size, loss = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, size, generator=generator, dtype=torch.float64, requires_grad=True)
    image = torch.tensor([0, 1, 2, 3, 1, 2]), torch.tensor([0.0, 7.0, 33.0, 80.0, NAN, NAN], dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, *image, class_weights=weights), (outputs,))
    weighted, plain = loss(outputs, *image, class_weights=weights), loss(outputs, *image)
    torch.testing.assert_close(loss(outputs, *image, class_weights=3 * weights), weighted)
    torch.testing.assert_close(loss(outputs, *image, class_weights=torch.ones(4, dtype=torch.float64)), plain)
    assert abs(weighted - plain) > 1e-3
