"""Losses of a grader, as pure functions of logits [B, C] and labels [B]."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
        class_weights: [C] > 0, or None for equal weights. The mean is weighted too, so that doubling every
            weight changes nothing.
        label_smoothing: in [0, 1), the share of the target that is spread over all classes (Szegedy et al.,
            CVPR 2016).
    """
    return F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=label_smoothing)


def focal_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Mean focal loss, a scalar: -(1 - p_t)^gamma log p_t (Lin et al., ICCV 2017, eq. 4 and 5).

    Args:
        logits: [B, C].
        labels: [B] int64 in 0..C-1.
        class_weights: [C] > 0, or None for equal weights; the mean is weighted too, as in `cross_entropy`.
        gamma: >= 0, how much less an image counts that is graded well; 0 is cross-entropy, 2 the paper's choice.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    losses = -((1 - log_p.exp()) ** gamma) * log_p
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
