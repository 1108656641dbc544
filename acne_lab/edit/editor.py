"""Adds lesions to one photograph: analyse, overlay, refine, post-process. The parts are given and can be swapped."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from acne_lab.colour import lab
from acne_lab.edit.bank import LesionBank
from acne_lab.edit.face import Analyser
from acne_lab.edit.lesions import ProceduralLesions
from acne_lab.edit.overlay import VISIBLE, Overlay
from acne_lab.edit.placement import NoRoom, Placement
from acne_lab.edit.skin import NoSkin

VERSION = 2  # of what edits look like: raise it with anything that changes them, since runs are found by it


class Skipped(Exception):
    """This photograph cannot be edited well; `reason` says why in a line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Edit:
    """An edited photograph [H, W] and what was done to it."""

    image: np.ndarray  # uint8 [H, W, 3]; outside of `mask` equal to the photograph, bit by bit
    mask: np.ndarray  # bool [H, W]
    boxes: np.ndarray  # float32 [N, 4] x0 y0 x1 y1 px of the added lesions
    overlaid: np.ndarray  # uint8 [H, W, 3] before refine and post-processing
    lesions_before: int
    lesions_added: int | None  # None: unknown (an edit that does not add by number)
    parameters: dict  # JSON values


class Editor:
    """Adds lesions to photographs.

    Args:
        analyse: reads the photograph.
        source: where lesions come from: `ProceduralLesions` or `LesionBank`.
        placement: how large lesions are and where they lie.
        overlay: draws them.
        intensity: strength of every lesion, in [0, 1]; 0 changes no pixel.
        refine: makes the overlay more real, (photo, overlaid, mask, seed) -> image; changes only the mask. None: no
            refinement.
    """

    def __init__(
        self,
        *,
        analyse: Analyser,
        source: ProceduralLesions | LesionBank,
        placement: Placement,
        overlay: Overlay,
        intensity: float = 1.0,
        refine: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray] | None = None,
    ) -> None:
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity must be in [0, 1], not {intensity}")
        self.analyse, self.source, self.placement, self.overlay = analyse, source, placement, overlay
        self.intensity, self.refine = float(intensity), refine

    def __call__(
        self, photo: np.ndarray, *, boxes: np.ndarray | None, num_added: int, severity: str, seed: int
    ) -> Edit:
        """Adds exactly `num_added` lesions; the same arguments give the same bits.

        Args:
            photo: uint8 [H, W, 3].
            boxes: [M, 4] x0 y0 x1 y1 px: the lesions it has. None: they are detected.
            severity: the severity that the edit is to show; it decides the kinds of lesions.
            seed: not negative.

        Raises:
            Skipped: the photograph shows no skin or has no room for as many lesions.
            ValueError: an argument is impossible.
        """
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise ValueError(f"photo must be uint8 [H, W, 3], not {photo.dtype} {list(photo.shape)}")
        if num_added < 0:
            raise ValueError(f"num_added must not be negative, but is {num_added}: edits add lesions and remove none")
        try:
            analysis = self.analyse(photo, boxes)
        except NoSkin as error:
            raise Skipped(str(error)) from None
        rng = np.random.default_rng(seed)
        wanted = self.placement.diameters(rng, num_added, analysis.scale)
        lesions = self.source.draw(rng, num_added, severity=severity, darkness=analysis.tone.darkness, diameters=wanted)
        wanted = wanted * np.array([lesion.factor for lesion in lesions])
        try:
            centres, diameters = self.placement.positions(rng, analysis, wanted)
        except NoRoom as error:
            raise Skipped(f"not enough free skin for {num_added} lesions ({error.fit} fit)") from None
        made = self.overlay(photo, analysis, lesions, centres, diameters, intensity=self.intensity)
        image, mask = made.image, made.mask
        if self.refine is not None and num_added and self.intensity:
            refined = self.refine(photo, made.image, mask, seed)
            image = np.where(mask[..., None], with_grain(refined, photo, mask, analysis.grain, rng), photo)
        half = diameters[:, None] / 2
        limits = np.array(photo.shape[1::-1] * 2)
        boxes_added = np.clip(np.concatenate([centres - half, centres + half], axis=1), 0, limits).astype(np.float32)
        return Edit(
            image=image,
            mask=mask,
            boxes=boxes_added,
            overlaid=made.image,
            lesions_before=len(analysis.lesions),
            lesions_added=num_added,
            parameters={
                "intensity": self.intensity,
                "kinds": dict(Counter(lesion.kind for lesion in lesions)),
                "lesions": [
                    lesion.parameters() | {"strength": round(float(strength), 3)}
                    for lesion, strength in zip(lesions, made.strengths)
                ],
                "visible": int((most_changed(photo, image, boxes_added) >= VISIBLE).sum()),
                "ita": analysis.tone.ita,
                "fitzpatrick": analysis.tone.fitzpatrick,
                "scale": round(analysis.scale, 1),
                "light": [round(float(k), 3) for k in analysis.light],
                "landmarks": analysis.face is not None,
                "lesions_from": analysis.lesions_from,
            },
        )


def most_changed(photo: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """CIELAB distance [N] of the pixel that differs most between two images, in each box [N, 4] x0 y0 x1 y1 px."""
    most = np.zeros(len(boxes))
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        part = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        most[k] = np.linalg.norm(lab(image[part]) - lab(photo[part]), axis=-1).max()
    return most


def with_grain(
    image: np.ndarray, photo: np.ndarray, mask: np.ndarray, level: float, rng: np.random.Generator
) -> np.ndarray:
    """Adds the grain that `image` lacks inside of the mask: networks paint clean skin.

    Args:
        image: uint8 [H, W, 3], what a network made of `photo`.
        level: standard deviation of the photograph's grain, 8-bit levels.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows) or level < 0.5:
        return image
    # Detail of one pixel's width, which a Laplacian answers to: how much of it did the network keep?
    kept = _fine_detail(image, mask) / max(_fine_detail(photo, mask), 1e-6)
    missing = level * np.sqrt(max(0.0, 1 - min(kept, 1.0) ** 2))
    noisy = image[rows, columns] + rng.normal(0, missing, (len(rows), 3))
    image = image.copy()
    image[rows, columns] = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return image


def _fine_detail(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean size of the second difference along rows inside of the mask, green channel."""
    green = image[..., 1].astype(np.float32)
    second = np.abs(2 * green[:, 1:-1] - green[:, :-2] - green[:, 2:])[mask[:, 1:-1]]
    return float(second.mean()) if second.size else 0.0
