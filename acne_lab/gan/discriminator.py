"""StyleGAN2 discriminator (Karras et al. 2019): residual down-sampling blocks, minibatch std, projection on the label.

Parameter and buffer names are those of the released models.
"""

import math

import torch
from torch import Tensor, nn

from acne_lab.gan.generator import fast_half_res, half_dtype
from acne_lab.gan.layers import (
    RESAMPLE_TAPS,
    Conv2d,
    FullyConnected,
    Mapping,
    block_resolutions,
    channels,
    half_resolutions,
    minibatch_std,
)
from acne_lab.ops.upfirdn2d import downsample2d, setup_filter


class DiscriminatorBlock(nn.Module):
    """[N, mid, R, R] -> [N, out, R/2, R/2]. The top block, and every block of "skip", reads the image."""

    def __init__(
        self,
        mid_channels: int,
        out_channels: int,
        *,
        img_channels: int,
        architecture: str,
        is_first: bool,
        half: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.architecture, self.half = architecture, half
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        if is_first or architecture == "skip":
            self.fromrgb = Conv2d(img_channels, mid_channels, 1, act="lrelu", conv_clamp=conv_clamp)
        self.conv0 = Conv2d(mid_channels, mid_channels, 3, act="lrelu", conv_clamp=conv_clamp)
        self.conv1 = Conv2d(mid_channels, out_channels, 3, act="lrelu", down=2, conv_clamp=conv_clamp)
        if architecture == "resnet":
            self.skip = Conv2d(mid_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor | None, img: Tensor | None, force_fp32: bool) -> tuple[Tensor, Tensor | None]:
        device = self.conv0.weight.device
        dtype = half_dtype(device) if self.half and not force_fp32 else torch.float32
        if x is not None:
            x = x.to(dtype)
        if hasattr(self, "fromrgb"):
            y = self.fromrgb(img.to(dtype).contiguous(memory_format=torch.channels_last))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            skip = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv1(self.conv0(x), gain=math.sqrt(0.5))
            return skip + x, img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """The 4x4 block, always in float32: [N, in, 4, 4] -> [N, out_dim]."""

    def __init__(
        self,
        in_channels: int,
        *,
        out_dim: int,
        img_channels: int,
        architecture: str,
        mbstd_group_size: int | None,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        if mbstd_group_size is not None and (not isinstance(mbstd_group_size, int) or mbstd_group_size < 1):
            raise ValueError(f"mbstd_group_size must be a whole number of at least 1, not {mbstd_group_size!r}")
        self.mbstd_group_size = mbstd_group_size
        if architecture == "skip":
            self.fromrgb = Conv2d(img_channels, in_channels, 1, act="lrelu")
        self.conv = Conv2d(in_channels + 1, in_channels, 3, act="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnected(in_channels * 16, in_channels, act="lrelu")
        self.out = FullyConnected(in_channels, out_dim)

    def forward(self, x: Tensor, img: Tensor | None, num_batches: int) -> Tensor:
        x = x.float()
        if hasattr(self, "fromrgb"):
            x = x + self.fromrgb(img)
        x = self.conv(minibatch_std(x, self.mbstd_group_size, num_batches))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """Image (and label) -> logit [N, 1], large for authentic.

    Args as in `Generator`, and:
        architecture: "resnet" (the paper's choice), "skip" or "orig".
        mbstd_group_size: images per group of the minibatch standard deviation; None is the whole batch, however many
            images that is, so that training wants a number.
        cmap_dim: width of the label projection; None is the widest block's width.
    """

    NUM_MAPPING_LAYERS = 8

    def __init__(
        self,
        *,
        img_resolution: int,
        c_dim: int = 0,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        cmap_dim: int | None = None,
        num_half_res: int | None = 0,
        conv_clamp: float | None = None,
    ) -> None:
        num_half_res = fast_half_res() if num_half_res is None else num_half_res
        init_kwargs = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.init_kwargs = init_kwargs
        self.img_resolution, self.img_channels, self.c_dim = img_resolution, img_channels, c_dim
        self.resolutions = block_resolutions(img_resolution)[:0:-1]  # from the top down to 8
        width = {r: channels(r, channel_base=channel_base, channel_max=channel_max) for r in (*self.resolutions, 4)}
        half = half_resolutions(img_resolution, num_half_res)
        cmap_dim = (width[4] if cmap_dim is None else cmap_dim) if c_dim > 0 else 0
        for r in self.resolutions:
            is_first = r == img_resolution
            block = DiscriminatorBlock(
                width[r],
                width[r // 2],
                img_channels=img_channels,
                architecture=architecture,
                is_first=is_first,
                half=r in half,
                conv_clamp=conv_clamp,
            )
            self.add_module(f"b{r}", block)
        if c_dim > 0:
            self.mapping = Mapping(
                z_dim=0,
                c_dim=c_dim,
                w_dim=cmap_dim,
                num_ws=None,
                num_layers=self.NUM_MAPPING_LAYERS,
                track_w_avg=False,
            )
        self.b4 = DiscriminatorEpilogue(
            width[4],
            out_dim=cmap_dim or 1,
            img_channels=img_channels,
            architecture=architecture,
            mbstd_group_size=mbstd_group_size,
            conv_clamp=conv_clamp,
        )

    def layers(self) -> list[nn.Module]:
        """The layers above 4x4, from the image down: what Freeze-D counts."""
        names = ("fromrgb", "conv0", "conv1", "skip")
        blocks = [getattr(self, f"b{r}") for r in self.resolutions]
        return [getattr(block, name) for block in blocks for name in names if hasattr(block, name)]

    def forward(self, img: Tensor, c: Tensor | None = None, force_fp32: bool = False, num_batches: int = 1) -> Tensor:
        """img [N, img_channels, R, R] in [-1, 1], one-hot c [N, c_dim] -> [N, 1].

        `img` may be several batches of one size, one after the other: they share nothing but the time that it takes to
        read the weights.
        """
        x = None
        for r in self.resolutions:
            x, img = getattr(self, f"b{r}")(x, img, force_fp32)
        x = self.b4(x, img, num_batches)
        if self.c_dim > 0:
            cmap = self.mapping(None, c)
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])
        return x
