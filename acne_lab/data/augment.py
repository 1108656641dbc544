"""Classical augmentation of a grader's training images: whole batches on tensors, from one generator.

It does not know the labels, so it must not change a grade: no crop that loses lesions, no cutout, no mixing.
(The generator's adaptive augmentation is another matter and lives in gan/.)
"""

import math
from collections.abc import Sequence

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
        brightness: largest change of the gain, e.g. 0.2 for 0.8 to 1.2, or its least and greatest, e.g. [0.6, 1].
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
        brightness: float | Sequence[float] = 0.0,
        contrast: float = 0.0,
        noise: float = 0.0,
    ):
        self.mirror = mirror
        self.rotation = rotation
        self.translate = translate
        self.scale = scale
        self.blur = blur
        low, high = (-brightness, brightness) if isinstance(brightness, int | float) else (k - 1 for k in brightness)
        self.gain, self.brightness = 1 + (low + high) / 2, (high - low) / 2
        self.contrast = contrast
        self.noise = noise

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """images [B, 3, H, W] float in [0, 1] -> the same, from draws of `generator` alone."""

        def uniform(largest: float) -> Tensor:
            """One number an image, in -largest..largest, ready to be broadcast: [B, 1, 1, 1]."""
            return largest * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)

        flipped = torch.rand(len(images), generator=generator) < self.mirror
        rows = None
        if self.rotation or self.translate or self.scale:  # resampling softens an image even at no movement
            rows = affine_rows(
                angle=uniform(math.radians(self.rotation)),
                shift_x=uniform(2 * self.translate),
                shift_y=uniform(2 * self.translate),
                scale=1 + uniform(self.scale),
            )
        softness = uniform(self.blur).abs()
        gain = self.gain + uniform(self.brightness)
        contrast = 1 + uniform(self.contrast)
        if self.noise:
            level, grain = uniform(self.noise).abs(), torch.randn(images.shape, generator=generator)

        changed = torch.empty_like(images)
        for i in range(len(images)):  # one at a time: it stays in the processor's cache, where a batch does not fit
            image = images[i : i + 1]
            if flipped[i]:
                image = image.flip(3)
            if rows is not None:
                image = move(image, rows[i : i + 1])
            if self.blur:
                image = image.lerp(binomial_blur(image), softness[i])
            image = image * gain[i]
            if self.contrast:
                image = image.mean().lerp(image, contrast[i])
            if self.noise:
                image = image + level[i] * grain[i]
            torch.clamp(image, 0, 1, out=changed[i : i + 1])
        return changed


def affine_rows(*, angle: Tensor, shift_x: Tensor, shift_y: Tensor, scale: Tensor) -> Tensor:
    """Rotate by angle (radians), enlarge by scale and shift (half sides), all [B, 1, 1, 1], as matrices [B, 2, 3]."""
    cos, sin = angle.cos() / scale, angle.sin() / scale
    return torch.cat([cos, -sin, shift_x, sin, cos, shift_y], dim=3).view(-1, 2, 3)


def move(images: Tensor, rows: Tensor) -> Tensor:
    """images [B, C, H, W] resampled at the places that affine matrices [B, 2, 3] give; what is outside reflects."""
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def binomial_blur(images: Tensor) -> Tensor:
    """Convolve every channel with [1 2 1] / 4 in x and in y; borders reflect.

    Nine scaled sums, in the order of the kernel: four times as fast as torch's convolution, and the same to the bit.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    blurred = torch.zeros_like(images)
    for y, weight_y in enumerate((1, 2, 1)):
        for x, weight_x in enumerate((1, 2, 1)):
            blurred.add_(padded[..., y : y + height, x : x + width], alpha=weight_y * weight_x / 16)
    return blurred
