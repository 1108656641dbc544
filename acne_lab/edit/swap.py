"""Severity swap: another model of the hierarchy says what this skin would look like at another severity.

The face is projected into the base model; the same latent code goes through the base and through the severity's model.
What the two pictures differ in is acne, as far as the two models differ in nothing else. Only this difference goes onto
the photograph, as optical density (see `colour.py`) and on skin alone: pores, stubble, light and the person's features
stay the photograph's own. Pasting the generated skin itself (Poisson blending) was tried and is worse: it brings the
model's blur and its other person, and where the two hairlines differ, hair bleeds into the forehead.

What it does not know: how many lesions it adds. The severity of the result is the severity model's claim.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from acne_lab.edit.colour import DARKEST, from_linear, to_linear
from acne_lab.edit.editor import Edit, Skipped
from acne_lab.edit.face import Analyser, Analysis
from acne_lab.edit.skin import NoSkin

# (crop uint8 [R, R, 3], severity, seed) -> the projection's pictures by the base and the severity's model, both uint8
# [r, r, 3] of the models' own size.
Swap = Callable[[np.ndarray, str, int], tuple[np.ndarray, np.ndarray]]

FRAMINGS = ("centre", "face")
RED_DENSITY, RED_DENSITY_SPREAD = 0.08, 0.18  # of red light: up to here it may be acne, and how fast it cannot
LIGHTENING = 0.12  # density that acne takes away at most: pustules, shine
TRUSTED = 0.5  # log light by which a projection may miss the photograph and still be believed by 1/e
MEDIAN_SIDE = 128  # px
FACE_SHARE = 0.62  # width of a face in the square around it, as in portraits that are cut for faces


class SeveritySwap:
    """Gives the skin of a photograph another severity; has the signature of `Editor`.

    Args:
        analyse: reads the photograph.
        swap: pictures of its latent code by two models, see `Swap`.
        framing: what the models are shown: "centre", the middle square of the photograph, which is what a GAN of this
            package has learned from; "face", the square around the landmarks, for models of aligned faces; without
            landmarks the middle square.
        detail: what is wider than this share of the crop's side stays out: it is the models' light and tone.
        feather: width of the skin mask's soft border, likewise.
        strength: of the difference, in [0, 1].
        min_skin: share of the crop that must be skin.
    """

    def __init__(
        self,
        *,
        analyse: Analyser,
        swap: Swap,
        framing: str = "centre",
        detail: float = 0.12,
        feather: float = 0.03,
        strength: float = 1.0,
        min_skin: float = 0.1,
    ) -> None:
        if framing not in FRAMINGS:
            raise ValueError(f"framing must be {' or '.join(FRAMINGS)}, not {framing!r}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be in [0, 1], not {strength}")
        self.analyse, self.swap, self.framing = analyse, swap, framing
        self.detail, self.feather, self.strength, self.min_skin = detail, feather, float(strength), min_skin

    def __call__(
        self, photo: np.ndarray, *, boxes: np.ndarray | None, num_added: int, severity: str, seed: int
    ) -> Edit:
        """Edit a photograph; the same arguments give the same bits.

        Args:
            photo: uint8 [H, W, 3].
            boxes: [M, 4] px, the lesions it has; None: they are detected.
            num_added: not used: a model adds what it has learned.
            severity: whose model to pass the face through.
            seed: of the projection.

        Raises:
            Skipped: there is too little skin, or not where the models look.
        """
        try:
            analysis = self.analyse(photo, boxes)
        except NoSkin as error:
            raise Skipped(str(error)) from None
        left, top, side = self._square(photo, analysis)
        window = (slice(top, top + side), slice(left, left + side))
        skin = analysis.skin[window]
        if (skin > 0.5).mean() < self.min_skin:
            raise Skipped(f"only {(skin > 0.5).mean():.0%} of the square that the models look at is skin")
        crop = np.ascontiguousarray(photo[window])
        base, target = self.swap(crop, severity, seed)
        density = density_change(base, target, detail=self.detail) * agreement(crop, base, skin)[..., None]
        where = soft_mask(skin, feather=self.feather * side)
        edited = transferred(crop, self.strength * density, where)
        image, mask = photo.copy(), np.zeros(photo.shape[:2], dtype=bool)
        mask[window] = where > 0
        image[window] = np.where(mask[window][..., None], edited, crop)
        return Edit(
            image=image,
            mask=mask,
            boxes=np.empty((0, 4), dtype=np.float32),
            overlaid=image,
            lesions_before=len(analysis.lesions),
            lesions_added=None,
            parameters={
                "severity": severity,
                "square": [left, top, side],
                "landmarks": analysis.face is not None,
                "strength": self.strength,
                "ita": analysis.tone.ita,
                "fitzpatrick": analysis.tone.fitzpatrick,
            },
        )

    def _square(self, photo: np.ndarray, analysis: Analysis) -> tuple[int, int, int]:
        """left, top and side of what the models are shown, inside of the photograph."""
        height, width = photo.shape[:2]
        side, middle = min(height, width), (width / 2, height / 2)
        if self.framing == "face" and analysis.face is not None:
            low, high = analysis.face.landmarks.min(axis=0), analysis.face.landmarks.max(axis=0)
            side = min(side, round(float(high[0] - low[0]) / FACE_SHARE))
            middle = tuple((low + high) / 2)
        left, top = (
            int(np.clip(round(k - side / 2), 0, size - side)) for k, size in zip(middle, (width, height), strict=True)
        )
        return left, top, side


def density_change(base: np.ndarray, target: np.ndarray, *, detail: float) -> np.ndarray:
    """Optical density [r, r, 3] that acne adds in `target` beyond `base`, both uint8 [r, r, 3].

    Less the median around each pixel: two models that were trained apart also differ in lamp and tone, and an average
    in its place would leave the skin between lesions paler than it was. Acne absorbs little red light and lightens
    little: what does either is a feature that lies elsewhere in the other picture (a hairline, a nostril).
    """
    change = log_light(base) - log_light(target)
    change = change - _median_around(change, detail)
    red = np.abs(ndimage.gaussian_filter(change[..., 0], 1.0))
    not_acne = np.maximum(red - RED_DENSITY, 0) / RED_DENSITY_SPREAD
    return np.maximum(change, -LIGHTENING) * np.exp(-(not_acne**2))[..., None]


def agreement(crop: np.ndarray, base: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """How much the projection [r, r] in [0, 1] is believed: little where the photograph has something else.

    Args:
        crop: the photograph, uint8 [R, R, 3].
        base: what the base model made of it, uint8 [r, r, 3].
        skin: [R, R].
    """
    size = base.shape[1::-1]
    small = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
    on_skin = np.asarray(Image.fromarray(skin.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0.5
    far = ndimage.gaussian_filter(log_light(small) - log_light(base), (1.5, 1.5, 0)).mean(axis=-1)
    if on_skin.any():
        far -= np.median(far[on_skin])  # the projection may have another exposure
    return np.exp(-((far / TRUSTED) ** 2))


def log_light(image: np.ndarray) -> np.ndarray:
    """Logarithm of linear light of a uint8 picture."""
    return np.log(np.maximum(to_linear(image), DARKEST))


def _median_around(change: np.ndarray, detail: float) -> np.ndarray:
    """Median [r, r, 3] over squares of twice `detail` of the side; of large pictures on a copy of MEDIAN_SIDE px."""
    side = len(change)
    small = min(side, MEDIAN_SIDE)
    window = max(3, 2 * round(detail * small) + 1)
    shrunk = _resized(change, small) if small < side else change
    medians = np.stack([ndimage.median_filter(shrunk[..., k], size=window) for k in range(3)], axis=-1)
    return _resized(medians, side) if small < side else medians


def _resized(layers: np.ndarray, side: int) -> np.ndarray:
    """Float [r, r, C] -> float32 [side, side, C]."""
    channels = [Image.fromarray(layer.astype(np.float32)) for layer in np.moveaxis(layers, -1, 0)]
    return np.stack([np.asarray(k.resize((side, side), Image.Resampling.BICUBIC)) for k in channels], axis=-1)


def soft_mask(skin: np.ndarray, *, feather: float) -> np.ndarray:
    """Skin [R, R] in [0, 1] as weights that are 0 outside of it and grow to 1 over `feather` px inside."""
    depth = ndimage.distance_transform_edt(np.pad(skin > 0.5, 1))[1:-1, 1:-1]  # the border of the crop ends it too
    ramp = np.clip((depth - 0.5) / max(feather, 1.0), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def transferred(crop: np.ndarray, density: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The crop uint8 [R, R, 3] behind a filter: density [r, r, 3], enlarged, weighed by `where` [R, R]."""
    large = _resized(density, len(crop))
    return from_linear(to_linear(crop) * np.exp(-large * where[..., None]))
