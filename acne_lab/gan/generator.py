"""StyleGAN2 generator (Karras et al. 2019): mapping network, then synthesis of an image from per-layer styles.

Parameter and buffer names are those of the released models, so that their tensors load by name.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from acne_lab.gan.layers import (
    ALONE,
    RESAMPLE_TAPS,
    Conv2d,
    FullyConnected,
    Mapping,
    block_resolutions,
    channels,
    half_resolutions,
)
from acne_lab.ops.bias_act import ACTIVATIONS, bias_act
from acne_lab.ops.modulated_conv import modulated_1x1, modulated_conv2d
from acne_lab.ops.upfirdn2d import setup_filter, upsample2d

NOISE_MODES = ("random", "const", "none")


def half_dtype(device: torch.device) -> torch.dtype:
    """The 16-bit type of mixed precision: float16 on CUDA, bfloat16 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def fast_half_res() -> int:
    """How many of the top resolutions this machine should compute in 16 bit: 4 on CUDA and a CPU with AMX, else 0."""
    cpuinfo = Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return 4 if torch.cuda.is_available() or has_amx else 0


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        up: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.share = ALONE  # of the batch that noise is drawn for
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def noise(self, n: int, noise_mode: str, rngs: Sequence[Rng] | None) -> Tensor | None:
        if noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const[None, None] * self.noise_strength
        shape = (1, self.resolution, self.resolution)
        device = self.noise_const.device
        if rngs is None:
            noise = self.share.of(torch.randn, n, *shape, device=device)
        else:
            noise = torch.stack([torch.randn(shape, generator=rng) for rng in rngs]).to(device)
        return noise * self.noise_strength

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, rngs: Sequence[Rng] | None, gain: float = 1.0) -> Tensor:
        noise = self.noise(x.shape[0], noise_mode, rngs)
        return modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            self.resample_filter,
            self.up,
            noise=noise,
            b=self.bias,
            alpha=ACTIVATIONS["lrelu"].alpha,
            gain=ACTIVATIONS["lrelu"].gain * gain,
            clamp=self.conv_clamp * gain if self.conv_clamp is not None else None,
        )


def fast_layout(network: nn.Module) -> nn.Module:
    """Lay the weights of a network, or of several, out in memory as their convolutions read them; returns it."""
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, SynthesisLayer) and layer.up == 2:  # a transposed convolution
            weight = layer.weight.data.transpose(0, 1).contiguous(memory_format=torch.channels_last)
            layer.weight.data = weight.transpose(0, 1)
    return network


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, in_channels: int, img_channels: int, *, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.style_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_1x1(x, self.weight, self.affine(w) * self.style_gain)
        return bias_act(x, self.bias, clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """All layers of one resolution. The first block (in_channels = 0) starts from a learned constant."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str,
        is_last: bool,
        half: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.in_channels, self.architecture, self.half = in_channels, architecture, half
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        layer = {"w_dim": w_dim, "resolution": resolution, "conv_clamp": conv_clamp}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, up=1, **layer)
        self.num_conv = 1 if in_channels == 0 else 2
        self.has_torgb = is_last or architecture == "skip"
        if self.has_torgb:
            self.torgb = ToRGB(out_channels, img_channels, w_dim=w_dim, conv_clamp=conv_clamp)
        if in_channels > 0 and architecture == "resnet":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, up=2)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: str,
        rngs: Sequence[Rng] | None,
        force_fp32: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, in, R/2, R/2], img [N, C, R/2, R/2] float32, ws [N, num_conv + 1, w_dim] -> x, img at R."""
        dtype = half_dtype(ws.device) if self.half and not force_fp32 else torch.float32
        w = iter(ws.unbind(dim=1))
        if self.in_channels == 0:
            x = self.const.to(dtype)[None].expand(ws.shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
            x = self.conv1(x, next(w), noise_mode, rngs)
        elif self.architecture == "resnet":
            x = x.to(dtype)
            skip = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(w), noise_mode, rngs)
            x = self.conv1(x, next(w), noise_mode, rngs, gain=math.sqrt(0.5))
            x = skip + x
        else:
            x = self.conv0(x.to(dtype), next(w), noise_mode, rngs)
            x = self.conv1(x, next(w), noise_mode, rngs)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.has_torgb:
            rgb = self.torgb(x, next(w)).float()
            img = rgb if img is None else img + rgb
        return x, img


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> image [N, img_channels, R, R], nominally in [-1, 1]."""

    def __init__(
        self,
        *,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int,
        channel_max: int,
        architecture: str,
        num_half_res: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.resolutions = block_resolutions(img_resolution)
        self.num_ws = 2 * len(self.resolutions)
        width = {r: channels(r, channel_base=channel_base, channel_max=channel_max) for r in self.resolutions}
        half = half_resolutions(img_resolution, num_half_res)
        for r in self.resolutions:
            block = SynthesisBlock(
                width[r // 2] if r > 4 else 0,
                width[r],
                w_dim=w_dim,
                resolution=r,
                img_channels=img_channels,
                architecture=architecture,
                is_last=r == img_resolution,
                half=r in half,
                conv_clamp=conv_clamp,
            )
            self.add_module(f"b{r}", block)

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        rngs: Sequence[Rng] | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """Args as in `Generator.forward`; `rngs` is one CPU torch.Generator an image for its noise."""
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, not {noise_mode!r}")
        x = img = None
        start = 0
        for r in self.resolutions:
            block = getattr(self, f"b{r}")
            # A block's ToRGB shares its w with the next block's first convolution.
            x, img = block(x, img, ws[:, start : start + block.num_conv + 1], noise_mode, rngs, force_fp32)
            start += block.num_conv
        return img


class Generator(nn.Module):
    """Latent code (and label) -> image.

    Args:
        img_resolution: image side, a power of two of at least 8.
        z_dim: width of z.
        c_dim: number of classes; 0 is unconditional.
        w_dim: width of w.
        img_channels: 3 for RGB, 1 for gray.
        num_mapping_layers: depth of the mapping network.
        channel_base: the width at resolution r is channel_base // r ...
        channel_max: ... but at most this.
        architecture: "skip" (the paper's choice), "resnet" or "orig".
        num_half_res: number of top resolutions computed in 16 bit, 0 to 16 (bfloat16 on CPU, float16 on CUDA); None is
            what suits this machine, and `init_kwargs` records it.
        conv_clamp: limit on activations, needed by float16; None does not limit.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_channels: int = 3,
        num_mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "skip",
        num_half_res: int | None = 0,
        conv_clamp: float | None = None,
    ) -> None:
        num_half_res = fast_half_res() if num_half_res is None else num_half_res
        init_kwargs = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.init_kwargs = init_kwargs  # written beside the weights, to build the network again
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = Synthesis(
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            architecture=architecture,
            num_half_res=num_half_res,
            conv_clamp=conv_clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, num_layers=num_mapping_layers)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        rngs: Sequence[Rng] | None = None,
    ) -> Tensor:
        """z [N, z_dim], one-hot c [N, c_dim] -> [N, img_channels, R, R].

        Args:
            truncation_psi: 1 is the learned distribution, 0 the mean face.
            truncation_cutoff: number of ws that are truncated; None is all.
            noise_mode: "random" draws new noise, "const" takes the stored one, "none" adds none.
            rngs: one CPU torch.Generator an image: its noise then does not depend on the batch.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, rngs)
