"""Layers that generator and discriminator share: equalised learning rate, mapping network, minibatch std."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acne_lab.ops.bias_act import ACTIVATIONS, bias_act
from acne_lab.ops.modulated_conv import conv2d_resample
from acne_lab.ops.upfirdn2d import setup_filter

RESAMPLE_TAPS = (1, 3, 3, 1)
MAX_HALF_RES = 16  # more resolutions than any network has


@dataclass(frozen=True)
class Share:
    """Which images of the total batch are this process's: every `world_size`-th from `rank` on.

    So each minibatch-std group lies whole in one process, and is the one that a single process would form.
    """

    rank: int = 0
    world_size: int = 1

    def of(self, draw: Callable[..., Tensor], n: int, *shape: int, **kwargs: object) -> Tensor:
        """This process's n rows of draw(total, *shape): all processes draw alike, each keeps its own."""
        return draw(n * self.world_size, *shape, **kwargs)[self.rank :: self.world_size]


ALONE = Share()


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, C] to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def channels(resolution: int, *, channel_base: int, channel_max: int) -> int:
    """Width of the layers at a resolution: channel_base // resolution, at most channel_max."""
    return min(channel_base // resolution, channel_max)


def block_resolutions(img_resolution: int) -> list[int]:
    """[4, 8, ..., img_resolution]; ValueError unless that is a power of two of at least 8."""
    log2 = img_resolution.bit_length() - 1
    if img_resolution < 8 or img_resolution != 2**log2:
        raise ValueError(f"resolution must be a power of two of at least 8, not {img_resolution}")
    return [2**i for i in range(2, log2 + 1)]


def half_resolutions(img_resolution: int, num_half_res: int) -> list[int]:
    """The top `num_half_res` resolutions, computed in 16 bit; 4 is never among them. ValueError outside of 0 to 16."""
    if not isinstance(num_half_res, int) or not 0 <= num_half_res <= MAX_HALF_RES:
        raise ValueError(f"num_half_res must be a whole number from 0 to {MAX_HALF_RES}, not {num_half_res!r}")
    return block_resolutions(img_resolution)[:0:-1][:num_half_res]


class FullyConnected(nn.Module):
    """Dense layer with equalised learning rate (Karras et al. 2017, section 4.1): [N, in] -> [N, out].

    Weights are stored ~N(0, 1)/lr_multiplier and scaled by lr_multiplier/sqrt(in) at run time.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.weight_gain) @ self.weight.to(x.dtype).t()  # fewer numbers than weights
        return bias_act(x, self.bias * self.bias_gain, act=self.act)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, resampling, bias and activation: [N, in, H, W] -> [N, out, ...]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        act: str = "linear",
        up: int = 1,
        down: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.up, self.down, self.conv_clamp = act, up, down, conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = conv2d_resample(x, weight, self.resample_filter, up=self.up, down=self.down)
        clamp = self.conv_clamp * gain if self.conv_clamp is not None else None
        return bias_act(x, self.bias, act=self.act, gain=ACTIVATIONS[self.act].gain * gain, clamp=clamp)


class Mapping(nn.Module):
    """Latent code and label -> intermediate latent w (Karras et al. 2018), with truncation towards its mean.

    Args:
        z_dim: width of z; 0 maps the label alone (the discriminator's use).
        c_dim: number of classes; 0 is unconditional.
        w_dim: width of w.
        num_ws: w is repeated to [N, num_ws, w_dim]; None returns [N, w_dim].
        num_layers: depth.
        track_w_avg: hold the moving average of w that truncation needs; training moves it.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        track_w_avg: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws, self.num_layers = z_dim, c_dim, num_ws, num_layers
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, w_dim)
        in_features = z_dim + (w_dim if c_dim > 0 else 0)
        for i in range(num_layers):
            layer = FullyConnected(in_features if i == 0 else w_dim, w_dim, act="lrelu", lr_multiplier=0.01)
            self.add_module(f"fc{i}", layer)
        if track_w_avg:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Map z [N, z_dim] and one-hot c [N, c_dim] to ws [N, num_ws, w_dim].

        psi < 1 moves the first `truncation_cutoff` ws (None: all) towards the mean w; 1 changes nothing.

        Raises:
            ValueError: no labels for a conditional network; a cutoff that is not from 0 to num_ws.
        """
        if truncation_cutoff is not None and not 0 <= truncation_cutoff <= (self.num_ws or 0):
            raise ValueError(f"truncation_cutoff={truncation_cutoff} must be from 0 to {self.num_ws}, the number of ws")
        parts = []
        if self.z_dim > 0:
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim > 0:
            if c is None:
                raise ValueError(f"this network is conditional: give labels c of shape [N, {self.c_dim}]")
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        w = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            truncated = self.w_avg.lerp(ws[:, :truncation_cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, truncated.shape[1] :]], dim=1)
        return ws


def minibatch_std(x: Tensor, group_size: int | None, num_batches: int = 1) -> Tensor:
    """Append the mean standard deviation over groups of images as one more channel (Karras et al. 2017, section 3).

    [N, C, H, W] -> [N, C + 1, H, W]. `x` is so many batches of n images, one after the other, which share no group.
    A group takes every (n / group)-th image of its batch; None makes a whole batch one.
    """
    total, _, h, w = x.shape
    n = total // num_batches
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(f"a batch of {n} does not divide into minibatch-std groups of {group}")
    y = x.float().reshape(num_batches, group, n // group, *x.shape[1:])
    y = y - y.mean(dim=1, keepdim=True)  # not y.var(dim=1), which on a CPU takes ten times as long
    std = (y.square().mean(dim=1) + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [num_batches, n / group]
    std = std.repeat(1, group).reshape(total, 1, 1, 1).expand(total, 1, h, w)
    return torch.cat([x, std.to(x.dtype)], dim=1)
