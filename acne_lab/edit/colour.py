"""Colour as light and as pigment.

Skin is a filter in front of a mirror: what a pigment takes from the light multiplies, so it adds in optical
density, OD = -log(linear light). An edit that adds OD keeps texture, shading and shadows of the photograph and
suits every tone; one that mixes colours in sRGB does neither (Tsumura et al. 2003, "Image-based skin color and
texture analysis/synthesis by extracting hemoglobin and melanin information in the skin", equations 1-4).
"""

import numpy as np
from PIL import Image

from acne_lab.colour import LINEAR
from acne_lab.data.portrait import HAEMOGLOBIN, MELANIN

__all__ = ["HAEMOGLOBIN", "MELANIN", "from_linear", "log_chroma", "luminance", "shrink", "to_linear"]

DARKEST = np.float32(1.5e-3)  # linear light below this is noise; the OD of black would be infinite


_STEPS = 1 << 14  # of the inverse table, over the square root of light: a step is a tenth of a level at most
_SQUARES = (np.arange(_STEPS + 1) / _STEPS) ** 2
_SRGB_OF_ROOT = np.where(
    _SQUARES <= 0.0031308, _SQUARES * 12.92, 1.055 * np.maximum(_SQUARES, 1e-9) ** (1 / 2.4) - 0.055
).astype(np.float32)


def to_linear(photo: np.ndarray) -> np.ndarray:
    """uint8 sRGB (IEC 61966-2-1) to linear light in [0, 1], float32, any shape."""
    return LINEAR[photo]


def from_linear(light: np.ndarray) -> np.ndarray:
    """Linear light to uint8 sRGB, rounded and clipped: the exact inverse of `to_linear` on its values."""
    root = np.sqrt(np.clip(light, 0, 1))
    return (_SRGB_OF_ROOT[(root * _STEPS + 0.5).astype(np.int32)] * 255 + 0.5).astype(np.uint8)


def luminance(light: np.ndarray) -> np.ndarray:
    """Rec. 709 luminance [...] of linear light [..., 3]."""
    return light @ np.array((0.2126, 0.7152, 0.0722), np.float32)


def log_chroma(light: np.ndarray) -> np.ndarray:
    """(log R/G, log G/B) [..., 2] of linear light: free of shading, and the difference of optical densities.

    Along the first axis blood moves a colour and along both melanin does: a band that holds all skin.
    """
    log = np.log(np.maximum(light, DARKEST))
    return np.stack([log[..., 0] - log[..., 1], log[..., 1] - log[..., 2]], axis=-1)


def shrink(photo: np.ndarray, long_side: int) -> np.ndarray:
    """A uint8 photograph, reduced to at most `long_side` by area averages; never enlarged."""
    height, width = photo.shape[:2]
    factor = long_side / max(height, width)
    if factor >= 1:
        return photo
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))
