"""Classical augmentation of a grader's training images: whole batches on tensors, from one generator.

It does not know the labels, so it must not change a grade: no crop that loses lesions, no cutout, no mixing.
(The generator's adaptive augmentation is another matter and lives in gan/.)
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


class ClassicalAugment:
    """Mirror, move, blur, relight and grain each image of a batch at random; every argument at 0 does nothing.

    Args:
        mirror: probability of a left-right flip.
        rotation: largest angle, degrees.
        translate: largest shift, as a fraction of the side, in x and in y.
        scale: largest change of size, e.g. 0.1 for 0.9 to 1.1.
        blur: largest share, in [0, 1], of a 3 x 3 binomial blur that is mixed in. Generated images are softer
            than photographs; a grader that has seen both kinds of edge transfers better.
        brightness: largest change of the gain, e.g. 0.2 for 0.8 to 1.2.
        contrast: the same, about the mean of each image.
        noise: largest standard deviation of the grain that is added, for pixels in [0, 1]. A GAN leaves traces in
            the finest detail, of which a grader would learn to tell one severity's GAN from another's.
    """

    def __init__(
        self,
        *,
        mirror: float = 0.5,
        rotation: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        blur: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        noise: float = 0.0,
    ):
        self.mirror = mirror
        self.rotation = rotation
        self.translate = translate
        self.scale = scale
        self.blur = blur
        self.brightness = brightness
        self.contrast = contrast
        self.noise = noise

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """images [B, 3, H, W] float in [0, 1] -> the same, from draws of `generator` alone."""

        def uniform(largest: float) -> Tensor:
            """One number an image, in -largest..largest, ready to be broadcast: [B, 1, 1, 1]."""
            return largest * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)

        flip = torch.rand(len(images), 1, 1, 1, generator=generator) < self.mirror
        images = torch.where(flip, images.flip(3), images)
        if self.rotation or self.translate or self.scale:  # resampling softens an image even at no movement
            images = move(
                images,
                angle=uniform(math.radians(self.rotation)),
                shift_x=uniform(2 * self.translate),
                shift_y=uniform(2 * self.translate),
                scale=1 + uniform(self.scale),
            )
        images = images.lerp(binomial_blur(images), uniform(self.blur).abs())
        images = images * (1 + uniform(self.brightness))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean.lerp(images, 1 + uniform(self.contrast))
        if self.noise:
            images = images + uniform(self.noise).abs() * torch.randn(images.shape, generator=generator)
        return images.clamp(0, 1)


def move(images: Tensor, *, angle: Tensor, shift_x: Tensor, shift_y: Tensor, scale: Tensor) -> Tensor:
    """Rotate by angle (radians), enlarge by scale and shift (half sides); all [B, 1, 1, 1]."""
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = torch.cat([cos, -sin, shift_x, sin, cos, shift_y], dim=3)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def binomial_blur(images: Tensor) -> Tensor:
    """Convolve every channel with [1 2 1] / 4 in x and in y; borders reflect."""
    row = images.new_tensor([1, 2, 1]) / 4
    kernel = (row[:, None] * row[None, :]).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel, groups=images.shape[1])
