"""Losses of the refiner as pure functions, after LaMa (Suvorov et al. 2022, section 2.3).

The patch discriminator scores a grid of cells. The inpainted image is generated only where a cell holds masked pixels:
elsewhere it is the photograph itself, and calling that generated would teach D the mask's outline.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 0.1  # of images in [-1, 1]: 13 gray levels


def masked_cells(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Which cells of D's grid [h, w] = `size` hold masked pixels: [N, 1, H, W] of 0 and 1 -> the same of [N, 1, h, w].

    A cell is the square of pixels that it stands for, not all that its receptive field covers.
    """
    return F.adaptive_max_pool2d(mask, tuple(size))


def generator_loss(fake_logits: Tensor, cells: Tensor) -> Tensor:
    """Non-saturating: mean of -log sigmoid(D(inpainted)) over the masked cells; both [N, 1, h, w]."""
    return (F.softplus(-fake_logits) * cells).sum() / cells.sum().clamp(min=1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, cells: Tensor) -> Tensor:
    """Mean of -log sigmoid(D(photograph)) - log(1 - sigmoid(D(inpainted))) over the masked cells; all [N, 1, h, w].

    The photograph counts in the same cells: there it has lesions too. Against the whole of it D would learn that
    lesions are generated and bare skin is not, and the generator to take lesions away.
    """
    return ((F.softplus(-real_logits) + F.softplus(fake_logits)) * cells).sum() / cells.sum().clamp(min=1)


def r1_penalty(real_logits: Tensor, real_images: Tensor, gamma: float) -> Tensor:
    """gamma/2 times the squared gradient norm of D's summed scores at the real images, per image and cell.

    R1 (Mescheder et al. 2018) of a patch discriminator; dividing by the cells makes gamma independent of the patches'
    size. `real_images` [N, C, H, W] must require grad and be what the logits [N, 1, h, w] were computed from.
    """
    (grad,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return grad.square().sum() / real_logits.numel() * (gamma / 2)


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of D's features, mean over its layers (Wang et al. 2018, equation 3)."""
    return torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(fake, real, strict=True)]).mean()


def pixel_loss(image: Tensor, target: Tensor, mask: Tensor, *, inside: float, outside: float) -> Tensor:
    """`inside` times the mean error of masked pixels plus `outside` times that of the others.

    The error is absolute above `SMOOTH` and square below (Girshick 2015, equation 3): most masked pixels of an overlay
    are right from the start, and the edge of an absolute error there would keep a network from changing anything.
    image, target [N, C, H, W]; mask [N, 1, H, W] of 0 and 1.
    """
    error = F.smooth_l1_loss(image, target, beta=SMOOTH, reduction="none").mean(dim=1, keepdim=True)
    masked = (error * mask).sum() / mask.sum().clamp(min=1)
    others = (error * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1)
    return inside * masked + outside * others
