"""Losses of StyleGAN2 as pure functions (Karras et al. 2019; Mescheder et al. 2018 for R1)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from acne_lab.ops.weight_gradients import without_weight_gradients


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss: mean of -log sigmoid(D(G(z)))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss: mean of -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor, gamma: float) -> Tensor:
    """gamma/2 times the mean over the batch of the squared gradient norm of D at the real images.

    `real_images` [N, C, H, W] must require grad and be what the logits were computed from: images before
    augmentation, so that the gradient goes through it.
    """
    with without_weight_gradients():
        (grad,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return grad.square().sum(dim=(1, 2, 3)).mean() * (gamma / 2)


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| per image for y = noise/sqrt(HW), noise ~ N(0, 1): [N, C, H, W], [N, num_ws, w_dim] -> [N].

    The norm is taken over w and averaged, in squares, over the layers.
    """
    y = noise / math.sqrt(images.shape[2] * images.shape[3])
    with without_weight_gradients():
        (grad,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, weight: float = 2.0) -> Tensor:
    """weight * E[(length - a)^2] for the lengths' running mean `a`, these lengths included."""
    return weight * (lengths - mean).square().mean()
