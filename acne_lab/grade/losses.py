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


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights [C] proportional to 1 / count and scaled to a mean of 1 over a random training image.

    A class without a training image gets weight 0: it cannot occur in a batch.
    """
    present = counts > 0
    weights = torch.where(present, counts.sum() / counts.clamp(min=1), 0.0)
    return weights / present.sum()
