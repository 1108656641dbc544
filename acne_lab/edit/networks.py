"""The refiner's networks: a ResNet-like inpainting generator of fast Fourier convolutions, and a patch discriminator.

The generator is LaMa's (Suvorov et al. 2022) but for its input, which also holds the photograph with the drawn
lesions, and for its upsampling: bilinear and a convolution, because transposed ones leave a checkerboard.
"""

import inspect
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acne_lab.edit.ffc import FourierBlock, conv

LIMITS = {"width": 512, "max_width": 4096, "num_down": 6, "num_blocks": 64}  # of a file that asks for a billion

# Of what is added to the overlay: hundreds of weights of the last layer move together, and in the first steps of Adam
# an unscaled sum would overshoot what is to be corrected many times over, back and forth.
RESIDUAL = 0.1


def composite(photo: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """`inside` where the mask [N, 1, H, W] is 1, the very bits of `photo` elsewhere; both [N, 3, H, W]."""
    return torch.where(mask.bool(), inside, photo)


class Inpainter(nn.Module):
    """Repaints the masked part of a photograph.

    With the drawn lesions as its condition it paints what is to be changed in them, and before training nothing.
    Without, it invents from the surroundings alone what could have been there: the published low-realism baseline.

    Args:
        width: channels at full resolution, doubled by each halving ...
        max_width: ... up to this many.
        num_down: halvings; sides of images must be multiples of 2 ** num_down.
        num_blocks: Fourier blocks at the lowest resolution.
        ratio_global: share of their channels that see the whole image.
        conditioned: it sees the drawn lesions.

    Raises:
        ValueError: a size is not positive, or beyond all reason.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        max_width: int = 512,
        num_down: int = 3,
        num_blocks: int = 9,
        ratio_global: float = 0.75,
        conditioned: bool = True,
    ) -> None:
        super().__init__()
        given = locals()
        self.init_kwargs = {name: given[name] for name in inspect.signature(Inpainter).parameters}
        for name, limit in LIMITS.items():
            if not 1 <= self.init_kwargs[name] <= limit:
                raise ValueError(f"model.G.{name}={self.init_kwargs[name]} must be from 1 to {limit}")
        self.conditioned, self.num_down = conditioned, num_down
        widths = [min(width * 2**i, max_width) for i in range(num_down + 1)]
        self.enter = conv_norm_relu(8 if conditioned else 5, width, 7)
        self.down = nn.Sequential(*(conv_norm_relu(a, b, 3, stride=2) for a, b in pairwise(widths)))
        self.blocks = nn.Sequential(*(FourierBlock(widths[-1], ratio_global=ratio_global) for _ in range(num_blocks)))
        self.up = nn.ModuleList(conv_norm_relu(b, a, 3) for a, b in list(pairwise(widths))[::-1])
        self.leave = conv(width, 3, 7, bias=True)
        if conditioned:
            nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, photo: Tensor, overlaid: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """The photograph, bit by bit, with the masked part painted: all in [-1, 1]; arguments as for `paint`."""
        return composite(photo, self.paint(photo, overlaid, mask, noise).clamp(-1, 1), mask)

    def paint(self, photo: Tensor, overlaid: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """The whole image as the network paints it, about in [-1, 1].

        Args:
            photo: [N, 3, H, W] in [-1, 1]; what is under the mask is not looked at.
            overlaid: with the drawn lesions, likewise; not looked at unless `conditioned`.
            mask: [N, 1, H, W], 1 where it may paint, else 0.
            noise: [N, 1, H, W], standard normal: the grain of skin and sensor is made from it.
        """
        known = photo * (1 - mask)
        seen = [known, mask, noise, overlaid] if self.conditioned else [known, mask, noise]
        x = self.blocks(self.down(self.enter(torch.cat(seen, dim=1))))
        for step in self.up:
            x = step(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        x = self.leave(x)
        return overlaid + RESIDUAL * x if self.conditioned else x


class PatchDiscriminator(nn.Module):
    """Scores a grid of overlapping patches of the inpainted image; it is shown neither mask nor condition.

    Args:
        width: channels of the first layer, doubled by each halving ...
        max_width: ... up to this many.
        num_down: halvings: a score is of a patch of 8, 18, 38, 78 pixels for 1, 2, 3, 4.
    """

    def __init__(self, *, width: int = 64, max_width: int = 512, num_down: int = 3) -> None:
        super().__init__()
        widths = [3, *(min(width * 2**i, max_width) for i in range(num_down))]
        halvings = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList([*halvings, nn.Conv2d(widths[-1], widths[-1], 3, padding=1)])
        self.leave = nn.Conv2d(widths[-1], 1, 1)
        for layer in [*self.layers, self.leave]:  # nothing normalises: what PyTorch starts with fades layer by layer
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[N, 3, H, W] in [-1, 1] -> scores [N, 1, h, w] and the features of each layer."""
        features = []
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
            features.append(images)
        return self.leave(images), features


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    layers = conv(in_channels, out_channels, kernel_size, stride=stride), nn.BatchNorm2d(out_channels), nn.ReLU()
    return nn.Sequential(*layers)
