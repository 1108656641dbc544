"""Lesions cut from photographs: what each takes from the light of the skin around it.

A cutting is kept as a difference in optical density from its own surroundings, so on another face it darkens and
reddens that face's skin, whatever its tone and lamp. Its outline is a soft matte where that difference ends.
It does not know kinds, and takes a lesion's highlight along with it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from acne_lab.data.photo import read_photo
from acne_lab.data.table import ImageTable
from acne_lab.edit.colour import DARKEST, luminance, to_linear
from acne_lab.edit.face import Tone
from acne_lab.edit.lesions import REACH, Layers

LEAST = 8  # pixels of diameter: below that a cutting is mostly blur
STORED = 48  # pixels: larger ones are reduced to this diameter
ROUND = 2.0  # longer boxes hold more than a lesion
ROUGHEST = 0.16  # standard deviation of log light around a lesion: more is hair, an eye, an edge
SAME_TONE = 0.12  # standard deviation of `Tone.darkness` between donors and face
FAINTEST = 0.05  # optical density of the green channel that a lesion must have over its surroundings
LEAST_RED = 0.1  # how much more green light than red it must take, of the green: a plug 0.24, melanin 0.4, blood 0.7


class Cutting(NamedTuple):
    """A lesion apart from its photograph."""

    density: np.ndarray  # float32 [n, n, 3]: the optical density it adds to its skin, over [-REACH, REACH]² radii
    darkness: float  # `Tone.darkness` of the skin around it


@dataclass(frozen=True)
class CutLesion:
    """One lesion of the bank, turned and mirrored."""

    density: np.ndarray = field(repr=False)  # float32 [n, n, 3] over [-REACH, REACH]²
    donor: str  # file name of its photograph in the bank's table
    turn: float  # radians
    mirrored: bool
    kind: str = "bank"
    factor: float = 1.0

    def layers(self, u: np.ndarray, v: np.ndarray, *, light: np.ndarray, darkness: float) -> Layers:
        c, s = np.cos(self.turn), np.sin(self.turn)
        across = (c * u + s * v) * (-1 if self.mirrored else 1)
        along = c * v - s * u
        half = (len(self.density) - 1) / 2
        at = np.stack([along, across]) * (half / REACH) + half
        channels = [map_coordinates(self.density[..., k], at, order=1, mode="constant") for k in range(3)]
        nothing = np.zeros_like(u)
        return Layers(np.stack(channels, axis=-1), nothing, nothing, nothing)

    def parameters(self) -> dict:
        return {"kind": self.kind, "donor": self.donor, "turn": round(self.turn, 4), "mirrored": self.mirrored}


class LesionBank:
    """Lesions of a table's photographs, cut out by its boxes.

    Args:
        table: photographs whose lesions may be used: rows of training subjects, with boxes.
        max_lesions: how many are kept at most; spread over the photographs.
        seed: which are kept where there are more.

    Raises:
        ValueError: the table has no boxes, or none of its lesions can be cut out.
    """

    def __init__(self, *, table: ImageTable, max_lesions: int = 2000, seed: int = 0) -> None:
        if table.boxes is None:
            raise ValueError(
                "a bank of lesions needs a table with boxes.csv; without boxes use edit=overlay, which draws lesions"
            )
        others = sorted(set(table.rows["split"]) - {"train"})
        if others:
            raise ValueError(
                f"a bank of lesions may hold training rows only, not {', '.join(others)}: table.select(split='train')"
            )
        self.cuttings: list[tuple[Cutting, str]] = []
        rng = np.random.default_rng(seed)
        by_photo = dict(iter(table.boxes.groupby("file_name", sort=True)))
        names = [name for name in table.rows["file_name"] if name in by_photo]
        share = max(1, -(-max_lesions // max(1, len(names))))
        for k in rng.permutation(len(names)):
            if len(self.cuttings) >= max_lesions:
                break
            photo = np.asarray(read_photo(table.root / names[k]))
            boxes = by_photo[names[k]][["x0", "y0", "x1", "y1"]].to_numpy(float)
            cut = [c for c in (cut_out(photo, boxes, n) for n in rng.permutation(len(boxes))) if c is not None]
            self.cuttings += [(c, names[k]) for c in cut[: 2 * share]]
        self.cuttings = self.cuttings[:max_lesions]
        if not self.cuttings:
            raise ValueError(
                f"none of the {len(table.boxes)} boxes holds a lesion that can be cut out: each is under {LEAST} px, "
                "too close to another or to the border, or hardly differs from its skin; use edit=overlay"
            )

    def draw(
        self,
        rng: np.random.Generator,
        num: int,
        *,
        severity: str = "moderate",
        darkness: float = 0.0,
        diameters: np.ndarray | None = None,
    ) -> list[CutLesion]:
        """`num` lesions, most from donors whose skin is about as dark; severity and diameters do not matter.

        They are turned a little only (lamps hang above donors too), and some are mirrored.
        """
        apart = np.array([cutting.darkness for cutting, _ in self.cuttings]) - darkness
        weight = np.exp(-((apart / SAME_TONE) ** 2) / 2) + 1e-4
        lesions = []
        for k in rng.choice(len(self.cuttings), size=num, p=weight / weight.sum()):
            cutting, donor = self.cuttings[k]
            lesions.append(CutLesion(cutting.density, donor, float(rng.normal(0, 0.35)), bool(rng.random() < 0.5)))
        return lesions


def cut_out(photo: np.ndarray, boxes: np.ndarray, index: int) -> Cutting | None:
    """Lesion `index`, or None: too small, long, near another or the border, on rough skin, hardly visible, not redder.

    Args:
        photo: uint8 [H, W, 3].
        boxes: [M, 4] x0 y0 x1 y1 px, of all lesions of the photograph.
    """
    x0, y0, x1, y1 = boxes[index]
    width, height = x1 - x0, y1 - y0
    radius = max(width, height) / 2
    if min(width, height) < LEAST or max(width, height) > ROUND * min(width, height):
        return None
    centre = np.array(((x0 + x1) / 2, (y0 + y1) / 2))
    if (centre - REACH * radius < 0).any() or (centre + REACH * radius > photo.shape[1::-1]).any():
        return None
    others = np.delete(boxes, index, axis=0)
    apart = np.abs((others[:, :2] + others[:, 2:]) / 2 - centre).max(1, initial=0)
    if (apart < radius + (others[:, 2:] - others[:, :2]).max(1, initial=0) / 2).any():
        return None

    left, top = np.floor(centre - REACH * radius - 2).astype(int).clip(0)
    right, bottom = np.ceil(centre + REACH * radius + 2).astype(int)
    light = to_linear(photo[top:bottom, left:right])
    density = -np.log(np.maximum(light, DARKEST))
    size = 2 * round(min(radius, STORED / 2) * REACH) + 1
    axis = np.linspace(-REACH, REACH, size)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    reduction = 2 * REACH * radius / size
    if reduction > 1:
        density = gaussian_filter(density, (0.5 * reduction, 0.5 * reduction, 0))
    at = np.stack([v * radius + centre[1] - top - 0.5, u * radius + centre[0] - left - 0.5])
    patch = np.stack([map_coordinates(density[..., k], at, order=1, mode="nearest") for k in range(3)], axis=-1)
    rho = np.hypot(u, v)

    ring = (rho > 1.35) & (rho < 2.1)
    plane = np.stack([np.ones_like(u), u, v], axis=-1)
    kept = ring
    for _ in range(2):  # a second time without what is not skin
        fitted = np.linalg.lstsq(plane[kept], patch[kept], rcond=None)[0]
        difference = patch - plane @ fitted
        level = luminance(difference)
        kept = ring & (np.abs(level) < 2 * level[ring].std() + 0.01)
    spread = float(level[ring].std())
    middle = difference[rho < 0.6].mean(0)
    if spread > ROUGHEST or abs(middle[1]) < max(FAINTEST, 1.2 * spread):
        return None
    noise = difference[ring].std(0)
    smooth = gaussian_filter(difference, (0.7, 0.7, 0))
    # The matte: certain in the middle, beyond it as far as the difference stands out of the skin's own unevenness.
    stands_out = np.clip((np.abs(smooth) / (2 * noise + 0.01)).max(-1) - 0.5, 0, 1)
    matte = np.maximum(np.clip(1.5 - rho / 0.6, 0, 1), gaussian_filter(stands_out, 0.06 * size / REACH))
    matte *= np.clip((1.8 - rho) / 0.8, 0, 1)
    density = smooth * matte[..., None]
    red, green, _ = density.mean((0, 1))
    if green <= 0 or green - red < LEAST_RED * green:
        return None  # a speck of light or a hair; a pus head may be pale, for redness lies around it
    return Cutting(density.astype(np.float32), Tone.of(np.exp(-fitted[0])).darkness)
