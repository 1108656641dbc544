"""Draws lesions into a photograph: in optical density, under its light, at its blur, with its grain.

The photograph's own pixels are filtered, never replaced: light that a lesion leaves is the photograph's times
exp(-OD), so pores, wrinkles, shadows and grain stay where they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from acne_lab.edit.colour import from_linear, luminance, to_linear
from acne_lab.edit.face import Analysis
from acne_lab.edit.lesions import REACH, Layers, Lesion

FINE = 9.0  # samples along a radius below which a lesion is drawn finer than the photograph
PUS = np.array((1.0, 0.90, 0.66), np.float32)  # colour of pus under white light, its red as 1
GRAIN_SIGMA = 1.0  # pixels: detail below this counts as grain
GRAIN_POWER = 0.5  # photon noise goes with the root of the light (Poisson)
TILE = 384


class Overlaid(NamedTuple):
    """A photograph with lesions."""

    image: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # bool [H, W]: where lesions reach; elsewhere the photograph is untouched


class Overlay:
    """Puts lesions onto skin.

    Args:
        shading: how much a raised lesion catches the light; 0 leaves it flat.
        blur_scale: times the camera's measured blur; 0 draws lesions sharp.
        keep_grain: True keeps the photograph's grain as strong as light of the new brightness would have it;
            False scales it with the light.
    """

    def __init__(self, *, shading: float = 1.0, blur_scale: float = 1.0, keep_grain: bool = True) -> None:
        if shading < 0 or blur_scale < 0:
            raise ValueError("shading and blur_scale must not be negative")
        self.shading, self.blur_scale, self.keep_grain = shading, blur_scale, keep_grain

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
        """Draws the lesions.

        Args:
            photo: uint8 [H, W, 3].
            centres: [N, 2] x, y pixels.
            diameters: [N] pixels.
            intensity: in [0, 1]; multiplies the optical density of everything, so 0 changes no pixel.
        """
        density = np.zeros(photo.shape, np.float32)
        mask = np.zeros(photo.shape[:2], bool)
        blurs = analysis.blur_at(centres) * self.blur_scale if len(lesions) else ()
        tilts = analysis.tilt_at(centres) if len(lesions) else ()
        for lesion, centre, diameter, blur, tilt in zip(lesions, centres, diameters, blurs, tilts):
            window = _window(photo.shape, centre, REACH * diameter / 2 + 3 * blur + 1)
            layers, reached = self._drawn(lesion, centre, diameter / 2, float(blur), tilt, window, analysis)
            density[window] += self._density(layers, photo[window], analysis, window)
            mask[window] |= reached
        mask &= analysis.skin > 0
        return Overlaid(self._filtered(photo, density * np.float32(intensity), mask), mask)

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
            lit = np.log1p(np.clip(self.shading * 1.1 * facing, -0.45, 0.45))
        parts = (layers.absorbance * fade[..., None], layers.pus * fade, lit * fade, layers.gloss * fade)
        absorbance, pus, lit, gloss = (_at_pixels(part, finer, blur) for part in parts)
        reached = _at_pixels((distance < REACH).astype(np.float32), finer, 0.0) > 0
        return Layers(absorbance, pus, lit, gloss), reached

    def _density(self, layers: Layers, photo: np.ndarray, analysis: Analysis, window: tuple) -> np.ndarray:
        """Optical density to add [h, w, 3]: pigments, the light on a raised surface, pus and gloss over them."""
        density = layers.absorbance - layers.height[..., None]
        skin = np.clip(analysis.skin[window] * 2, 0, 1)[..., None]
        if layers.pus.any() or layers.gloss.any():
            light = to_linear(photo)
            under = np.maximum(np.stack([gaussian_filter(light[..., c], 1.5) for c in range(3)], axis=-1), 4e-3)
            level = luminance(under)
            lamp = analysis.illumination[window]
            # Pus is pale but wet and thin: on pale skin little lighter than it, on dark skin far from white.
            pale = np.clip(np.maximum(1.35 * level, 0.34 * lamp), 0, 0.88)[..., None] * PUS
            head = -np.log(np.maximum(pale, 4e-3) / under)
            pus = layers.pus[..., None]
            density = density * (1 - pus) + head * pus
            density = density - np.log1p((layers.gloss * lamp)[..., None] / under)
        return density * skin

    def _filtered(self, photo: np.ndarray, density: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The photograph through the density, inside of the mask, tile by tile."""
        image = photo.copy()
        margin = 4
        for y in range(0, photo.shape[0], TILE):
            for x in range(0, photo.shape[1], TILE):
                inside = mask[y : y + TILE, x : x + TILE]
                if not inside.any():
                    continue
                top, left = min(y, margin), min(x, margin)
                light = to_linear(photo[y - top : y + TILE + margin, x - left : x + TILE + margin])
                passed = np.exp(-density[y - top : y + TILE + margin, x - left : x + TILE + margin])
                if self.keep_grain:
                    smooth = np.stack([gaussian_filter(light[..., c], GRAIN_SIGMA) for c in range(3)], axis=-1)
                    light = smooth * passed + (light - smooth) * passed**GRAIN_POWER
                else:
                    light = light * passed
                light = light[top : top + TILE, left : left + TILE][: inside.shape[0], : inside.shape[1]]
                image[y : y + TILE, x : x + TILE][inside] = from_linear(light[inside])
        return image


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
