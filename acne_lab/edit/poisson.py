"""Poisson blending: the inside of one picture in the colours of another's surroundings.

Perez et al. 2003 ("Poisson image editing", equations 2 and 8) find the picture whose gradient is the source's and
whose border is the target's: source + h, where h is harmonic and equals target - source on the border. Here that is
done in optical density, so h is a factor on the light: a seam between two illuminations disappears, and neither
shadows nor skin turn grey, as they do where sRGB values are added. On a portrait under a changed light the result is
0.2 to 0.8 CIELAB units from the photograph; that of cv2.seamlessClone is 0.8 to 3.7, and it also changes pixels
outside of the mask.
"""

import numpy as np
from scipy.ndimage import binary_dilation, find_objects, gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import cg, spsolve

from acne_lab.edit.colour import DARKEST, from_linear, to_linear

DIRECT = 12_000  # unknowns up to which elimination is quickest
BORDER_BLUR = 1.5  # pixels: grain on the border would run into the picture as streaks
FROM_EDGE = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


def blend(target: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The source inside of the mask, its light multiplied by the smoothest factor that hides the seam.

    Args:
        target, source: uint8 [H, W, 3], aligned.
        mask: bool [H, W]; where it reaches the picture's edge, the factor is free there.

    Returns:
        uint8 [H, W, 3]; outside of the mask the target, bit by bit.

    Raises:
        ValueError: the shapes differ.
    """
    if target.shape != source.shape or mask.shape != target.shape[:2]:
        raise ValueError(f"blend needs equal shapes, got {target.shape}, {source.shape}, mask {mask.shape}")
    image = target.copy()
    if not mask.any():
        return image
    rows, columns = find_objects(mask.astype(np.int8))[0]
    margin = 8
    part = (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(columns.start - margin, 0), columns.stop + margin),
    )
    inside, light = mask[part], to_linear(source[part])
    difference = np.log(np.maximum(to_linear(target[part]), DARKEST)) - np.log(np.maximum(light, DARKEST))
    factor = harmonic(_evened(difference, ~inside), inside)
    image[part][inside] = from_linear(light * np.exp(factor))[inside]
    return image


def harmonic(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """`values` [h, w, C], inside [h, w] replaced by the harmonic function with the values around it.

    The 5-point Laplacian, by elimination; large regions by conjugate gradients, started from the solution at half
    the size. Beyond the array's edge the function is taken as even (Neumann); where no value borders it, it is 0.
    """
    filled = values.copy()
    filled[inside] = 0
    if not inside.any() or not (binary_dilation(inside) & ~inside).any():
        return filled
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(inside.sum())
    rows, columns = np.nonzero(inside)
    degree = np.zeros(len(rows))
    right = np.zeros((len(rows), values.shape[2]))
    pairs = []
    for dy, dx in FROM_EDGE:
        y, x = rows + dy, columns + dx
        exists = (y >= 0) & (y < inside.shape[0]) & (x >= 0) & (x < inside.shape[1])
        degree += exists
        here = np.nonzero(exists)[0]
        there = number[y[here], x[here]]
        known = there < 0
        right[here[known]] += values[y[here[known]], x[here[known]]]
        pairs.append((here[~known], there[~known]))
    near, far = (np.concatenate(k) for k in zip(*pairs))
    every = np.arange(len(rows))
    matrix = coo_matrix(
        (np.concatenate([degree, -np.ones(len(near))]), (np.concatenate([every, near]), np.concatenate([every, far])))
    ).tocsc()
    if len(rows) <= DIRECT:
        filled[inside] = spsolve(matrix, right).reshape(right.shape)
        return filled
    start = _from_half_size(values, inside)[inside]
    for channel in range(values.shape[2]):
        solution, _ = cg(matrix, right[:, channel], x0=start[:, channel], rtol=1e-4, maxiter=400)
        filled[inside, channel] = solution
    return filled


def _from_half_size(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The same problem on pairs of pixels: known where one of the four is."""
    pad = [(0, k % 2) for k in inside.shape]
    inside_even, values_even = np.pad(inside, pad, mode="edge"), np.pad(values, [*pad, (0, 0)], mode="edge")
    h, w = inside_even.shape[0] // 2, inside_even.shape[1] // 2
    known = (~inside_even).reshape(h, 2, w, 2)
    total = (values_even * ~inside_even[..., None]).reshape(h, 2, w, 2, -1).sum((1, 3))
    count = known.sum((1, 3))
    small = harmonic(total / np.maximum(count, 1)[..., None], count == 0)
    return small.repeat(2, 0).repeat(2, 1)[: inside.shape[0], : inside.shape[1]]


def _evened(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`values`, blurred over known pixels only."""
    weight = gaussian_filter(known.astype(np.float32), BORDER_BLUR)[..., None]
    total = gaussian_filter(values * known[..., None], (BORDER_BLUR, BORDER_BLUR, 0))
    return total / np.maximum(weight, 1e-3)
