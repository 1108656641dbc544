"""Finds the lesions a face has already where nobody has marked them: red or dark blobs on skin.

A difference of Gaussians over the erythema index log R/G and over log luminance (Lindeberg 1998: a blob of
radius r answers most at sigma = r / sqrt 2). It finds most inflamed lesions and some moles, and misses skin-coloured
ones; counts that matter should come from boxes.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter

STEP = 1.45  # ratio of neighbouring scales
SIZES = (0.008, 0.045)  # diameters looked for, in close-up scales: 5th to 98th percentile of ACNE04's
RED, DARK = 0.08, 0.13  # least contrast in optical density
STANDS_OUT = 6.0  # and in robust standard deviations of the same scale's answers on this skin


def find_lesions(chroma: np.ndarray, brightness: np.ndarray, skin: np.ndarray, scale: float) -> np.ndarray:
    """Boxes float32 [M, 4] (x0, y0, x1, y1, pixels) of blobs on the skin.

    Args:
        chroma: [h, w, 2] of `colour.log_chroma`.
        brightness: log luminance [h, w].
        skin: [h, w] in [0, 1].
        scale: side of a close-up in these pixels.
    """
    bare = skin > 0.6
    smallest, largest = max(SIZES[0] * scale, 2.2), SIZES[1] * scale
    if not bare.any() or largest < smallest:
        return np.zeros((0, 4), np.float32)
    sigmas = [smallest / 2 / np.sqrt(2)]
    while sigmas[-1] * 2 * np.sqrt(2) < largest:
        sigmas.append(sigmas[-1] * STEP)
    strengths = []
    weight = bare.astype(np.float32)
    for channel, least in ((chroma[..., 0], RED), (-brightness, DARK)):
        # Outside of the skin the channel continues smoothly, or every border would be a blob.
        filled = np.where(bare, channel, _continued(channel, weight, 0.03 * scale))
        for sigma in sigmas:
            answer = gaussian_filter(filled, sigma) - gaussian_filter(filled, sigma * 1.6)
            spread = 1.4826 * np.median(np.abs(answer[bare] - np.median(answer[bare])))
            strengths.append(answer / max(STANDS_OUT * spread, 0.35 * least))
    stack = np.array(strengths)
    best, which = stack.max(0), stack.argmax(0) % len(sigmas)
    inside = distance_transform_edt(bare) > 1.2 * np.array(sigmas)[which] * np.sqrt(2)  # a border is no blob
    peak = (best > 1) & inside & (best == maximum_filter(best, size=max(3, round(smallest))))
    rows, columns = np.nonzero(peak)
    radius = np.array(sigmas)[which[rows, columns]] * np.sqrt(2)
    return _without_overlaps(rows, columns, radius, best[rows, columns])


def _continued(channel: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(channel * weight, sigma) / (gaussian_filter(weight, sigma) + 1e-3)


def _without_overlaps(rows: np.ndarray, columns: np.ndarray, radius: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Strongest first; what lies inside a stronger one is the same lesion."""
    kept: list[tuple[float, float, float]] = []
    for k in np.argsort(-strength, kind="stable"):
        x, y, r = columns[k] + 0.5, rows[k] + 0.5, radius[k]
        if all((x - a) ** 2 + (y - b) ** 2 > max(r, c) ** 2 for a, b, c in kept):
            kept.append((x, y, r))
    return np.array([(x - r, y - r, x + r, y + r) for x, y, r in kept], np.float32).reshape(-1, 4)
