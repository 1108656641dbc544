"""ADA: augmentation of what the discriminator sees, with adaptive probability (Karras et al. 2020, appendix B).

Every transform of every image is switched on with probability p times its own multiplier. Geometry is
accumulated in one inverse matrix and executed once, colour in one 4x4 matrix. Differentiable twice with
respect to the images, as R1 needs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acne_lab.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

# Least-asymmetric Daubechies wavelet of 6 vanishing moments: its low-pass filter (Daubechies 1992, table 6.3).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip


class Draws:
    """Random numbers of one call: gates and values for n images, or fixed percentiles of each distribution.

    With a percentile every gate is open and every draw is its distribution's value there.
    """

    def __init__(self, n: int, p: Tensor, percentile: float | None) -> None:
        self.n, self.p, self.percentile, self.device = n, p, percentile, p.device

    def uniform(self, low: float, high: float) -> Tensor:
        u = torch.rand(self.n, device=self.device) if self.percentile is None else self._at(self.percentile)
        return low + (high - low) * u

    def normal(self, std: float) -> Tensor:
        if self.percentile is None:
            return torch.randn(self.n, device=self.device) * std
        return torch.special.ndtri(self._at(self.percentile)) * std

    def gate(self, multiplier: float, p: Tensor | None = None) -> Tensor:
        if self.percentile is not None:
            return torch.ones(self.n, dtype=torch.bool, device=self.device)
        return torch.rand(self.n, device=self.device) < (self.p if p is None else p) * multiplier

    def _at(self, percentile: float) -> Tensor:
        return torch.full((self.n,), percentile, device=self.device)


def _matrix(*rows: tuple[Tensor | float, ...]) -> Tensor:
    """Stack rows of numbers and [N] tensors into [N, len(rows), len(rows)]."""
    n, device = next((v.shape[0], v.device) for row in rows for v in row if isinstance(v, Tensor))
    return torch.stack(
        [torch.stack([torch.as_tensor(v, device=device).expand(n).float() for v in row], dim=-1) for row in rows],
        dim=-2,
    )


def _scale2d(x: Tensor, y: Tensor) -> Tensor:
    return _matrix((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def _translate2d(x: Tensor, y: Tensor) -> Tensor:
    return _matrix((1.0, 0.0, x), (0.0, 1.0, y), (0.0, 0.0, torch.ones_like(x)))


def _rotate2d(angle: Tensor) -> Tensor:
    sin, cos = angle.sin(), angle.cos()
    return _matrix((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))


class Augment(nn.Module):
    """The pipe: images [N, C, H, W] in [-1, 1] -> the same shape, augmented with probability `p`.

    Each argument multiplies p for its transform; 0 leaves the transform out. `conf/augment/` names the
    published subsets. For acne the default leaves colour out: redness is the disease signal.
    """

    def __init__(
        self,
        *,
        p: float = 0.0,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"augmentation probability p must be in [0, 1], not {p}")
        self.xflip, self.rotate90, self.xint = xflip, rotate90, xint
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.is_identity = not any(
            (xflip, rotate90, xint, scale, rotate, aniso, xfrac, brightness, contrast, lumaflip, hue, saturation)
        )
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("lowpass", setup_filter(SYM6), persistent=False)

    def forward(self, images: Tensor, percentile: float | None = None) -> Tensor:
        """Augment; with a percentile in (0, 1), deterministically (for tests)."""
        if percentile is None and self.p == 0:
            return images
        draws = Draws(len(images), self.p, percentile)
        geometry = self._geometry(draws, images.shape[-1])
        if geometry is not None:
            # Images whose gates all stayed closed are left as they are, to the bit: at small p that is nearly all.
            (moved,) = (geometry != torch.eye(3, device=geometry.device)).any(dim=(1, 2)).nonzero(as_tuple=True)
            if len(moved):
                images = images.index_copy(0, moved, self._resample(images[moved], geometry[moved]))
        color = self._color(draws, images.shape[1])
        if color is not None:
            images = _apply_color(images, color)
        return images

    def _geometry(self, draws: Draws, side: int) -> Tensor | None:
        """Inverse transform [N, 3, 3] in coordinates from -1 to 1: output position -> input position."""
        inverse: list[Tensor] = []
        if self.xflip:
            flip = draws.gate(self.xflip) & (draws.uniform(0, 2).floor() == 1)
            sign = 1 - 2 * flip.float()
            inverse.append(_scale2d(sign, torch.ones_like(sign)))
        if self.rotate90:
            quarter = draws.uniform(0, 4).floor() * draws.gate(self.rotate90)
            inverse.append(_rotate2d(-math.pi / 2 * quarter))
        if self.xint:
            gate = draws.gate(self.xint)
            x, y = ((draws.uniform(-0.125, 0.125) * side).round() * (2 / side) * gate for _ in range(2))
            inverse.append(_translate2d(-x, -y))
        if self.scale:
            s = torch.exp2(draws.normal(0.2) * draws.gate(self.scale))
            inverse.append(_scale2d(1 / s, 1 / s))
        # Two rotations, each with the probability that makes one of them happen with probability p.
        p_rotate = 1 - (1 - self.p * self.rotate).clamp(0, 1).sqrt()
        if self.rotate:
            inverse.append(_rotate2d(-draws.uniform(-math.pi, math.pi) * draws.gate(1, p_rotate)))
        if self.aniso:
            s = torch.exp2(draws.normal(0.2) * draws.gate(self.aniso))
            inverse.append(_scale2d(1 / s, s))
        if self.rotate:
            inverse.append(_rotate2d(-draws.uniform(-math.pi, math.pi) * draws.gate(1, p_rotate)))
        if self.xfrac:
            gate = draws.gate(self.xfrac)
            x, y = (draws.normal(0.125) * 2 * gate for _ in range(2))
            inverse.append(_translate2d(-x, -y))
        if not inverse:
            return None
        matrix = inverse[0]
        for m in inverse[1:]:
            matrix = matrix @ m
        return matrix

    def _resample(self, images: Tensor, inverse: Tensor) -> Tensor:
        """Warp without aliasing: reflect, low-pass at twice the size, sample, low-pass and halve."""
        n, c, h, w = images.shape
        assert h == w
        support = len(self.lowpass) // 4 + 1
        out = w + 2 * support  # the window that is sampled: the image and what the last filter needs around it
        corners = inverse.new_tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]]).t() * (out / w)
        corners = torch.cat([corners, corners.new_ones(1, 4)])
        reach = (inverse @ corners)[:, :2].abs().max()  # how far from the centre any image looks
        margin = int(((reach - 1).clamp(min=0) * (w / 2)).ceil()) + 2 * support
        margin = min(margin, w - 1)  # reflection repeats an image at most once
        big = upsample2d(F.pad(images, (margin,) * 4, mode="reflect"), self.lowpass)

        shrink = inverse.new_tensor([w / (w + 2 * margin)] * 2 + [1]).diag()
        grow = inverse.new_tensor([out / w] * 2 + [1]).diag()
        grid = F.affine_grid((shrink @ inverse @ grow)[:, :2], [n, c, 2 * out, 2 * out], align_corners=False)
        warped = F.grid_sample(big, grid.to(big.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
        # The wavelet is not quite symmetric: the reversed filter undoes its shift.
        halved = downsample2d(warped, self.lowpass, flip_filter=True)
        return halved[:, :, support:-support, support:-support]

    def _color(self, draws: Draws, num_channels: int) -> Tensor | None:
        """Colour transform [N, 4, 4] on homogeneous RGB."""
        steps: list[Tensor] = []
        eye = torch.eye(4, device=draws.device)
        luma = torch.tensor([1.0, 1.0, 1.0, 0.0], device=draws.device) / math.sqrt(3)
        along = luma.outer(luma)
        if self.brightness:
            b = draws.normal(0.2) * draws.gate(self.brightness)
            steps.append(eye + b[:, None, None] * torch.tensor([1.0, 1, 1, 0], device=draws.device).outer(eye[3]))
        if self.contrast:
            s = torch.exp2(draws.normal(0.5) * draws.gate(self.contrast))
            steps.append(torch.stack([s, s, s, torch.ones_like(s)], dim=1).diag_embed())
        if self.lumaflip:
            flip = draws.gate(self.lumaflip) & (draws.uniform(0, 2).floor() == 1)
            steps.append(eye - 2 * along * flip.float()[:, None, None])
        if self.hue and num_channels > 1:
            angle = (draws.uniform(-math.pi, math.pi) * draws.gate(self.hue))[:, None, None]
            x, y, z = luma[:3]
            cross = eye.new_tensor([[0, -z, y, 0], [z, 0, -x, 0], [-y, x, 0, 0], [0, 0, 0, 0]])
            rgb = eye - eye[3].outer(eye[3])
            steps.append(along + angle.cos() * (rgb - along) + angle.sin() * cross + eye[3].outer(eye[3]))
        if self.saturation and num_channels > 1:
            s = torch.exp2(draws.normal(1.0) * draws.gate(self.saturation))[:, None, None]
            steps.append(along + (eye - along) * torch.where(eye[3].outer(eye[3]) == 1, 1.0, s))
        if not steps:
            return None
        matrix = steps[0]
        for m in steps[1:]:
            matrix = m @ matrix
        return matrix


def _apply_color(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply [N, 4, 4] to RGB images, its mean over the rows to gray ones."""
    n, c, h, w = images.shape
    matrix = matrix.to(images.dtype)
    if c == 3:
        flat = matrix[:, :3, :3] @ images.reshape(n, 3, h * w) + matrix[:, :3, 3:]
        return flat.reshape(n, 3, h, w)
    if c == 1:
        row = matrix[:, :3].mean(dim=1)
        return images * row[:, :3].sum(dim=1)[:, None, None, None] + row[:, 3][:, None, None, None]
    raise ValueError(f"colour augmentation is defined for RGB and gray images, not for {c} channels")
