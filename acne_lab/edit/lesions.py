"""Lesions as functions over the unit disc, and the procedural source of them.

A lesion answers for any grid of coordinates (u, v), in radii from its centre, what it adds to skin there: optical
density of its pigments, a cover of pus, a height, a gloss. So one lesion can be drawn at every size, turned with the
surface it sits on, and lit by the photograph's own light. `bank.LesionBank` gives lesions of the same kind, cut from
photographs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import numpy as np

from acne_lab.edit.colour import MELANIN

REACH = 2.2  # radii: beyond this no lesion changes anything
# Optical density that more blood adds to skin, per linear sRGB R, G, B: absorption of haemoglobin (Prahl 1999, 75 to
# 90 % oxygenated) in a dermis that scatters as measured (Jacques 2013), diffuse reflectance by Farrell et al. 1992,
# seen under D65. Blood takes several times as much blue light as green, but blue light returns from so shallow that
# it meets little of it: both fade alike, and so pale skin turns a warm red, not magenta.
ERYTHEMA = np.array((0.26, 1.00, 1.00), np.float32)
DEOXYGENATED = np.array((0.22, 0.0, 0.0), np.float32)  # what it takes beyond that when half of the oxygen is gone


class Layers(NamedTuple):
    """What a lesion adds on a grid [h, w]."""

    absorbance: np.ndarray  # float32 [h, w, 3]: optical density per linear R, G, B
    pus: np.ndarray  # float32 [h, w] in [0, 1]: share of the surface hidden by pus or scale
    height: np.ndarray  # float32 [h, w]: above the skin, radii
    gloss: np.ndarray  # float32 [h, w]: how much more it shines than skin, shares of white light


class Lesion(Protocol):
    """One lesion of either source."""

    kind: str
    factor: float  # its diameter, in those that the statistics of sizes give

    def layers(self, u: np.ndarray, v: np.ndarray, *, light: np.ndarray, darkness: float) -> Layers:
        """On coordinates u, v [h, w] in radii; `light` [2] points to the lamp, `darkness` is `Tone.darkness`."""

    def parameters(self) -> dict:
        """What was drawn, as JSON values."""


Range = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """The ranges from which a kind of lesion draws its parameters.

    Optical densities are those of the green channel for blood and of the blue one for melanin, at the centre, on
    pale skin: 0.3 of blood raises CIELAB a* by about 8, a papule's usual redness.
    """

    factor: Range  # diameter over that of the statistics
    blood: Range
    melanin: Range
    halo: Range  # redness around it, as a share of the blood at its centre
    edge: Range  # saturation of the profile: near 0 a blurred spot, 3 an even patch with a rim
    height: Range = (0.0, 0.0)  # radii
    pus: Range = (0.0, 0.0)  # cover at the centre
    pus_size: Range = (0.0, 0.0)  # radii
    plug: Range = (0.0, 0.0)  # optical density of a dark plug at the centre
    gloss: Range = (0.0, 0.0)


KINDS: Mapping[str, Kind] = {
    # inflamed and raised, without a head
    "papule": Kind(
        factor=(0.75, 1.15),
        blood=(0.40, 1.05),
        melanin=(0.0, 0.10),
        halo=(0.16, 0.42),
        edge=(0.4, 2.2),
        height=(0.10, 0.30),
        gloss=(0.0, 0.07),
    ),
    # a papule with a yellowish head that takes a third to half of its width
    "pustule": Kind(
        factor=(0.80, 1.20),
        blood=(0.50, 1.05),
        melanin=(0.0, 0.06),
        halo=(0.22, 0.46),
        edge=(0.5, 2.2),
        height=(0.18, 0.36),
        pus=(0.60, 0.95),
        pus_size=(0.28, 0.55),
        gloss=(0.02, 0.09),
    ),
    # large and deep: a flat dome whose redness has no clear border and a tinge of violet
    "nodule": Kind(
        factor=(1.60, 2.30),
        blood=(0.50, 0.95),
        melanin=(0.04, 0.14),
        halo=(0.28, 0.48),
        edge=(0.3, 1.5),
        height=(0.06, 0.16),
        gloss=(0.0, 0.05),
    ),
    # open comedone: a small dark plug in a hardly reddened pore
    "comedone": Kind(
        factor=(0.45, 0.70),
        blood=(0.02, 0.12),
        melanin=(0.05, 0.20),
        halo=(0.0, 0.20),
        edge=(0.5, 2.0),
        height=(0.03, 0.12),
        plug=(0.5, 1.3),
        gloss=(0.0, 0.02),
    ),
    # what an inflamed lesion leaves on pale skin: flat and red
    "post_inflammatory_erythema": Kind(
        factor=(0.70, 1.15), blood=(0.28, 0.70), melanin=(0.0, 0.10), halo=(0.10, 0.35), edge=(0.3, 2.0)
    ),
    # ... and on dark skin: flat and brown
    "pigment": Kind(factor=(0.65, 1.10), blood=(0.02, 0.10), melanin=(0.35, 0.95), halo=(0.05, 0.22), edge=(0.6, 2.6)),
}

# Shares of the kinds. Erythema and pigment share what is given for marks, by skin tone.
SHARES: Mapping[str, Mapping[str, float]] = {
    "mild": {"papule": 0.42, "pustule": 0.08, "nodule": 0.0, "comedone": 0.25, "mark": 0.25},
    "moderate": {"papule": 0.46, "pustule": 0.14, "nodule": 0.01, "comedone": 0.16, "mark": 0.23},
    "severe": {"papule": 0.48, "pustule": 0.18, "nodule": 0.03, "comedone": 0.09, "mark": 0.22},
    "very_severe": {"papule": 0.46, "pustule": 0.20, "nodule": 0.06, "comedone": 0.06, "mark": 0.22},
}


@dataclass(frozen=True)
class ProceduralLesion:
    """A drawn lesion; the fields are one draw from its `Kind`'s ranges, and its irregularities."""

    kind: str
    factor: float
    blood: float
    melanin: float
    halo: float
    edge: float
    height: float
    pus: float
    pus_size: float
    plug: float
    gloss: float
    violet: float  # share of the blood without oxygen, which takes more red light
    shape_seed: int

    def layers(self, u: np.ndarray, v: np.ndarray, *, light: np.ndarray, darkness: float) -> Layers:
        shape = np.random.default_rng(self.shape_seed)
        u, v = _bent(u, v, shape, amplitude=0.16)
        rho = np.hypot(u, v)
        body = _lobes(u, v, shape, plateau=self.edge) * (1 + _mottle(u, v, shape, num=7, amplitude=0.25))
        core = np.exp(-((rho / 0.36) ** 2))
        at_u, at_v = shape.normal(0, 0.20, 2)
        halo = np.exp(-(np.hypot(u - at_u, v - at_v) ** 2)) * (
            1 + _mottle(u / 1.8, v / 1.8, shape, num=7, amplitude=0.5)
        )
        # On dark skin blood shows less under the melanin, and inflammation brings more melanin with it.
        blood = self.blood * (1 - 0.20 * darkness)
        melanin = self.melanin + 0.50 * darkness * self.blood
        redness = blood * (0.8 * body + 0.2 * core + self.halo * halo * (1 - 0.7 * np.minimum(body, 1)))
        tint = ERYTHEMA + self.violet * DEOXYGENATED
        absorbance = redness[..., None] * tint + (melanin * body)[..., None] * MELANIN
        if self.plug:
            hole = np.exp(-((np.hypot(*_bent(u, v, shape, amplitude=0.20)) / 0.50) ** 3))
            absorbance = absorbance + (self.plug * hole)[..., None] * np.array((0.72, 0.95, 1.05), np.float32)
        pus = np.zeros_like(u)
        if self.pus:
            off_u, off_v = shape.normal(0, 0.10, 2)
            head = np.hypot(u - off_u, v - off_v) / self.pus_size
            pus = self.pus * np.exp(-(head**2.4)) * (1 + _mottle(u * 2, v * 2, shape, num=4, amplitude=0.2))
        height = self.height * np.exp(-1.5 * rho**2)
        if self.pus:
            height = height + 0.2 * self.height * np.exp(-((rho / (1.3 * self.pus_size)) ** 2))
        return Layers(
            np.asarray(absorbance, np.float32),
            np.clip(pus, 0, 1).astype(np.float32),
            height.astype(np.float32),
            self._shine(u, v, light, shape) * np.float32(1 + darkness),
        )

    def _shine(self, u: np.ndarray, v: np.ndarray, light: np.ndarray, shape: np.random.Generator) -> np.ndarray:
        """A few specks on the side of the lamp: skin is oily, not polished."""
        shine = np.zeros_like(u)
        if self.gloss:
            for strength in (1.0, 0.5, 0.4):
                at_u, at_v = 0.30 * light + shape.normal(0, 0.13, 2)
                size = shape.uniform(0.08, 0.18, 2)
                shine += strength * np.exp(-(((u - at_u) / size[0]) ** 2) - ((v - at_v) / size[1]) ** 2)
        return (self.gloss * shine).astype(np.float32)

    def parameters(self) -> dict:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class ProceduralLesions:
    """Draws lesions of `KINDS`.

    Args:
        shares: chances of the kinds by severity, as `SHARES` and in its place; a severity that is missing takes
            those of "moderate". None: `SHARES`.
        spread: 0 draws every parameter from the middle of its range, 1 from all of it.
    """

    def __init__(self, *, shares: Mapping[str, Mapping[str, float]] | None = None, spread: float = 1.0) -> None:
        self.shares = SHARES if shares is None else shares
        if "moderate" not in self.shares:
            raise ValueError("shares must name the severity moderate: other severities fall back to it")
        for severity, parts in self.shares.items():
            unknown = set(parts) - {*KINDS, "mark"}
            if unknown or min(parts.values()) < 0 or sum(parts.values()) <= 0:
                kinds = ", ".join([*KINDS, "mark"])
                raise ValueError(
                    f"shares of {severity} are chances of {kinds}, none negative, not all 0: {dict(parts)}"
                )
        if not 0 <= spread <= 1:
            raise ValueError(f"spread must be in [0, 1], not {spread}")
        self.spread = spread

    def draw(
        self,
        rng: np.random.Generator,
        num: int,
        *,
        severity: str = "moderate",
        darkness: float = 0.0,
        diameters: np.ndarray | None = None,
    ) -> list[ProceduralLesion]:
        """`num` lesions for a face of this severity and `Tone.darkness`.

        `diameters` [num] of the same face make its small lesions fainter than its large ones.
        """
        parts = self.shares.get(severity.replace(" ", "_"), self.shares["moderate"])
        names, chances = list(parts), np.array(list(parts.values()), float)
        kinds = [names[k] for k in rng.choice(len(names), num, p=chances / chances.sum())]
        activity = float(np.exp(rng.normal(0, 0.18)))  # a face's lesions are inflamed together
        growth = (
            np.ones(num)
            if diameters is None or not num
            else np.clip((diameters / np.median(diameters)) ** 0.4, 0.55, 1.0)
        )
        return [
            self.draw_one(rng, kind, darkness=darkness, activity=activity * float(g)) for kind, g in zip(kinds, growth)
        ]

    def draw_one(
        self, rng: np.random.Generator, kind: str, *, darkness: float = 0.0, activity: float = 1.0
    ) -> ProceduralLesion:
        """A lesion of one kind ("mark": erythema or pigment, by tone); `activity` multiplies its blood."""
        if kind == "mark":
            kind = (
                "pigment" if rng.random() < np.clip(1.3 * darkness - 0.15, 0.05, 0.95) else "post_inflammatory_erythema"
            )
        ranges = asdict(KINDS[kind])

        def value(name: str, skew: float = 1.0) -> float:
            low, high = ranges[name]
            return float(low + (high - low) * (0.5 + self.spread * (rng.random() ** skew - 0.5)))

        return ProceduralLesion(
            kind=kind,
            factor=value("factor"),
            blood=value("blood", skew=1.2) * activity,  # most lesions are faint
            melanin=value("melanin"),
            halo=value("halo"),
            edge=value("edge"),
            height=value("height"),
            pus=value("pus"),
            pus_size=value("pus_size"),
            plug=value("plug"),
            gloss=value("gloss", skew=1.5),
            violet=float(rng.uniform(0.3, 0.9) if kind == "nodule" else rng.uniform(0, 0.35)),
            shape_seed=int(rng.integers(2**31)),
        )


def _bent(u: np.ndarray, v: np.ndarray, shape: np.random.Generator, *, amplitude: float) -> tuple:
    """The coordinates, scaled so that a circle around the centre gets an outline with random Fourier terms 2 to 5.

    The terms grow from the centre outwards, or every lesion would be a star.
    """
    angle, square = np.arctan2(v, u), u**2 + v**2
    outline = np.zeros_like(u)
    for order in range(2, 6):
        size, phase = shape.normal(0, amplitude * (2 / order) ** 1.5), shape.uniform(0, 2 * np.pi)
        outline += size * np.cos(order * angle + phase)
    scale = 1 / np.clip(1 + outline * square / (square + 0.35), 0.6, 1.5)
    return u * scale, v * scale


def _lobes(u: np.ndarray, v: np.ndarray, shape: np.random.Generator, *, plateau: float) -> np.ndarray:
    """A sum of Gaussians side by side, saturated: from a blurred spot (`plateau` near 0) to an even patch (3)."""
    num = int(shape.integers(3, 6))
    offsets, sizes = shape.normal(0, 0.24, (num, 2)), shape.uniform(0.30, 0.52, num)
    weights = shape.uniform(0.5, 1.0, num)
    total = np.zeros_like(u)
    for (at_u, at_v), size, weight in zip(offsets, sizes, weights / weights.sum()):
        total += weight * np.exp(-((u - at_u) ** 2 + (v - at_v) ** 2) / (2 * size**2))
    return (1 - np.exp(-plateau * total)) / (1 - np.exp(-plateau))


def _mottle(u: np.ndarray, v: np.ndarray, shape: np.random.Generator, *, num: int, amplitude: float) -> np.ndarray:
    """Random Gaussian spots of both signs inside the disc."""
    spots = np.zeros_like(u)
    for _ in range(num):
        at_u, at_v = shape.uniform(-0.8, 0.8, 2)
        size, sign = shape.uniform(0.18, 0.42), shape.normal(0, amplitude)
        spots += sign * np.exp(-((u - at_u) ** 2 + (v - at_v) ** 2) / (2 * size**2))
    return np.clip(spots, -0.7, 0.7)
