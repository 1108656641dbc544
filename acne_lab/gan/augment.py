"""ADA: augmentation of what the discriminator sees, with adaptive probability (Karras et al. 2020, appendix B).

Every transform of every image is switched on with probability p times its own multiplier; images whose gates
all stayed closed are left as they are, to the bit. The numbers of a call are drawn on the host, where the
decisions are taken, so that no device is waited for. Filters are products with small matrices: on a CPU that
is faster than depthwise convolutions of three channels, and R1's double backward is products again.
It does not know how p is steered: that is the training module's.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acne_lab.gan.layers import ALONE, Share
from acne_lab.ops.upfirdn2d import setup_filter, upfirdn2d

# Low-pass filters of the least-asymmetric Daubechies wavelets with 2 (in closed form) and 6 vanishing moments
# (Daubechies 1992, tables 6.1 and 6.3).
SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1)))
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SUPPORT = 3  # pixels that the sym6 low-pass, 12 taps at twice the resolution, reaches to each side
FILTER_PAD = 21  # pixels that the octave bands, 43 taps, reach to each side

BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images, 1/f: the lowest band holds ten octaves
LUMA = torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)  # the gray axis, in homogeneous RGB


class Draws:
    """Random numbers of one call for n images, or a fixed percentile of each distribution with every gate open."""

    def __init__(self, n: int, percentile: float | None, share: Share = ALONE) -> None:
        self.n, self.percentile, self.share = n, percentile, share

    def uniform(self, low: float, high: float) -> Tensor:
        u = self.share.of(torch.rand, self.n) if self.percentile is None else torch.full((self.n,), self.percentile)
        return low + (high - low) * u

    def normal(self, std: float) -> Tensor:
        if self.percentile is None:
            return self.share.of(torch.randn, self.n) * std
        return torch.special.ndtri(torch.full((self.n,), self.percentile)) * std

    def gate(self, probability: float) -> Tensor:
        if self.percentile is not None:
            return torch.ones(self.n, dtype=torch.bool)
        return self.share.of(torch.rand, self.n) < probability


class Augment(nn.Module):
    """The pipe: images [N, C, S, S] in [-1, 1] -> the same shape, augmented with probability `p`.

    Each argument below multiplies p for its transform; 0 leaves the transform out. They apply in this order.
    `conf/augment/pipe/` names the published subsets.

    Args:
        p: probability at the start, in [0, 1]; training moves the attribute `p`, and checkpoints keep it.
        xflip: mirror image, for half of the open gates.
        rotate90: turn by a multiple of 90 degrees, all four alike.
        xint: shift by whole pixels, up to an eighth of the side.
        scale: zoom by 2^N(0, 0.2^2).
        rotate: turn by any angle, before `aniso`, after it or both: with probability p in all.
        aniso: stretch one axis by 2^N(0, 0.2^2) and shrink the other as much.
        xfrac: shift by N(0, 0.125^2) of the side.
        brightness: add N(0, 0.2^2) to the colours.
        contrast: multiply the colours by 2^N(0, 0.5^2).
        lumaflip: light to dark with the hue kept, for half of the open gates.
        hue: turn the colours about the gray axis by any angle.
        saturation: multiply the distance from the gray axis by 2^N(0, 1).
        imgfilter: multiply each of four frequency bands, gated one by one, by 2^N(0, 1); needs more than 21 px.
        noise: add white noise of standard deviation |N(0, 0.1^2)|.
        cutout: set a square of half the side, centred anywhere, to 0.
    """

    def __init__(
        self,
        *,
        p: float = 1.0,
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
        imgfilter: float = 0,
        noise: float = 0,
        cutout: float = 0,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"augmentation probability p must be in [0, 1], not {p}")
        self.p = float(p)
        self.share = ALONE  # of the batch that numbers are drawn for
        self.xflip, self.rotate90, self.xint = xflip, rotate90, xint
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.imgfilter, self.noise, self.cutout = imgfilter, noise, cutout
        self.has_geometry = any((xflip, rotate90, xint, scale, rotate, aniso, xfrac))
        self.has_color = any((brightness, contrast, lumaflip, hue, saturation))
        self.is_identity = not any((self.has_geometry, self.has_color, imgfilter, noise, cutout))
        self.register_buffer("lowpass", setup_filter(SYM6), persistent=False)
        self.register_buffer("bands", octave_bands(), persistent=False)

    def get_extra_state(self) -> dict:
        return {"p": self.p}

    def set_extra_state(self, state: dict) -> None:
        self.p = state["p"]

    def forward(self, images: Tensor, percentile: float | None = None) -> Tensor:
        """Augment with probability p; or, with a percentile in (0, 1), the same way every time, for tests.

        A percentile opens every gate, every draw takes its distribution's value there, and noise is left out.
        One channel is gray, three are RGB, four are RGB and alpha; colour transforms leave alpha as it is.

        Raises:
            ValueError: the images are not square, too small for imgfilter or of channels without a colour.
        """
        n, channels, height, side = images.shape
        if height != side:
            raise ValueError(f"images must be square to be augmented, not {height} x {side}: see data.fit")
        if self.imgfilter and side <= FILTER_PAD:
            raise ValueError(
                f"imgfilter needs images of more than {FILTER_PAD} px, not {side}: model.augment.imgfilter=0"
            )
        if self.has_color and channels not in (1, 3, 4):
            raise ValueError(f"colour augmentation is for gray, RGB and RGBA images, not for {channels} channels")
        if percentile is None and self.p == 0:
            return images

        draws = Draws(n, percentile, self.share)
        if self.has_geometry:
            images = apply_to_changed(self._warp, images, self._geometry(draws, side), torch.eye(3))
        if self.has_color:
            images = apply_to_changed(_recolor, images, self._color(draws, channels), torch.eye(4))
        if self.imgfilter:
            images = apply_to_changed(self._amplify, images, self._gains(draws), 1.0)
        if self.noise and percentile is None:
            sigma = draws.normal(0.1).abs() * draws.gate(self.p * self.noise)
            grain = self.share.of(torch.randn, *images.shape, device=images.device, dtype=images.dtype)
            images = images + grain * _like(images, sigma)[:, None, None, None]
        if self.cutout:
            gate = draws.gate(self.p * self.cutout)
            centers = torch.stack([draws.uniform(0, 1), draws.uniform(0, 1)], dim=1)
            images = apply_to_changed(_cut_out, images, centers.where(gate[:, None], math.inf), math.inf)
        return images

    # ---- geometry ------------------------------------------------------------------------------

    def _geometry(self, draws: Draws, side: int) -> Tensor:
        """Inverse transform [N, 3, 3] in coordinates from -1 to 1: output position -> input position."""
        p = self.p
        inverse = torch.eye(3).repeat(draws.n, 1, 1)
        if self.xflip:
            flip = draws.gate(p * self.xflip) & (draws.uniform(0, 2).floor() == 1)
            inverse @= _scaling(1 - 2 * flip.float(), torch.ones(draws.n))
        if self.rotate90:
            quarters = draws.uniform(0, 4).floor() * draws.gate(p * self.rotate90)
            inverse @= _rotation(-math.pi / 2 * quarters)
        if self.xint:
            gate = draws.gate(p * self.xint)
            x, y = ((draws.uniform(-0.125, 0.125) * side).round() * (2 / side) * gate for _ in range(2))
            inverse @= _translation(-x, -y)
        if self.scale:
            s = torch.exp2(draws.normal(0.2) * draws.gate(p * self.scale))
            inverse @= _scaling(1 / s, 1 / s)
        # Two rotations, each with the probability that makes one of them happen with probability p.
        p_rotate = 1 - math.sqrt(max(0.0, 1 - p * self.rotate))
        if self.rotate:
            inverse @= _rotation(-draws.uniform(-math.pi, math.pi) * draws.gate(p_rotate))
        if self.aniso:
            s = torch.exp2(draws.normal(0.2) * draws.gate(p * self.aniso))
            inverse @= _scaling(1 / s, s)
        if self.rotate:
            inverse @= _rotation(-draws.uniform(-math.pi, math.pi) * draws.gate(p_rotate))
        if self.xfrac:
            gate = draws.gate(p * self.xfrac)
            x, y = (draws.normal(0.125) * 2 * gate for _ in range(2))
            inverse @= _translation(-x, -y)
        return inverse

    def _warp(self, images: Tensor, inverse: Tensor) -> Tensor:
        """Sample without aliasing: reflect, low-pass at twice the size, sample, low-pass and halve."""
        n, c, _, side = images.shape
        window = side + 2 * SUPPORT  # what is sampled: the image and what the last filter needs around it
        corners = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]]) * (window / side)
        reach = (inverse @ torch.cat([corners, torch.ones(1, 4)]))[:, :2].abs().max()  # from the centre, of any image
        margin = math.ceil(max(0.0, float(reach) - 1) * side / 2) + SUPPORT + 1  # 1: of the bilinear sampling
        margin = min(margin, side - 1)  # reflection repeats an image once at most; beyond that are zeros

        impulses = torch.eye(side, device=images.device, dtype=images.dtype)[None]
        impulses = F.pad(impulses, (margin, margin), mode="reflect")[:, :, None]
        up = upfirdn2d(impulses, self.lowpass[None], up=(2, 1), padding=(6, 5, 0, 0), gain=2)[0, :, 0]
        big = up.mT @ images @ up

        shrink = torch.tensor([side / (side + 2 * margin)] * 2 + [1.0]).diag()
        grow = torch.tensor([window / side] * 2 + [1.0]).diag()
        theta = _like(images, (shrink @ inverse @ grow)[:, :2])
        grid = F.affine_grid(theta, [n, c, 2 * window, 2 * window], align_corners=False)
        warped = F.grid_sample(big, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

        # The wavelet is not quite symmetric: the reversed filter undoes its shift. Its ends are cropped.
        impulses = torch.eye(2 * window, device=images.device, dtype=images.dtype)[None, :, None]
        crop = 5 - 2 * SUPPORT
        down = upfirdn2d(impulses, self.lowpass[None], down=(2, 1), padding=(crop, crop, 0, 0), flip_filter=True)
        return down[0, :, 0].mT @ warped @ down[0, :, 0]

    # ---- colour --------------------------------------------------------------------------------

    def _color(self, draws: Draws, channels: int) -> Tensor:
        """Colour transform [N, 4, 4] on homogeneous RGB; exactly the identity where all gates are closed."""
        p = self.p
        one = torch.eye(4)
        rgb, along = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])), LUMA.outer(LUMA)
        matrix = one.repeat(draws.n, 1, 1)
        if self.brightness:
            b = draws.normal(0.2) * draws.gate(p * self.brightness)
            matrix = (one + _each(b) * rgb.sum(dim=0).outer(one[3])) @ matrix
        if self.contrast:
            s = torch.exp2(draws.normal(0.5) * draws.gate(p * self.contrast))
            matrix = (one + _each(s - 1) * rgb) @ matrix
        if self.lumaflip:
            flip = draws.gate(p * self.lumaflip) & (draws.uniform(0, 2).floor() == 1)
            matrix = (one - _each(2 * flip.float()) * along) @ matrix
        if self.hue and channels > 1:  # Rodrigues' formula
            angle = draws.uniform(-math.pi, math.pi) * draws.gate(p * self.hue)
            x, y, z = LUMA[:3].tolist()
            cross = torch.tensor([[0, -z, y, 0], [z, 0, -x, 0], [-y, x, 0, 0], [0, 0, 0, 0]])
            matrix = (one + _each(angle.sin()) * cross + _each(1 - angle.cos()) * (along - rgb)) @ matrix
        if self.saturation and channels > 1:
            s = torch.exp2(draws.normal(1.0) * draws.gate(p * self.saturation))
            matrix = (one + _each(s - 1) * (rgb - along)) @ matrix
        return matrix

    # ---- corruption ----------------------------------------------------------------------------

    def _gains(self, draws: Draws) -> Tensor:
        """Gains of the frequency bands [N, 4]; every amplification keeps the expected power of a natural image."""
        gains = torch.ones(draws.n, len(BAND_POWER))
        for band, power in enumerate(BAND_POWER):
            gain = torch.exp2(draws.normal(1.0) * draws.gate(self.p * self.imgfilter))
            gains[:, band] *= gain
            gains /= (1 + power * (gain.square() - 1)).sqrt()[:, None]
        return gains

    def _amplify(self, images: Tensor, gains: Tensor) -> Tensor:
        """Filter rows and columns by the weighted sum of the bands, the borders reflected."""
        kernels = _like(images, gains) @ self.bands.to(images.dtype)
        impulses = torch.eye(images.shape[-1], device=images.device, dtype=images.dtype)[:, None]
        impulses = F.pad(impulses, (FILTER_PAD, FILTER_PAD), mode="reflect")
        matrix = F.conv1d(impulses, kernels[:, None]).movedim(1, 0)[:, None]  # [N, 1, input pixel, output pixel]
        return matrix.mT @ images @ matrix


def octave_bands() -> Tensor:
    """Symmetric filters [4, 43] of four frequency bands that sum to the unit impulse, lowest first.

    sym2 splits a band in two halves without loss, |H(z)|^2 + |H(-z)|^2 = 2; three times over, each time the
    lower half, this leaves [0, 1/8], [1/8, 1/4], [1/4, 1/2] and [1/2, 1] of the highest frequency.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1.0) ** np.arange(-3, 4)
    bands = [np.ones(1)]
    for step in (1, 2, 4):  # so many samples from tap to tap: it cuts at so much lower a frequency
        dilated = np.zeros((2, 6 * step + 1))
        dilated[:, ::step] = low, high
        bands = [np.convolve(bands[0], dilated[0]), np.convolve(bands[0], dilated[1]), *bands[1:]]
    padded = [np.pad(band, FILTER_PAD - len(band) // 2) for band in bands]
    return torch.tensor(np.stack(padded), dtype=torch.float32)


def apply_to_changed(
    function: Callable[[Tensor, Tensor], Tensor], images: Tensor, values: Tensor, neutral: Tensor | float
) -> Tensor:
    """function(images, values) of the images whose values (on the host) are not neutral; the others untouched."""
    (changed,) = (values != neutral).flatten(1).any(dim=1).nonzero(as_tuple=True)
    if len(changed) == 0:
        return images
    index = changed.to(images.device, non_blocking=True)
    return images.index_copy(0, index, function(images[index], values[changed]))


def _like(images: Tensor, values: Tensor) -> Tensor:
    """Host values where the images are, in their precision."""
    return values.to(images.device, images.dtype, non_blocking=True)


def _each(values: Tensor) -> Tensor:
    """[N] -> [N, 1, 1], to multiply one matrix an image."""
    return values[:, None, None]


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y, torch.ones_like(x)], dim=1).diag_embed()


def _translation(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.eye(3).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def _rotation(angle: Tensor) -> Tensor:
    matrix = torch.eye(3).repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def _recolor(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply [N, 4, 4] to RGB, its mean over the rows to gray; a fourth channel, alpha, stays."""
    matrix = _like(images, matrix)
    if images.shape[1] == 1:
        gray = matrix[:, :3].mean(dim=1)
        return images * gray[:, :3].sum(dim=1)[:, None, None, None] + gray[:, 3][:, None, None, None]
    pixels = images[:, :3].flatten(2)
    rgb = (matrix[:, :3, :3] @ pixels + matrix[:, :3, 3:]).unflatten(2, images.shape[2:])
    return torch.cat([rgb, images[:, 3:]], dim=1)


def _cut_out(images: Tensor, centers: Tensor) -> Tensor:
    """Set the square of half the side around each centre [N, 2], x and y from 0 to 1, to 0."""
    side = images.shape[-1]
    pixels = (torch.arange(side, device=images.device) + 0.5) / side
    inside = (pixels - _like(images, centers)[:, :, None]).abs() < 0.25  # [N, 2, side]
    return images.masked_fill((inside[:, :1, None, :] & inside[:, 1:, :, None]), 0.0)
