"""Reads a photograph before it is edited: where skin is, which lesions it has, how it is lit, toned and blurred.

Everything is computed on a reduced copy of the face's surroundings, so that a photograph of ten million pixels
costs little more than one of a million; what it returns fits the full photograph.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from acne_lab.colour import lab_of_light, skin_type, typology_angle
from acne_lab.data.faces import Face, FaceFinder, available_detectors, faces_available
from acne_lab.edit.blobs import find_lesions
from acne_lab.edit.colour import log_chroma, luminance, shrink, to_linear
from acne_lab.edit.optics import blur_samples, grain, illumination, light_direction, tiles
from acne_lab.edit.regions import face_polygon, face_width, surface_tilt
from acne_lab.edit.skin import NoSkin, skin_probability

WORK_SIDE = 512  # pixels of the copy on which skin is found
LEAST_SIDE = 256  # ... and at least so many: texture is measured in pixels
CLOSE_UP = 1.5  # an ACNE04 photograph's short side, in widths of a frontal face


@dataclass(frozen=True)
class Tone:
    """Skin tone by the individual typology angle, atan((L* - 50) / b*), of well-lit skin."""

    ita: float  # degrees: 90 palest, -90 darkest
    fitzpatrick: int  # 1 to 6 for I to VI, by ITA

    @classmethod
    def of(cls, light: np.ndarray) -> "Tone":
        """Of one colour of skin, linear light [3]."""
        ita = typology_angle(lab_of_light(light))
        return cls(ita=round(ita, 1), fitzpatrick=skin_type(ita))

    @property
    def darkness(self) -> float:
        """0 for the palest skin to 1 for the darkest."""
        return float(np.clip((55 - self.ita) / 100, 0, 1))


@dataclass(frozen=True)
class Analysis:
    """What is known of one photograph [H, W]; all positions are its pixels."""

    skin: np.ndarray  # float32 [H, W] in [0, 1]: bare facial skin
    face: Face | None
    lesions: np.ndarray  # float32 [M, 4] x0 y0 x1 y1: those it has
    lesions_from: str  # "boxes" or "blobs"
    illumination: np.ndarray  # float32 [H, W]: low-frequency light on the skin, 1 on average
    light: np.ndarray  # float32 [2]: towards the light, image axes, length in [0, 1]
    tone: Tone
    colour: np.ndarray  # float32 [3]: linear light of the skin's typical pixel
    scale: float  # pixels that stand for the short side of an ACNE04 close-up: sizes of lesions are shares of it
    grain: float  # standard deviation of the noise, 8-bit levels
    blurs: np.ndarray = field(repr=False)  # float32 [N, 3] x, y, sigma: camera blur where it could be measured

    def blur_at(self, points: np.ndarray) -> np.ndarray:
        """Standard deviation [N] of the camera's blur at points [N, 2], pixels: nearby measurements count most."""
        if not len(self.blurs):
            return np.full(len(points), 0.6)
        apart = np.linalg.norm(points[:, None] - self.blurs[None, :, :2], axis=-1)
        weight = 1 / (apart + 0.15 * self.scale) ** 2
        return weight @ self.blurs[:, 2] / weight.sum(1)

    def tilt_at(self, points: np.ndarray) -> np.ndarray:
        """Surface normal (nx, ny) at points [N, 2]; zeros where no face is known."""
        if self.face is None:
            return np.zeros((len(points), 2))
        return surface_tilt(self.face.landmarks, points)


class Analyser:
    """Makes an `Analysis` of a photograph.

    Args:
        landmarks: True looks for a face and needs the extra acne-lab[faces]; False uses colour alone; None
            looks for a face if the extra is installed.
        blazeface: MediaPipe's detectors, as for `FaceFinder`: they find the most half-face close-ups.

    Raises:
        ValueError: landmarks are wanted and the extra is not installed, or `blazeface` holds no detector.
    """

    def __init__(self, *, landmarks: bool | None = None, blazeface: str | None = None) -> None:
        wanted = faces_available() if landmarks is None else landmarks
        # The slowest detector (5 s on one core) finds few faces that the others miss, and an edit can do without.
        quick = [name for name in available_detectors(blazeface) if name != "dlib_cnn"]
        self.finder = FaceFinder(detectors=quick, blazeface=blazeface) if wanted else None

    def __call__(self, photo: np.ndarray, boxes: np.ndarray | None = None) -> Analysis:
        """Analyses uint8 [H, W, 3]; `boxes` [M, 4] are its lesions, None lets them be detected.

        Raises:
            NoSkin: there is too little bare skin to edit.
        """
        face = None if self.finder is None else self.finder(photo)
        if face is not None:
            try:
                return self._analysed(photo, boxes, face)
            except NoSkin:
                pass  # the detector was wrong, or the face is covered: colour may still know
        return self._analysed(photo, boxes, None)

    def _analysed(self, photo: np.ndarray, boxes: np.ndarray | None, face: Face | None) -> Analysis:
        window = _window(photo.shape, face)
        x0, y0, x1, y1 = window
        small = _enlarged(shrink(np.ascontiguousarray(photo[y0:y1, x0:x1]), WORK_SIDE), LEAST_SIDE)
        factor = small.shape[1] / (x1 - x0)
        light = to_linear(small)
        landmarks = None if face is None else (face.landmarks - (x0, y0)) * factor
        skin = skin_probability(light, landmarks)
        if face is not None:
            scale = min(min(photo.shape[:2]), CLOSE_UP * face_width(face.landmarks))
        else:
            scale = float(min(photo.shape[:2]))
        brightness = np.log(np.maximum(luminance(light), 1e-3))
        lamp = illumination(brightness, skin, scale * factor)
        if boxes is None:
            found = find_lesions(log_chroma(light), brightness, skin, scale * factor)
            lesions = found / factor + np.array((x0, y0, x0, y0), np.float32)
        else:
            lesions = np.asarray(boxes, np.float32).reshape(-1, 4)
        noise = _noise(photo[..., 1], skin, window)
        return Analysis(
            skin=_restored(skin, window, photo.shape[:2], outside=0.0),
            face=face,
            lesions=lesions.astype(np.float32),
            lesions_from="blobs" if boxes is None else "boxes",
            illumination=_restored(lamp, window, photo.shape[:2], outside=1.0),
            light=light_direction(lamp, skin, landmarks),
            tone=_tone(light, skin),
            colour=np.median(light[skin > 0.5], axis=0),
            scale=float(scale),
            grain=noise,
            blurs=blur_samples(photo[..., 1], window, noise),
        )


def _window(shape: tuple[int, ...], face: Face | None) -> tuple[int, int, int, int]:
    """The part of the photograph that holds the face, or all of it."""
    height, width = shape[:2]
    if face is None:
        return 0, 0, width, height
    outline = face_polygon(face.landmarks)
    low, high = outline.min(0), outline.max(0)
    margin = 0.15 * (high - low)
    x0, y0 = np.maximum(np.floor(low - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(high + margin), (width, height)).astype(int)
    if x1 - x0 < 8 or y1 - y0 < 8:  # landmarks outside of the photograph
        return 0, 0, width, height
    return int(x0), int(y0), int(x1), int(y1)


def _enlarged(photo: np.ndarray, long_side: int) -> np.ndarray:
    """A uint8 photograph of at least this long side."""
    height, width = photo.shape[:2]
    factor = long_side / max(height, width)
    if factor <= 1:
        return photo
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))


def _restored(small: np.ndarray, window: tuple, shape: tuple[int, int], *, outside: float) -> np.ndarray:
    """A map of the window, enlarged into one of the photograph."""
    x0, y0, x1, y1 = window
    part = np.asarray(Image.fromarray(small).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
    if part.shape == shape:
        return part
    whole = np.full(shape, outside, np.float32)
    whole[y0:y1, x0:x1] = part
    return whole


def _tone(light: np.ndarray, skin: np.ndarray) -> Tone:
    """Of the skin between the 50th and 90th percentile of luminance: neither in shadow nor shining."""
    pixels = light[skin > 0.6] if (skin > 0.6).sum() > 50 else light[skin > 0.2]
    level = luminance(pixels)
    low, high = np.quantile(level, (0.5, 0.9))
    return Tone.of(np.median(pixels[(level >= low) & (level <= high)], axis=0))


def _noise(green: np.ndarray, skin: np.ndarray, window: tuple) -> float:
    """Grain of the evenest skin tile: other tiles hold hair and edges."""
    x0, y0, x1, y1 = window
    ratio = skin.shape[1] / (x1 - x0)
    levels = []
    for left, top, right, bottom in tiles(window):
        rows = slice(int((top - y0) * ratio), int((bottom - y0) * ratio) + 1)
        columns = slice(int((left - x0) * ratio), int((right - x0) * ratio) + 1)
        if skin[rows, columns].mean() > 0.5:
            levels.append(grain(green[top:bottom, left:right]))
    return float(np.quantile(levels, 0.25)) if levels else grain(green[y0:y1, x0:x1])
