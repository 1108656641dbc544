"""Colours as people see them: sRGB to CIELAB, and what CIELAB says of skin."""

import numpy as np

# IEC 61966-2-1: linear light of the 256 codes, and the primaries as XYZ under D65.
_CODES = np.arange(256) / 255
LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_LINEAR_BELOW = (6 / 29) ** 3  # of CIE 1976's cube root
ITA_LIMITS = (55, 41, 28, 10, -30)  # degrees between Fitzpatrick-like types I|II|III|IV|V|VI (Del Bino & Bernerd 2013)


def lab(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB [..., 3] -> float32 CIELAB [..., 3]: L* in [0, 100], a* (green to red), b* (blue to yellow); D65.

    A distance of 1 is about what a trained eye can just tell apart side by side; a* is what erythema raises.
    """
    return lab_of_light(LINEAR[image])


def lab_of_light(light: np.ndarray) -> np.ndarray:
    """The same of linear light [..., 3] in [0, 1]."""
    xyz = light @ (TO_XYZ / TO_XYZ.sum(axis=1, keepdims=True)).T  # white is (1, 1, 1)
    f = np.where(xyz > _LINEAR_BELOW, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def typology_angle(lab: np.ndarray) -> float:
    """Individual typology angle of a skin's CIELAB colour [3], atan((L* - 50) / b*): 90 degrees palest, -90 darkest
    (Chardon et al. 1991)."""
    L, _, b = lab
    return float(np.degrees(np.arctan2(L - 50, max(b, 1e-3))))


def skin_type(angle: float) -> int:
    """1 to 6 for the Fitzpatrick-like types I to VI of a typology angle in degrees."""
    return 1 + sum(angle <= limit for limit in ITA_LIMITS)
