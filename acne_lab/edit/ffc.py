"""Fast Fourier convolutions (Chi, Jiang & Mu, NeurIPS 2020), as inpainting uses them (LaMa, Suvorov et al. 2022).

Of C channels the first are local and the last `ratio_global * C` global: these also pass through a convolution
in the frequency domain, which sees the whole image at once. One tensor holds both, so that a network is a plain chain.
The transform over the four quarters of an image (Chi et al., section 3.3) is left out, as in LaMa.
"""

import torch
from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size (over `stride`); reflected borders show the network no edge at a patch's end.

    `bias` is for one without a normalisation behind it.
    """
    padding = kernel_size // 2
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        padding_mode="reflect" if padding else "zeros",
        bias=bias,
    )


class FourierUnit(nn.Module):
    """A 1x1 convolution of the spectrum: real FFT, real and imaginary parts as channels, and back.

    Args:
        channels: C, of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(2 * channels, 2 * channels, 1)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]. 16-bit input is transformed in float32: FFTs of odd sizes have no other."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        spectrum = torch.fft.rfft2(wide, norm="ortho")
        parts = torch.cat([spectrum.real, spectrum.imag], dim=1).to(x.dtype)
        parts = torch.relu(self.norm(self.conv(parts))).to(wide.dtype)
        return torch.fft.irfft2(torch.complex(*parts.chunk(2, dim=1)), s=x.shape[-2:], norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    """f_g of Chi et al. (section 3.3): a Fourier unit with a shortcut, between two 1x1 convolutions.

    Args:
        in_channels: of the global part that comes in.
        out_channels: of the global part that goes out; the unit works on half as many.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = max(out_channels // 2, 1)
        self.enter = nn.Sequential(conv(in_channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.unit = FourierUnit(inner)
        self.leave = conv(inner, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W]"""
        x = self.enter(x)
        return self.leave(x + self.unit(x))


class FastFourierConv(nn.Module):
    """3x3 convolution with a global branch, batch normalisation and ReLU (Chi et al., equations 3 and 4).

        Y_local  = f_l(X_local)  + f_gl(X_global)
        Y_global = f_lg(X_local) + f_g(X_global)        f_g: SpectralTransform, the others 3x3 convolutions

    Args:
        channels: C, of input and output.
        ratio_global: share of the channels that are global, above 0 and below 1.

    Raises:
        ValueError: one of the two parts has no channels.
    """

    def __init__(self, channels: int, *, ratio_global: float) -> None:
        super().__init__()
        self.num_global = round(ratio_global * channels)
        self.num_local = channels - self.num_global
        if not 0 < self.num_global < channels:
            raise ValueError(f"ratio_global={ratio_global} of {channels} channels leaves one part empty: 0.75 is usual")
        self.from_local = conv(self.num_local, channels, 3)  # f_l and f_lg read the same: one convolution
        self.to_local = conv(self.num_global, self.num_local, 3)
        self.spectral = SpectralTransform(self.num_global, self.num_global)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]"""
        local, global_ = x.split([self.num_local, self.num_global], dim=1)
        y = self.from_local(local) + torch.cat([self.to_local(global_), self.spectral(global_)], dim=1)
        return torch.relu(self.norm(y))


class FourierBlock(nn.Module):
    """Residual block of two fast Fourier convolutions (LaMa, figure 2).

    Args:
        channels: C, of input and output.
        ratio_global: share of the channels that are global.
    """

    def __init__(self, channels: int, *, ratio_global: float) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(FastFourierConv(channels, ratio_global=ratio_global) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]"""
        return x + self.convs(x)
