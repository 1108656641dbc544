"""What gives an edited photograph away: patches around lesions, their rims, the seam of the mask, the colour.

Each function looks at one picture, or at a stack of patches. It does not know where the pictures come from; whether two
sets of patches can be told apart is the question of `two_sample.py`.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from acne_lab.colour import lab

CONTEXT = 3.0  # a patch is so many lesions wide: the lesion and the skin that it must agree with
MIN_WINDOW = 12  # px; a smaller one is more interpolation than photograph
RIM, SKIN = (0.75, 1.35), (1.8, 2.6)  # distances from the centre of a patch, in lesion radii
RING = 0.02  # of the short side: how far from the mask a change outside of it is looked for
FLAT = 0.05  # CIELAB; no photograph has a smaller mean step between neighbours, but a drawing may
SPOTS = (0.0064, 0.0103, 0.0135, 0.0193, 0.0347)  # lesion diameter / short side: 5, 25, 50, 75, 95 % of ACNE04-v2
SPOT_CONTRAST = 1.5  # of a* against its surroundings, from which on an added spot counts
SPOT_SIDE = 1024  # px of the short side at which they are looked for

# ---- patches -------------------------------------------------------------------------------------------------


def lesion_patch(photo: np.ndarray, box: np.ndarray, *, side: int, context: float = CONTEXT) -> np.ndarray | None:
    """The square around a lesion, `context` times as wide as its box, as uint8 [side, side, 3].

    Args:
        photo: uint8 [H, W, 3].
        box: x0, y0, x1, y1 in px.
        side: of the result in px.
        context: width of the square in widths of the lesion.

    Returns:
        None where the square reaches out of the photograph: there a patch would show its border.
    """
    x0, y0, x1, y1 = (float(k) for k in box)
    half = max(context * max(x1 - x0, y1 - y0), MIN_WINDOW) / 2
    window = ((x0 + x1) / 2 - half, (y0 + y1) / 2 - half, (x0 + x1) / 2 + half, (y0 + y1) / 2 + half)
    if min(window[:2]) < 0 or window[2] > photo.shape[1] or window[3] > photo.shape[0]:
        return None
    left, top = int(window[0]), int(window[1])
    cut = Image.fromarray(photo[top : int(np.ceil(window[3])), left : int(np.ceil(window[2]))])
    inner = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC, box=inner))


def match_sizes(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, *, tolerance: float = 1.25
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of one of `a` and one of `b` of about the same size, each used once: indices [K] into both.

    A patch is resized by a factor that depends on its size, and a classifier sees that. Lesions of the smaller set
    choose in random order, each the nearest that is left.

    Args:
        a, b: sizes in px, [N] and [M].
        rng: shuffles the order.
        tolerance: the largest ratio within a pair.
    """
    if len(a) > len(b):
        right, left = match_sizes(b, a, rng, tolerance=tolerance)
        return left, right
    wanted, there = np.log(a), np.log(b)
    free = np.ones(len(b), dtype=bool)
    pairs = []
    for i in rng.permutation(len(a)):
        distance = np.where(free, np.abs(there - wanted[i]), np.inf)
        nearest = int(distance.argmin()) if len(b) else 0
        if len(b) and distance[nearest] <= np.log(tolerance):
            free[nearest] = False
            pairs.append((i, nearest))
    return tuple(np.array(pairs, dtype=int).reshape(-1, 2).T)


def rim_contrast(patches: np.ndarray, *, context: float = CONTEXT) -> np.ndarray:
    """How steep each lesion's rim is beside the skin around it: mean CIELAB gradient of the one over the other's.

    A sticker has a steep rim all around, an airbrushed spot has none. What is right, real lesions say.

    Args:
        patches: uint8 [N, S, S, 3] of `lesion_patch`.
        context: with which they were cut.

    Returns:
        [N].
    """
    side = patches.shape[1]
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    radius = np.hypot(y, x) * 2 * context  # in lesion radii
    rim, skin = ((radius >= low) & (radius < high) for low, high in (RIM, SKIN))
    colours = lab(patches)
    steepness = np.sqrt(sum(np.square(np.gradient(colours, axis=axis)).sum(axis=-1) for axis in (1, 2)))
    return steepness[:, rim].mean(axis=1) / np.maximum(steepness[:, skin].mean(axis=1), FLAT / 10)


# ---- the mask's border, and the colour on both sides ---------------------------------------------------------


@dataclass(frozen=True)
class Seam:
    """Mean CIELAB distance of neighbouring pixels on two sides of a mask's border, in the photograph and the edit."""

    before: float
    after: float

    @property
    def ratio(self) -> float:
        """1: the border is as it was; a sticker's is several times as steep."""
        return max(self.after, FLAT) / max(self.before, FLAT)


def seam(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> Seam | None:
    """The step across the border of `mask` (bool [H, W]) in two uint8 [H, W, 3]; None where the mask has no border."""
    if not mask.any():
        return None
    near = _around(mask, 1)
    before, after, mask = before[near], after[near], mask[near]
    down, right = np.nonzero(mask[:-1] != mask[1:]), np.nonzero(mask[:, :-1] != mask[:, 1:])
    p = tuple(np.concatenate(pair) for pair in zip(down, right))
    q = tuple(np.concatenate(pair) for pair in zip((down[0] + 1, down[1]), (right[0], right[1] + 1)))
    if not len(p[0]):
        return None
    steps = [float(np.linalg.norm(lab(image[p]) - lab(image[q]), axis=-1).mean()) for image in (before, after)]
    return Seam(*steps)


@dataclass(frozen=True)
class ColourShift:
    """What an edit did to the colours.

    Args:
        delta_e: mean CIELAB distance of edit and photograph inside of the mask.
        a_star: mean change of a*, signed: redder is positive.
        delta_e_ring: mean distance in a ring around the mask: 0, or what JPEG has done.
        changed_outside: share of the pixels outside of the mask that are not bit-identical.
    """

    delta_e: float
    a_star: float
    delta_e_ring: float
    changed_outside: float


def colour_shift(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> ColourShift | None:
    """Of two uint8 [H, W, 3] and a mask bool [H, W]; None where the mask is empty."""
    if not mask.any():
        return None
    changed = (before != after).any(axis=-1) & ~mask
    num_outside = max((~mask).sum(), 1)
    width = max(2.0, RING * min(mask.shape))
    near = _around(mask, int(np.ceil(width)))
    before, after, mask = before[near], after[near], mask[near]
    ring = (ndimage.distance_transform_edt(~mask) <= width) & ~mask
    shift = lab(after[mask]) - lab(before[mask])
    around = lab(after[ring]) - lab(before[ring])
    return ColourShift(
        delta_e=float(np.linalg.norm(shift, axis=-1).mean()),
        a_star=float(shift[:, 1].mean()),
        delta_e_ring=float(np.linalg.norm(around, axis=-1).mean()) if ring.any() else 0.0,
        changed_outside=float(changed.sum() / num_outside),
    )


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rectangle around what is set, `margin` px larger: a mask is small, and a photograph of 12 MP is not."""
    spans = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(max(span[0] - margin, 0), span[-1] + 1 + margin) for span in spans)


def added_spots(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where an edit that keeps no list of its lesions has put red spots: boxes float32 [N, 4] in px.

    They are the maxima, over place and the lesion sizes of ACNE04, of the change of a* less its surroundings
    (difference of Gaussians, Lowe 2004), inside of the mask and at least SPOT_CONTRAST strong.
    """
    scale = min(1.0, SPOT_SIDE / min(mask.shape))
    size = (round(mask.shape[1] * scale), round(mask.shape[0] * scale))
    small = [lab(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))) for image in (before, after)]
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    redder = small[1][..., 1] - small[0][..., 1]
    diameters = np.maximum(np.array(SPOTS) * min(inside.shape), 2.0)
    bands = []
    for diameter in diameters:
        sigma = diameter / 4
        bands.append(ndimage.gaussian_filter(redder, sigma) - ndimage.gaussian_filter(redder, 2.5 * sigma))
    bands = np.stack(bands) * inside
    peaks = (bands == ndimage.maximum_filter(bands, size=(len(bands), 5, 5))) & (bands >= SPOT_CONTRAST)
    level, y, x = np.nonzero(peaks)
    radius = diameters[level] / 2
    corners = np.stack([x + 0.5 - radius, y + 0.5 - radius, x + 0.5 + radius, y + 0.5 + radius], axis=1)
    return (corners / scale).astype(np.float32)
