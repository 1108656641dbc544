"""What happens to a photograph in front of a backbone: resized and cropped as its weights expect."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """Normalised square images [B, 3, R, R] -> [B, 3, S, S]: resized to S / crop_pct, then cropped.

    In evaluation it is timm's transform for square pictures, on tensors.

    Args:
        input_size: S, in px.
        crop_pct: share of the resized side that is seen, in (0, 1].
        interpolation: "bilinear" or "bicubic", both antialiased.
        mean, std: with which the images have been normalised, of pixels in 0..1.
        random_crop: crop anywhere while training, each image elsewhere, by torch's random numbers; else the middle.

    Raises:
        ValueError: an argument that is none of these.
    """

    def __init__(
        self,
        *,
        input_size: int,
        crop_pct: float,
        interpolation: str,
        mean: Sequence[float],
        std: Sequence[float],
        random_crop: bool = False,
    ):
        super().__init__()
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"model.interpolation must be bilinear or bicubic, not {interpolation}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"model.crop_pct={crop_pct} must be in (0, 1]: the share of the side that is seen")
        self.input_size = input_size
        self.resized = int(input_size / crop_pct)
        self.interpolation = interpolation
        self.random_crop = random_crop
        if random_crop and self.resized == input_size:
            raise ValueError("model.random_crop has nothing to choose: give model.crop_pct < 1, e.g. 0.875")
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        self.register_buffer("black", (0 - mean) / std, persistent=False)
        self.register_buffer("white", (1 - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.resized:
            images = F.interpolate(images, self.resized, mode=self.interpolation, antialias=True)
            if self.interpolation == "bicubic":  # it overshoots at edges, which no picture can
                images = images.clamp(self.black, self.white)
        if (margin := self.resized - self.input_size) == 0:
            return images
        if self.training and self.random_crop:
            corners = torch.randint(margin + 1, (len(images), 2)).tolist()
            return torch.stack([self._cropped(image, *corner) for image, corner in zip(images, corners)])
        return self._cropped(images, round(margin / 2), round(margin / 2))

    def _cropped(self, images: Tensor, top: int, left: int) -> Tensor:
        return images[..., top : top + self.input_size, left : left + self.input_size]
