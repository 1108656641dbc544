"""What the light and the camera did to a photograph: illumination, blur, grain.

An overlay that is sharper, cleaner or lit from elsewhere than its photograph looks like a sticker.
"""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from acne_lab.edit.regions import surface_tilt

FROM_ABOVE = np.array((0.0, -0.45), np.float32)  # assumed where a photograph tells nothing: most lamps hang
FIRST, PROBE = 0.8, 1.5  # standard deviations of the two blurs of the measurement, pixels
TILE = 96  # pixels
ENOUGH = 4  # measurements of blur


def illumination(brightness: np.ndarray, skin: np.ndarray, scale: float) -> np.ndarray:
    """Low-frequency light on the skin [h, w], 1 on average there, continued smoothly elsewhere.

    Args:
        brightness: log luminance [h, w].
        skin: weights [h, w] in [0, 1].
        scale: pixels of a face's close-up; details below 0.06 of it are not light but skin.
    """
    sigma = 0.06 * scale
    mean = float((brightness * skin).sum() / max(skin.sum(), 1e-6))
    top = gaussian_filter((brightness - mean) * skin, sigma) + 0.0
    bottom = gaussian_filter(skin, sigma)
    return np.exp(top / (bottom + 0.02)).astype(np.float32)


def light_direction(light_map: np.ndarray, skin: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
    """(x, y) towards the light in image axes, y down, length in [0, 1]: 0 is frontal or diffuse light.

    Least squares of log illumination on the face's normal (Lambert, first order), or on position without
    landmarks; drawn towards light from above, since one photograph under soft light fixes it poorly.
    """
    rows, columns = np.nonzero(skin > 0.5)
    step = max(1, len(rows) // 4000)
    points = np.stack([columns[::step], rows[::step]], axis=1).astype(np.float64)
    value = np.log(light_map[rows[::step], columns[::step]])
    if landmarks is not None:
        slope = surface_tilt(landmarks, points)
    else:
        slope = (points - points.mean(0)) / (2.5 * points.std(0).max() + 1e-6)
    design = np.column_stack([np.ones(len(slope)), slope])
    ridge = np.diag([0, 0.05, 0.05]) * len(slope)
    fitted = np.linalg.solve(design.T @ design + ridge, design.T @ value)[1:]
    direction = 0.6 * FROM_ABOVE + fitted
    return (direction / max(1.0, float(np.linalg.norm(direction)))).astype(np.float32)


def grain(green: np.ndarray) -> float:
    """Standard deviation of the noise of a channel, in its units (Immerkær 1996, with a median for the mean).

    The mask answers neither to constant nor to linear parts; the median forgets edges and pores.
    """
    if min(green.shape) < 8:
        return 0.0
    g = green.astype(np.float32)
    second = g[:, :-2] - 2 * g[:, 1:-1] + g[:, 2:]
    second = second[:-2] - 2 * second[1:-1] + second[2:]
    return float(1.4826 * np.median(np.abs(second)) / 6)


def blur_samples(green: np.ndarray, window: tuple[int, int, int, int], noise: float) -> np.ndarray:
    """(x, y, sigma) [N, 3]: the camera's blur where tiles of the window hold edges, from the sharpest of them.

    An edge blurred by s and again by p has its gradient divided by R = sqrt(1 + p²/s²), so s = p / sqrt(R² - 1)
    (Zhuo & Sim 2011, equation 6). Edges softer than a few pixels drown in grain; they are looked for on copies
    reduced to 1/2 and 1/4.

    Args:
        green: uint8 [H, W], full resolution.
        window: x0, y0, x1, y1: where to look.
        noise: standard deviation of the grain, 8-bit levels; weaker gradients are not edges.
    """
    x0, y0, x1, y1 = window
    part = np.asarray(green[y0:y1, x0:x1])
    found = np.empty((0, 3), np.float32)
    for factor in (1, 2, 4):
        reduced = part if factor == 1 else np.asarray(Image.fromarray(part).reduce(factor))
        samples = _samples_at_this_size(reduced, noise / factor)
        if len(samples) > len(found):
            found = samples * (factor, factor, factor) + (x0, y0, 0)
        if len(found) >= ENOUGH:
            break
    return found.astype(np.float32)


def _samples_at_this_size(image: np.ndarray, noise: float) -> np.ndarray:
    found = []
    for x0, y0, x1, y1 in tiles((0, 0, image.shape[1], image.shape[0])):
        tile = image[y0:y1, x0:x1].astype(np.float32)
        if min(tile.shape) < 16:
            continue
        softer = gaussian_filter(tile, FIRST)  # a first blur against grain, taken off below
        first, second = _steepness(softer), _steepness(gaussian_filter(softer, PROBE))
        edge = first > max(3 * noise, 4.0, float(np.quantile(first, 0.95)))
        if edge.sum() < 12:
            continue
        ratio = np.maximum(first[edge] / np.maximum(second[edge], 1e-3), 1.001)
        total = PROBE / np.sqrt(ratio**2 - 1)
        sigma = np.sqrt(max(float(np.quantile(total, 0.35)) ** 2 - FIRST**2, 0.09))
        found.append(((x0 + x1) / 2, (y0 + y1) / 2, min(sigma, 8.0)))
    return np.array(found, np.float32).reshape(-1, 3)


def _steepness(image: np.ndarray) -> np.ndarray:
    dy, dx = np.gradient(image)
    return np.hypot(dx, dy)[2:-2, 2:-2]


def tiles(window: tuple[int, int, int, int], per_side: int = 6) -> list[tuple[int, int, int, int]]:
    """`per_side`² tiles spread over a window (x0, y0, x1, y1): fewer where it is small."""
    x0, y0, x1, y1 = window
    boxes = []
    for fy in np.linspace(0, 1, per_side):
        for fx in np.linspace(0, 1, per_side):
            x = round(x0 + fx * max(x1 - x0 - TILE, 0))
            y = round(y0 + fy * max(y1 - y0 - TILE, 0))
            boxes.append((x, y, min(x + TILE, x1), min(y + TILE, y1)))
    return sorted(set(boxes))
