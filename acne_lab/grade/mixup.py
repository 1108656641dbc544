"""MixUp (Zhang et al., ICLR 2018): train on weighted means of pairs of images.

It blurs what a count is made of: half a lesion is no lesion. So it is off unless asked for.
"""

import torch
from torch import Tensor


def mixup(images: Tensor, *, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another of the batch, by torch's random numbers.

    Args:
        images: [B, 3, H, W].
        alpha: > 0, of the Beta distribution from which the batch's share is drawn; at 1 it is uniform.

    Returns:
        share * images + (1 - share) * images[partners]; partners [B] int64; share in [0, 1]. The loss is that mean
        of both labels' losses.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    partners = torch.randperm(len(images))
    return share * images + (1 - share) * images[partners], partners, share
