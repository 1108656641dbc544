"""Losses of a grader, as pure functions: scalars, the mean over a batch.

Wherever there are `class_weights` [C] > 0, an image counts as much as its class weighs, and the mean is divided by the
sum of these weights: doubling all of them changes nothing. None, or equal weights, is the plain mean.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from acne_lab.grade.counts import band_log_probabilities, count_distribution, count_intervals


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy, a scalar.

    Args:
        logits: [B, C].
        labels: [B] int64 in 0..C-1.
        class_weights: [C] > 0.
        label_smoothing: in [0, 1), the share of the target that is spread over all classes (Szegedy et al.,
            CVPR 2016).
    """
    log_p = logits.log_softmax(dim=1)
    hard = F.nll_loss(log_p, labels, weight=class_weights)
    if label_smoothing == 0:
        return hard
    # F.cross_entropy to the bit, without its masks of labels to ignore, which torch.func cannot map over heads.
    weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights
    smooth = -(log_p * weights).sum(dim=1).sum() / weights[labels].sum()
    return label_smoothing / logits.shape[1] * smooth + (1 - label_smoothing) * hard


def focal_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Mean focal loss, a scalar: -(1 - p_t)^gamma log p_t (Lin et al., ICCV 2017, eq. 4 and 5).

    Args:
        logits: [B, C].
        labels: [B] int64 in 0..C-1.
        class_weights: [C] > 0.
        gamma: >= 0, how much less an image counts that is graded well; 0 is cross-entropy, 2 the paper's choice.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    # The slope of 0^gamma is infinite for gamma < 1.
    unsure = (1 - log_p.exp()).clamp(min=torch.finfo(logits.dtype).eps)
    losses = -(unsure**gamma) * log_p
    return _mean(losses, labels, class_weights)


def coral_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Mean over images of -sum_k [log s(l_k) 1{y > k} + log(1 - s(l_k)) 1{y <= k}], s the logistic function.

    Cao, Mirjalili and Raschka, Pattern Recognition Letters 140 (2020), with equal importance of all thresholds.
    That all l_k share their weights and differ in a bias alone is the head's business.

    Args:
        logits: l, [B, C-1]: of the grade being worse than k = 0..C-2.
        labels: y, [B] int64 in 0..C-1.
        class_weights: [C] > 0.
    """
    above = labels[:, None] > torch.arange(logits.shape[1], device=labels.device)
    losses = F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none").sum(dim=1)
    return _mean(losses, labels, class_weights)


def corn_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Mean over all questions asked: is an image that is worse than k-1 also worse than k?

    -1 / (sum_k |S_k|) sum_k sum_{i in S_k} [log s(l_ik) 1{y_i > k} + log(1 - s(l_ik)) 1{y_i <= k}] over the conditional
    sets S_k = {i: y_i > k-1}: Shi, Cao and Raschka, Pattern Analysis and Applications 26 (2023; arXiv 2111.08851).

    Args:
        logits: l, [B, C-1]: of the grade being worse than k = 0..C-2, given that it is worse than k-1.
        labels: y, [B] int64 in 0..C-1.
        class_weights: [C] > 0.
    """
    k = torch.arange(logits.shape[1], device=labels.device)
    asked, above = labels[:, None] >= k, labels[:, None] > k
    losses = F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none")
    weights = asked.to(logits.dtype) * (1 if class_weights is None else class_weights[labels][:, None])
    return (weights * losses).sum() / weights.sum()


def ldl_loss(
    grade_logits: Tensor,
    count_logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    class_weights: Tensor | None = None,
    sigma: float = 3.0,
    grade_share: float = 0.6,
) -> Tensor:
    """Grading and counting by label distributions (Wu et al., ICCV 2019), a mean over images of

        lambda / 2 [KL(t || p) + KL(t || B q)] + (1 - lambda) KL(d || q)

    with p the grades' softmax, q that of the counts 1..65, and B the sum over Hayashi's bands, which makes grades of
    counts. d is `count_distribution` of the true count and t = B d; where the count is unknown, t is the grade alone
    and the last term is left out: such an image says nothing of counting.

    Args:
        grade_logits: [B, 4].
        count_logits: [B, 65].
        labels: [B] int64 in 0..3.
        counts: [B] lesions, NaN where unknown.
        class_weights: [4] > 0.
        sigma: of d, in lesions.
        grade_share: lambda in [0, 1].
    """
    log_p, log_q = grade_logits.log_softmax(dim=1), count_logits.log_softmax(dim=1)
    known = counts.isfinite()
    d = count_distribution(counts.nan_to_num(1.0).to(log_q.dtype), sigma=sigma)
    one_hot = F.one_hot(labels, log_p.shape[1]).to(log_p.dtype)
    t = torch.where(known[:, None], band_log_probabilities(d.log()).exp(), one_hot)
    grading = (_kl(t, log_p) + _kl(t, band_log_probabilities(log_q))) / 2
    counting = torch.where(known, _kl(d, log_q), 0.0)
    return _mean(grade_share * grading + (1 - grade_share) * counting, labels, class_weights)


def root_count_loss(roots: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Mean squared distance of the square root of the count to what is known of it, see `count_intervals`.

    Counts scatter in proportion to their square root, so that an error of a root is about as likely whether there
    are few lesions or many (Anscombe, Biometrika 35, 1948): five more or less matter for 5, and little for 60. Where
    the count is unknown, the distance is that to the nearest count of the image's grade, and 0 within its band.

    Args:
        roots: [B], estimated square roots of the counts.
        labels: [B] int64 in 0..3.
        counts: [B] lesions, NaN where unknown.
        class_weights: [4] > 0.
    """
    low, high = count_intervals(labels, counts)
    return _mean((low - roots).relu() ** 2 + (roots - high).relu() ** 2, labels, class_weights)


def _kl(target: Tensor, log_p: Tensor) -> Tensor:
    """KL(target || p) of each row [B]; 0 log 0 = 0."""
    return (torch.xlogy(target, target) - target * log_p).sum(dim=1)


def _mean(losses: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    if class_weights is None:
        return losses.mean()
    weights = class_weights[labels]
    return (weights * losses).sum() / weights.sum()


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights [C] proportional to 1 / count and scaled to a mean of 1 over a random training image.

    A class without a training image gets weight 0: it cannot occur in a batch.
    """
    present = counts > 0
    weights = torch.where(present, counts.sum() / counts.clamp(min=1), 0.0)
    return weights / present.sum()
