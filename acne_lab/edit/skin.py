"""Which pixels are bare skin: a colour model fitted to each photograph, a texture test, anatomy where it is known.

The colour model is a Gaussian in (log R/G, log G/B): shading cancels there, and from Fitzpatrick I to VI skin
moves along a short band whose place depends on the light. So nothing but the band is fixed beforehand; the
Gaussian is fitted to this photograph's cheeks, or without landmarks to what fills its middle (see `middle`).
What it does not know: beards of skin colour; without landmarks neck and face are one.
"""

import numpy as np
from scipy.ndimage import binary_fill_holes, binary_opening, distance_transform_edt, gaussian_filter, label

from acne_lab.edit.colour import log_chroma, luminance
from acne_lab.edit.middle import mahalanobis, middle_region, trimmed_gaussian
from acne_lab.edit.regions import face_region, face_width, feature_region, forehead_region, seed_region

# Any skin in any usual light: means and half widths of log R/G and log G/B in linear light.
BAND_CENTRE, BAND_HALF = np.array((0.74, 0.50), np.float32), np.array((0.56, 0.60), np.float32)
DARKEST_SKIN = 0.008  # luminance of linear light: below it all colours are alike
EVENEST = 0.022  # a wall of skin colour varies less than this in both ratios; cheeks do not
REACH, REACH_ON_FACE, REACH_ON_FOREHEAD = 3.0, 4.0, 3.2  # Mahalanobis distance where a colour is as likely skin as not
LEAST_SPREAD = np.array((0.07, 0.08), np.float32)  # standard deviations of a perfectly even skin's model
MAX_SHADE, MAX_SHADE_ON_FOREHEAD = 1.6, 0.75  # how much darker than the typical pixel skin may be, in log luminance
MAX_SHINE = 1.0  # ... and how much brighter
LARGEST_HOLE, LARGEST_HOLE_ON_FACE = 0.05, 0.09  # that a lesion leaves, in units; where landmarks are unknown, lips do


class NoSkin(Exception):
    """There is too little bare skin to judge; the message says what is there."""


def skin_probability(light: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
    """How likely each pixel is bare facial skin.

    Args:
        light: linear light [h, w, 3]; a few hundred pixels a side are best.
        landmarks: [68, 2] pixels of `light`, or None.

    Returns:
        float32 [h, w] in [0, 1].

    Raises:
        NoSkin: no part of the photograph has the colour of skin.
    """
    shape = light.shape[:2]
    chroma, brightness = log_chroma(light), np.log(np.maximum(luminance(light), 1e-3))
    rough = _roughness(brightness)
    if landmarks is not None:
        seed = seed_region(landmarks, shape)
        allowed = face_region(landmarks, shape) & ~feature_region(landmarks, shape)
        unit = face_width(landmarks)
    else:
        seed, allowed = _middle(light, chroma, brightness)
        unit = 0.7 * min(shape)
    if seed.sum() < 40:
        raise NoSkin("no skin found")
    if np.median(chroma[seed][:, 0]) < BAND_CENTRE[0] - BAND_HALF[0]:
        raise NoSkin("the face has no skin colour (a black-and-white photograph?)")

    # Where anatomy says that there is skin, colour only has to say that nothing covers it.
    reach = np.full(shape, REACH if landmarks is None else REACH_ON_FACE, np.float32)
    shade = np.full(shape, MAX_SHADE, np.float32)
    if landmarks is not None:  # but on the forehead it is hair, if anywhere
        forehead = forehead_region(landmarks, shape)
        reach[forehead], shade[forehead] = REACH_ON_FOREHEAD, MAX_SHADE_ON_FOREHEAD
    probability = _colour_likelihood(chroma, brightness, seed, reach, shade)
    typical = float(np.median(rough[seed]))
    coarse = np.clip((rough - 3.0 * typical - 0.03) / (1.5 * typical + 0.03), 0, 1)
    probability = gaussian_filter(probability * (1 - coarse), max(0.6, 0.004 * unit)) * allowed
    hole = LARGEST_HOLE_ON_FACE if landmarks is not None else LARGEST_HOLE
    bare = _tidied(probability > 0.5, unit, hole) & allowed
    if landmarks is None:
        bare &= ~_large_red_parts(chroma, bare, unit)
        eyes = binary_fill_holes(bare) & ~bare  # with lids, which have the colour of skin
        bare &= distance_transform_edt(~eyes) > 0.045 * unit if eyes.any() else True
        bare = _tidied(bare, unit, hole) & allowed
    if bare.sum() < (0.02 * unit) ** 2 * 40:
        raise NoSkin("no skin found")
    inside = np.clip(distance_transform_edt(bare) / max(1.0, 0.006 * unit), 0, 1)
    return (np.maximum(probability, 0.75 * bare) * inside).astype(np.float32)


def _roughness(brightness: np.ndarray) -> np.ndarray:
    """Local standard deviation of the finest detail of log luminance: low on skin, high on hair and brows."""
    fine = brightness - gaussian_filter(brightness, 1.5)
    return np.sqrt(gaussian_filter(fine**2, 2.5))


def _middle(light: np.ndarray, chroma: np.ndarray, brightness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [h, w] each: typical skin in the middle of the photograph, and where it may go on."""
    in_band = (np.abs((chroma - BAND_CENTRE) / BAND_HALF) < 1).all(-1)
    found = middle_region(light, in_band & (brightness > np.log(DARKEST_SKIN)) & (brightness < np.log(0.95)))
    if found is None:
        raise NoSkin("no skin found: the middle of the photograph has another colour")
    region, core = found
    if (chroma[core].std(0) < EVENEST).all():
        raise NoSkin("no skin found: what has its colour is as even as a wall")
    return core, region > 0.5


def _colour_likelihood(
    chroma: np.ndarray, brightness: np.ndarray, seed: np.ndarray, reach: np.ndarray, shade: np.ndarray
) -> np.ndarray:
    """[h, w] in [0, 1]: the seed's Gaussian, fitted without its outliers (three rounds of trimming)."""
    mean, spread = trimmed_gaussian(chroma[seed], LEAST_SPREAD)
    level = float(np.median(brightness[seed]))
    too_dark = (level - brightness) / shade
    too_bright = (brightness - level) / MAX_SHINE
    distance = mahalanobis(chroma, mean, spread)
    distance = np.maximum(distance, reach * np.maximum(too_dark, too_bright))
    return 1 / (1 + np.exp(np.clip(4 * (distance - reach), -30, 30)))


def _tidied(bare: np.ndarray, unit: float, hole: float) -> np.ndarray:
    """Without strands and specks, and with the holes that lesions leave filled, up to a width of `hole` units."""
    bare = _opened(bare, 0.012 * unit)
    holes = binary_fill_holes(bare) & ~bare
    parts, num = label(holes)
    if num:
        small = np.bincount(parts.ravel()) < (hole * unit) ** 2
        small[0] = False
        bare = bare | small[parts]
    parts, num = label(bare)
    if num > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        bare = (sizes >= 0.12 * sizes.max())[parts]
    return bare


def _opened(region: np.ndarray, radius: float) -> np.ndarray:
    """Morphological opening by a disc."""
    if radius < 1.5:
        return binary_opening(region)
    core = distance_transform_edt(region) > radius
    return distance_transform_edt(~core) <= radius


def _large_red_parts(chroma: np.ndarray, bare: np.ndarray, unit: float) -> np.ndarray:
    """Lips of a close-up: redder than its skin, and much larger than a lesion."""
    red = gaussian_filter(chroma[..., 0], 0.008 * unit)
    middle = np.median(red[bare]) if bare.any() else 0.0
    spread = 1.4826 * np.median(np.abs(red[bare] - middle)) if bare.any() else 1.0
    parts, num = label(_opened(red > middle + max(2.5 * spread, 0.12), 0.02 * unit))
    if not num:
        return np.zeros_like(bare)
    large = np.bincount(parts.ravel()) > (0.12 * unit) ** 2
    large[0] = False
    return distance_transform_edt(~large[parts]) <= 0.02 * unit
