"""Where on a face skin may be, drawn from 68 landmarks (iBUG-300W order, as dlib gives them).

It knows anatomy, not the photograph: hair on the forehead, glasses and hands are `skin`'s business.
"""

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import ConvexHull

JAW, NOSE, NOSTRILS = slice(0, 17), slice(27, 36), slice(31, 36)
BROWS, EYES, LIPS = (slice(17, 22), slice(22, 27)), (slice(36, 42), slice(42, 48)), slice(48, 60)
STEEPEST = 0.85  # sine of the tilt at a face's border: beyond it nobody sees a lesion
FOREHEAD = 0.85  # height above the brows, in distances from the brows to the base of the nose (a face has thirds)


def face_width(landmarks: np.ndarray) -> float:
    """Distance between the two ends of the jaw line at the ears, pixels; of a turned head, as if it were frontal.

    A turned head is narrow but not short: the distance from brows to chin, which is about 0.85 of a frontal
    face's width, bounds it from below.
    """
    brows = landmarks[17:27].mean(0)
    return float(max(np.linalg.norm(landmarks[16] - landmarks[0]), np.linalg.norm(landmarks[8] - brows) / 0.85))


def face_polygon(landmarks: np.ndarray) -> np.ndarray:
    """The outline of the face [N, 2]: the jaw line, closed above by half an ellipse over the forehead."""
    ear_line = landmarks[[0, 16]].mean(0)
    brows, nose_base = landmarks[17:27].mean(0), landmarks[33]
    top = brows + FOREHEAD * (brows - nose_base)
    angle = np.linspace(0, np.pi, 18)[1:-1, None]
    arc = ear_line + np.cos(angle) * (landmarks[16] - landmarks[0]) / 2 + np.sin(angle) * (top - ear_line)
    return np.concatenate([landmarks[JAW], arc])


def face_region(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: inside of the outline."""
    return _filled(face_polygon(landmarks), shape)


def forehead_region(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: everything above the eyes' outer corners: forehead, temples, and the hair that hangs there."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    corners = landmarks[[36, 45]].mean(0)
    up = landmarks[27] - landmarks[8]
    return (x - corners[0]) * up[0] + (y - corners[1]) * up[1] > 0


def feature_region(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: eyes with lids and brows, lips, nostrils, each with a margin."""
    width = face_width(landmarks)
    region = np.zeros(shape, bool)
    for brow, eye in zip(BROWS, EYES):
        region |= _grown(_hull(np.concatenate([landmarks[brow], landmarks[eye]]), shape), 0.035 * width)
    region |= _grown(_hull(landmarks[LIPS], shape), 0.035 * width)
    region |= _grown(_hull(landmarks[NOSTRILS], shape), 0.025 * width)
    return region


def seed_region(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: cheeks and nose, which are bare skin on nearly every photograph."""
    width = face_width(landmarks)
    left = landmarks[[1, 2, 3, 4, 48, 31, 40, 41]]
    right = landmarks[[15, 14, 13, 12, 54, 35, 47, 46]]
    inside = _filled(left, shape) | _filled(right, shape) | _hull(landmarks[NOSE], shape)
    from_edge = distance_transform_edt(face_region(landmarks, shape)) > 0.04 * width
    return inside & from_edge & ~feature_region(landmarks, shape)


def surface_tilt(landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face's normal (nx, ny) at points [N, 2], image axes: the head taken as an ellipsoid."""
    outline = face_polygon(landmarks)
    up = landmarks[27] - landmarks[8]
    up = up / np.linalg.norm(up)
    axes = np.stack([np.array((-up[1], up[0])), up])  # across the face, along it
    along = outline @ axes.T
    low, high = along.min(0), along.max(0)
    normal = ((points @ axes.T) - (low + high) / 2) / ((high - low) / 2 * np.array((1.04, 1.15)))
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal * np.minimum(1, STEEPEST / np.maximum(length, 1e-6))) @ axes


def _filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    return np.array(canvas)


def _hull(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return _filled(points[ConvexHull(points, qhull_options="QJ").vertices], shape)


def _grown(region: np.ndarray, radius: float) -> np.ndarray:
    """The region and all within `radius` pixels of it."""
    if radius < 1:
        return binary_dilation(region)
    return distance_transform_edt(~region) <= radius
