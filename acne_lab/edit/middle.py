"""What fills the middle of a photograph, told from what surrounds it by colour, brightness and connection.

A portrait and a close-up both have skin in the middle; a wall, hair or a collar of skin colour lies around it. So
the skin's model is a Gaussian of what is commonest in the middle, and it competes with one Gaussian for each piece
of the border that is something else and for each colour inside that skin has not (a quadratic discriminant): a wall
whose colour the skin's model would admit is far more even than skin and wins its pixels back.

What it does not know: surroundings of the very colour and brightness of this skin, and faces far from the middle.
"""

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.ndimage import binary_fill_holes, binary_opening, binary_propagation, gaussian_filter, label

from acne_lab.edit.colour import log_chroma, luminance

SIDE = 96  # pixels of the copy on which regions compete
MIDDLE = 0.24  # radius of the disc that must hold skin, in short sides
LEAST_SHARE = 0.3  # of the disc that has a colour of skin
WEIGHTS = np.array((1.0, 1.0, 0.5), np.float32)  # of log R/G, log G/B and log luminance, which shading changes
NEAR = np.array((0.35, 0.35, 0.40), np.float32)  # how far the middle's skin reaches from its commonest colour
LEAST_SPREAD = np.array((0.05, 0.05, 0.08), np.float32)  # of skin; even a perfectly even one is lit unevenly
GRAIN = 0.015  # least standard deviation of any other region
PIECES = 6  # of each side of the border
BORDER = 0.03  # its width, in short sides
SURELY_OTHER, PERHAPS_OTHER = 5.0, 2.2  # Mahalanobis distances from the middle's skin; nearer is skin that goes on
REACH = 4.0  # ... beyond which nothing is skin
LESION = 0.035  # width of the largest hole that is a lesion and not an eye or the lips, in short sides
EVEN = 0.03  # standard deviation of both ratios below which a piece of border that is near to skin may be a wall


def middle_region(light: np.ndarray, skin_coloured: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The region of skin that holds the middle, and its typical pixels.

    Args:
        light: linear light [h, w, 3].
        skin_coloured: bool [h, w]: what has a colour that skin may have in some light.

    Returns:
        float32 [h, w] in [0, 1], soft at its border, and bool [h, w]; None if the middle has no colour of skin.
    """
    shape = light.shape[:2]
    factor = min(1.0, SIDE / max(shape))
    size = max(8, round(shape[1] * factor)), max(8, round(shape[0] * factor))
    small = np.stack([_resized(light[..., k], size, Image.Resampling.BOX) for k in range(3)], axis=-1)
    small = gaussian_filter(small, (0.8, 0.8, 0))
    tones = np.concatenate([log_chroma(small + 0.002), np.log(luminance(small) + 0.003)[..., None]], -1) * WEIGHTS
    core = _core(tones, _resized(skin_coloured.astype(np.float32), size, Image.Resampling.BOX) > 0.5)
    if core is None:
        return None
    region = _grown(tones, core)
    soft = gaussian_filter(region.astype(np.float32), 0.5)
    return _resized(soft, shape[::-1], Image.Resampling.BILINEAR), (
        _resized((core & region).astype(np.float32), shape[::-1], Image.Resampling.BILINEAR) > 0.5
    )


def _core(tones: np.ndarray, skin_coloured: np.ndarray) -> np.ndarray | None:
    """bool [h, w]: pixels of the middle around its commonest colour."""
    height, width = skin_coloured.shape
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) < MIDDLE * min(height, width)
    if skin_coloured[disc].mean() < LEAST_SHARE:
        return None
    points = tones[disc & skin_coloured]
    mode = np.median(points, axis=0)
    for _ in range(10):  # mean shift
        weight = np.exp(-(((points - mode) / (0.7 * NEAR)) ** 2).sum(1) / 2)
        mode = weight @ points / weight.sum()
    return disc & skin_coloured & ((((tones - mode) / NEAR) ** 2).sum(-1) < 1)


def _grown(tones: np.ndarray, core: np.ndarray) -> np.ndarray:
    """bool [h, w]: what the skin's model wins and is connected with the core."""
    mean, covariance = trimmed_gaussian(tones[core], LEAST_SPREAD)
    distance = mahalanobis(tones, mean, covariance)
    others = [
        trimmed_gaussian(tones[piece], np.full(3, GRAIN))
        for piece in _pieces(core.shape)
        if _is_other(tones[piece], distance[piece])
    ]
    far = tones[distance > SURELY_OTHER]
    if len(far) >= 40:
        _, nearest = kmeans2(far.astype(float), 4, minit="++", seed=0)
        others += [
            trimmed_gaussian(far[nearest == k], np.full(3, GRAIN)) for k in range(4) if (nearest == k).sum() >= 10
        ]
    skin = distance < REACH
    penalty = distance**2 + np.linalg.slogdet(covariance)[1]
    for other, spread in others:
        skin &= penalty < mahalanobis(tones, other, spread) ** 2 + np.linalg.slogdet(spread)[1]
    skin = binary_opening(skin | core)
    region = binary_propagation(core & skin, mask=skin)
    parts, num = label(binary_fill_holes(region) & ~region)
    small = np.bincount(parts.ravel(), minlength=num + 1) < (LESION * min(core.shape)) ** 2
    small[0] = False
    return region | small[parts]


def _is_other(tones: np.ndarray, distance: np.ndarray) -> bool:
    even = bool((tones[:, :2].std(0) < EVEN).all())
    return float(np.median(distance)) > (PERHAPS_OTHER if even else SURELY_OTHER)


def _pieces(shape: tuple[int, int]) -> list[np.ndarray]:
    """bool [h, w] each: the border, cut into pieces."""
    height, width = shape
    thick = max(2, round(BORDER * min(shape)))
    y, x = np.mgrid[:height, :width]
    sides = (y < thick, x), (y >= height - thick, x), (x < thick, y), (x >= width - thick, y)
    return [side & (along * PIECES // (along.max() + 1) == k) for side, along in sides for k in range(PIECES)]


def trimmed_gaussian(samples: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] of samples [N, D] without their outliers (three rounds of trimming).

    Args:
        least: standard deviations [D] that are added.
    """
    kept = np.ones(len(samples), bool)
    for _ in range(3):
        mean = samples[kept].mean(0)
        covariance = np.cov(samples[kept].T) + np.diag(least**2)
        distance = mahalanobis(samples, mean, covariance)
        kept = distance <= min(2.5, max(1.0, float(np.quantile(distance, 0.9))))
    return mean, covariance


def mahalanobis(points: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Distances [...] of points [..., D]."""
    difference = points - mean
    return np.sqrt(np.einsum("...i,ij,...j->...", difference, np.linalg.inv(covariance), difference))


def _resized(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(size, how))
