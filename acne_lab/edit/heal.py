"""Takes lesions out of a photograph, as a healing brush does: skin from beside them, between their borders."""

import numpy as np
from scipy import ndimage

from acne_lab.edit.poisson import blend

REACH = 1.3  # a lesion's redness ends outside of its box: what is healed is this much larger
STRANGE = 6.0  # gray levels a pixel: no skin is taken with stronger edges, or a colour ten times as far away
SEARCH = 3.0  # how far away skin is taken from, in spans of what is healed


def healed(photo: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photograph without these lesions: in place of each, the gradients of skin from nearby (Pérez et al. 2003).

    Lesions that touch are healed as one. The skin comes from the place nearby that is most like their surroundings:
    without lesions, without edges, of the same colour. Where there is none, the surroundings are continued smoothly.

    Args:
        photo: uint8 [H, W, 3].
        boxes: [N, 4] x0 y0 x1 y1 px: all its lesions.
        rng: chooses directions.
    """
    photo, lesions = photo.copy(), ellipses(boxes, photo.shape[:2], reach=REACH)
    parts, _ = ndimage.label(lesions)
    for number, bounds in enumerate(ndimage.find_objects(parts), start=1):
        span = max(part.stop - part.start for part in bounds) + 2
        far = int(SEARCH * span) + span
        window = tuple(slice(max(part.start - far, 0), part.stop + far) for part in bounds)
        piece, shape = photo[window], parts[window] == number
        found = donor(piece, shape, lesions[window], span, rng)
        source = np.full_like(piece, 128) if found is None else np.roll(piece, [-n for n in found], axis=(0, 1))
        photo[window] = blend(piece, source, shape)
    return photo


def donor(
    photo: np.ndarray, shape: np.ndarray, lesions: np.ndarray, span: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """How far (down, right) of `shape` bool [H, W] lies the skin to heal it with; None: nowhere."""
    edges = ndimage.gaussian_gradient_magnitude(photo.mean(axis=-1), 1.0)
    around = ndimage.binary_dilation(shape, iterations=3) & ~lesions
    colour = photo[around].mean(axis=0) if around.any() else photo[shape].mean(axis=0)
    rows, columns = np.nonzero(shape)
    best, least = None, STRANGE
    for turn in rng.uniform(0, 2 * np.pi) + np.arange(12) * np.pi / 6:
        for far in (1.0, 1.5, 2.0, SEARCH):
            down, right = round(far * span * np.sin(turn)), round(far * span * np.cos(turn))
            y, x = rows + down, columns + right
            if min(y.min(), x.min()) > 0 and y.max() < shape.shape[0] - 1 and x.max() < shape.shape[1] - 1:
                strange = np.abs(photo[y, x].mean(axis=0) - colour).mean() / 10
                cost = np.quantile(edges[y, x], 0.9) + strange + 20 * lesions[y, x].mean()
                if cost < least:
                    best, least = (down, right), cost
    return best


def ellipses(boxes: np.ndarray, size: tuple[int, int], *, reach: float) -> np.ndarray:
    """The pixels of lesions, each the ellipse in its box, `reach` times as large: [N, 4] -> bool of (height, width)."""
    shape = np.zeros(size, bool)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    radii = np.maximum(boxes[:, 2:] - boxes[:, :2], 1) / 2 * reach
    for centre, radius in zip(centres, radii):
        (left, top), (right, bottom) = np.floor(centre - radius), np.ceil(centre + radius)
        rows, columns = (slice(max(int(a), 0), max(int(b), 0)) for a, b in ((top, bottom), (left, right)))
        here = shape[rows, columns]
        y, x = np.ogrid[: here.shape[0], : here.shape[1]]
        u = (x + columns.start + 0.5 - centre[0]) / radius[0]
        v = (y + rows.start + 0.5 - centre[1]) / radius[1]
        here |= u**2 + v**2 <= 1
    return shape
