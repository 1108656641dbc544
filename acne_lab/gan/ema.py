"""Exponential moving average of the generator, with a half-life in images rather than steps."""

import torch
from torch import nn


def ema_beta(batch_size: int, images_seen: int, ema_kimg: float, rampup: float | None = 0.05) -> float:
    """Weight of the old average in one update: 0.5 ** (batch / half-life).

    The half-life is ema_kimg thousand images, early in training at most `rampup` times the images seen (None: no ramp).
    """
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, beta: float) -> None:
    """Move `average`'s parameters towards `network`'s; copy its buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - beta)
    for mean, value in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
