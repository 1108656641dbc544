"""Draws lesions into a photograph: in optical density, under its light, at its blur, with its grain.

The photograph's own pixels are filtered, never replaced: light that a lesion leaves is the photograph's times
exp(-OD), so pores, wrinkles, shadows and grain stay where they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from acne_lab.colour import lab, lab_of_light
from acne_lab.edit.colour import from_linear, to_linear
from acne_lab.edit.face import Analysis
from acne_lab.edit.lesions import REACH, Layers, Lesion

FINE = 9.0  # samples along a radius below which a lesion is drawn finer than the photograph
# Light that pus gives back, over that of the skin around it, for the palest and the darkest skin: wet and thin, it
# is a little lighter and yellower than the one, and far from white on the other.
PUS_ON_PALE = np.array((1.20, 1.56, 1.36), np.float32)
PUS_ON_DARK = np.array((2.30, 2.90, 2.30), np.float32)
SHADOW = np.array((0.82, 1.0, 1.06), np.float32)  # shading on skin by channel: red light creeps into shadows
SHINES = 1.25  # light over that of typical skin under the local lamp from which on the rest is a mirror's
GRAIN_SIGMA = 1.0  # pixels: detail below this counts as grain
GRAIN_POWER = 0.5  # photon noise goes with the root of the light (Poisson)
TILE = 384
# CIELAB, of the pixel that changes most. People count lesions that they can see: fainter draws are strengthened.
VISIBLE = 3.0  # a change that people notice at a glance; just noticeable side by side is about 1
SOFT = 4  # order of the mean of a lesion's own change and the least: a hard floor would make faint ones all alike
STRONGEST = 20.0  # times its density: what even that leaves faint is far smaller than the blur, or lies in black shadow
ROUNDS = 4


class Overlaid(NamedTuple):
    """A photograph with lesions."""

    image: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # bool [H, W]: where lesions reach; elsewhere the photograph is untouched
    strengths: np.ndarray  # float32 [N], at least 1: times its optical density, so that each lesion can be seen


class Overlay:
    """Puts lesions onto skin.

    Args:
        shading: how much a raised lesion catches the light; 0 leaves it flat.
        blur_scale: times the camera's measured blur; 0 draws lesions sharp.
        keep_grain: True keeps the photograph's grain as strong as light of the new brightness would have it;
            False scales it with the light.
        least_change: CIELAB distance that a lesion's most changed pixel has at full intensity, or more. Its default
            lies above `VISIBLE`, for grain, rounding and neighbours take some of it. 0 leaves faint lesions faint.
    """

    def __init__(
        self,
        *,
        shading: float = 1.0,
        blur_scale: float = 1.0,
        keep_grain: bool = True,
        least_change: float = 4.5,
    ) -> None:
        if min(shading, blur_scale, least_change) < 0:
            raise ValueError("shading, blur_scale and least_change must not be negative")
        self.shading, self.blur_scale, self.keep_grain = shading, blur_scale, keep_grain
        self.least_change = least_change

    def __call__(
        self,
        photo: np.ndarray,
        analysis: Analysis,
        lesions: Sequence[Lesion],
        centres: np.ndarray,
        diameters: np.ndarray,
        *,
        intensity: float,
    ) -> Overlaid:
        """Draws the lesions, the faintest so much stronger that at full intensity each can be seen.

        Args:
            photo: uint8 [H, W, 3].
            centres: [N, 2] x, y pixels.
            diameters: [N] pixels.
            intensity: in [0, 1]; multiplies the optical density of everything, so 0 changes no pixel.
        """
        density = np.zeros(photo.shape, np.float32)
        mask = np.zeros(photo.shape[:2], bool)
        strengths = np.ones(len(lesions), np.float32)
        blurs = analysis.blur_at(centres) * self.blur_scale if len(lesions) else ()
        tilts = analysis.tilt_at(centres) if len(lesions) else ()
        parts = zip(lesions, centres, diameters, blurs, tilts)
        for k, (lesion, centre, diameter, blur, tilt) in enumerate(parts):
            window = _window(photo.shape, centre, REACH * diameter / 2 + 3 * blur + 1)
            layers, reached = self._drawn(lesion, centre, diameter / 2, float(blur), tilt, window, analysis)
            added = self._density(layers, photo[window], analysis, window, diameter / 2)
            strengths[k] = self._strength(added, photo, analysis, window, centre, diameter / 2)
            density[window] += strengths[k] * added
            mask[window] |= reached
        mask &= analysis.skin > 0
        return Overlaid(self._filtered(photo, density, mask, analysis, intensity), mask, strengths)

    def _drawn(
        self,
        lesion: Lesion,
        centre: np.ndarray,
        radius: float,
        blur: float,
        tilt: np.ndarray,
        window: tuple[slice, slice],
        analysis: Analysis,
    ) -> tuple[Layers, np.ndarray]:
        """A lesion's layers at the window's pixels, its height already turned into light, and where it reaches."""
        finer = int(np.clip(np.ceil(FINE / radius), 1, 8))
        (y0, y1), (x0, x1) = ((part.start, part.stop) for part in window)
        y = (y0 + (np.arange((y1 - y0) * finer) + 0.5) / finer - centre[1])[:, None] / radius
        x = (x0 + (np.arange((x1 - x0) * finer) + 0.5) / finer - centre[0])[None, :] / radius
        x, y = np.broadcast_arrays(x, y)
        slope = float(np.hypot(*tilt))
        u, v = x, y
        if slope > 0.05:  # a disc on a tilted surface is an ellipse, narrow along the tilt
            across = (x * tilt[0] + y * tilt[1]) / slope**2 * (1 / np.sqrt(1 - slope**2) - 1)
            u, v = x + across * tilt[0], y + across * tilt[1]
        u, v = u.astype(np.float32), v.astype(np.float32)
        layers = lesion.layers(u, v, light=analysis.light, darkness=analysis.tone.darkness)
        distance = np.hypot(u, v)
        fade = np.clip((REACH - distance) / (0.45 * REACH), 0, 1)
        fade = fade * fade * (3 - 2 * fade)  # smooth to the very border: a seam is the first thing seen
        lit = np.zeros_like(u)
        if layers.height.any():
            step = 1 / (finer * radius)
            dy, dx = np.gradient(layers.height, step)
            facing = -(dx * analysis.light[0] + dy * analysis.light[1])
            lit = np.log1p(np.clip(self.shading * 1.5 * facing, -0.45, 0.45))
        parts = (layers.absorbance * fade[..., None], layers.pus * fade, lit * fade, layers.gloss * fade)
        absorbance, pus, lit, gloss = (_at_pixels(part, finer, blur) for part in parts)
        reached = _at_pixels((distance < REACH).astype(np.float32), finer, 0.0) > 0
        return Layers(absorbance, pus, lit, gloss), reached

    def _density(
        self, layers: Layers, photo: np.ndarray, analysis: Analysis, window: tuple, radius: float
    ) -> np.ndarray:
        """Optical density to add [h, w, 3]: pigments, the light on a raised surface, pus and gloss over them."""
        density = layers.absorbance - layers.height[..., None] * SHADOW
        if layers.pus.any() or layers.gloss.any():
            light = to_linear(photo)
            under = np.maximum(np.stack([gaussian_filter(light[..., c], 1.5) for c in range(3)], axis=-1), 4e-3)
            darkness = analysis.tone.darkness
            lighter = PUS_ON_PALE ** (1 - darkness) * PUS_ON_DARK**darkness
            head = -np.log(np.minimum(lighter, np.maximum(0.88 / under, 1)))
            pus = layers.pus[..., None]
            density = density * (1 - pus) + head * pus
            density = density - np.log1p((layers.gloss * analysis.illumination[window])[..., None] / under)
        # Lesions near lips or hair fade towards them: a cut edge would betray the mask.
        inside = gaussian_filter(analysis.skin[window], max(0.30 * radius, 0.5))
        inside = np.clip(2 * inside - 1, 0, 1)
        return density * (inside * (2 - inside))[..., None]

    def _strength(
        self,
        density: np.ndarray,
        photo: np.ndarray,
        analysis: Analysis,
        window: tuple[slice, slice],
        centre: np.ndarray,
        radius: float,
    ) -> float:
        """By what a lesion's density must be multiplied to be seen on this skin; the same at every intensity."""
        box = _window(photo.shape, centre, radius)
        inner = tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, window))
        before, strength, wanted = lab(photo[box]), 1.0, None
        for _ in range(ROUNDS):
            after = lab_of_light(np.clip(self._light(photo[box], analysis, box, strength * density[inner]), 0, 1))
            change = float(np.linalg.norm(after - before, axis=-1).max())
            if wanted is None:
                wanted = (change**SOFT + self.least_change**SOFT) ** (1 / SOFT)
            if change > 0.98 * wanted:
                break
            strength = min(strength * wanted / max(change, 1e-3), STRONGEST)
        return strength

    def _filtered(
        self, photo: np.ndarray, density: np.ndarray, mask: np.ndarray, analysis: Analysis, intensity: float
    ) -> np.ndarray:
        """The photograph through the density, inside of the mask, tile by tile."""
        image = photo.copy()
        margin = 4
        for y in range(0, photo.shape[0], TILE):
            for x in range(0, photo.shape[1], TILE):
                inside = mask[y : y + TILE, x : x + TILE]
                if not inside.any():
                    continue
                top, left = min(y, margin), min(x, margin)
                part = slice(y - top, y + TILE + margin), slice(x - left, x + TILE + margin)
                light = self._light(photo[part], analysis, part, np.float32(intensity) * density[part])
                light = light[top : top + TILE, left : left + TILE][: inside.shape[0], : inside.shape[1]]
                image[y : y + TILE, x : x + TILE][inside] = from_linear(light[inside])
        return image

    def _light(
        self, photo: np.ndarray, analysis: Analysis, window: tuple[slice, slice], density: np.ndarray
    ) -> np.ndarray:
        """Linear light of a window of the photograph seen through the density, [h, w, 3].

        Only light that has been under the skin meets its pigments; what shines on top of it stays as it is
        (the dichromatic reflection model, Shafer 1985).
        """
        light = to_linear(photo)
        passed = np.exp(-density)
        smooth = np.stack([gaussian_filter(light[..., c], GRAIN_SIGMA) for c in range(3)], axis=-1)
        brightest = SHINES * analysis.colour * analysis.illumination[window][..., None]
        shine = np.maximum((smooth - brightest).min(-1, keepdims=True), 0)
        power = GRAIN_POWER if self.keep_grain else 1.0
        return shine + (smooth - shine) * passed + (light - smooth) * passed**power


def _window(shape: tuple[int, ...], centre: np.ndarray, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the photograph within `reach` of a point."""
    x, y = centre
    return (
        slice(max(int(y - reach), 0), min(int(y + reach) + 2, shape[0])),
        slice(max(int(x - reach), 0), min(int(x + reach) + 2, shape[1])),
    )


def _at_pixels(layer: np.ndarray, finer: int, blur: float) -> np.ndarray:
    """Camera: the layer [h * finer, w * finer, ...] blurred by `blur` pixels and averaged over each pixel."""
    if blur > 0.2:
        sigma = (blur * finer, blur * finer) + (0,) * (layer.ndim - 2)
        layer = gaussian_filter(layer, sigma, truncate=3.0)
    if finer == 1:
        return layer
    height, width = layer.shape[0] // finer, layer.shape[1] // finer
    return layer.reshape(height, finer, width, finer, *layer.shape[2:]).mean((1, 3))
