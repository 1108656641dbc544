"""What pretrained networks see in an image, and distances in it. Images are in [-1, 1].

It downloads nothing: a network is passed in, or lies in torchvision's cache.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import VGG16_Weights


class _Features(nn.Module):
    """A trained network, and images as it has learned to see them.

    Args:
        backbone: a timm network; those of stages and patches must have `forward_intermediates`.
        mean: of its training images, a number a channel, for pixels in [0, 1].
        std: likewise.
    """

    def __init__(self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def normalised(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> what the backbone takes."""
        return (images / 2 + 0.5 - self.mean) / self.std


class StageFeatures(_Features):
    """The feature maps of a timm network at each of its resolutions, with unit length over the channels."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [N, C_i, H_i, W_i] of each stage, finest first."""
        maps = self.backbone.forward_intermediates(self.normalised(images), intermediates_only=True)
        return [F.normalize(x, dim=1) for x in maps]


class PooledFeatures(_Features):
    """What a timm network says of a whole image, [N, C]: its features before the classifier.

    Args:
        side: images are resized to this many pixels.
    """

    def __init__(self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float], side: int) -> None:
        super().__init__(backbone, mean=mean, std=std)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1 | 3 | 4, H, W] in [-1, 1] -> [N, C]."""
        pixels = self.normalised(resized(as_rgb(images), self.side))
        return self.backbone.forward_head(self.backbone.forward_features(pixels), pre_logits=True)


class PatchFeatures(_Features):
    """What a timm network says of a patch: of what is on it, and of its texture."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> (content [N, C] before the classifier, texture [N, 2 sum of C_i]).

        Texture is mean and standard deviation over positions of every stage's maps: grain, blur and edges, which the
        content forgets, show in the early ones.
        """
        last, maps = self.backbone.forward_intermediates(self.normalised(images))
        content = self.backbone.forward_head(last, pre_logits=True)
        return content, torch.cat(
            [figure for x in maps for figure in (x.mean((2, 3)), x.std((2, 3), correction=0))], dim=1
        )


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Squared distance of unit feature vectors, mean over positions and stages: [N] in [0, 4].

    It is LPIPS (Zhang et al. 2018, eq. 1) with equal weights in place of learned ones.
    """
    return torch.stack([(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in zip(a, b, strict=True)]).mean(dim=0)


def lpips() -> nn.Module:
    """LPIPS (Zhang et al. 2018) on VGG-16: two batches [N, 3, H, W] -> distances [N, 1, 1, 1].

    Raises:
        ValueError: torchvision's VGG-16 is not in its cache; says what works without it.
    """
    url = VGG16_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        raise ValueError(
            f"LPIPS needs the weights of VGG-16, which are not downloaded unasked: put {url} at {path}, "
            "or take the offline network, mode.perceptual=efficientnet_lite0"
        )
    return LearnedPerceptualImagePatchSimilarity(net_type="vgg").net


def resized(images: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, C, side, side]: averages of pixels where it shrinks, bilinear where it grows."""
    mode = {"mode": "area"} if images.shape[-1] > side else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(images, (side, side), **mode)


def as_rgb(images: Tensor) -> Tensor:
    """[N, 1 | 3 | 4, H, W] -> [N, 3, H, W]: gray in three channels, transparent images on white."""
    if images.shape[1] == 4:
        rgb, alpha = images[:, :3], images[:, 3:].clamp(-1, 1) / 2 + 0.5
        return rgb * alpha + (1 - alpha)
    return images.expand(-1, 3, -1, -1)
