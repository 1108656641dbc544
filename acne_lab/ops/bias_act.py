"""Bias, activation, gain and clamp as one operator (StyleGAN2 applies the four after every layer).

This is the plain PyTorch reference: differentiable to any order, every dtype, every memory format.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """f(x, alpha), its default slope `alpha` and the `gain` that keeps unit variance."""

    f: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float = 0.0


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x),
    "relu": Activation(lambda x, _: torch.relu(x), gain=sqrt(2)),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), gain=sqrt(2), alpha=0.2),
    "tanh": Activation(lambda x, _: torch.tanh(x)),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x)),
    "elu": Activation(lambda x, _: F.elu(x)),
    "selu": Activation(lambda x, _: F.selu(x)),
    "softplus": Activation(lambda x, _: F.softplus(x)),
    "swish": Activation(lambda x, _: F.silu(x), gain=sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Return clamp(gain * act(x + b)).

    Args:
        x: any shape, any floating dtype.
        b: [x.shape[dim]], added along `dim`; None adds nothing.
        dim: the dimension of `x` that `b` runs along.
        act: a key of `ACTIVATIONS`.
        alpha: slope of the activation's negative side; None is its default (lrelu: 0.2).
        gain: factor after the activation; None is its default (sqrt(2) for relu, lrelu and swish, else 1).
        clamp: the result is limited to +-clamp; None does not limit.
    """
    activation = ACTIVATIONS[act]
    alpha = activation.alpha if alpha is None else alpha
    gain = activation.gain if gain is None else gain
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    x = activation.f(x, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x
