"""How large lesions are and where on a face they lie, after the statistics of ACNE04-v2's 32,443 circles.

Diameters are log-normal shares of a close-up's short side. Positions are a log-Gaussian Cox process on free skin:
the density has the shares of a 4 x 4 grid over the close-up's frame, times a random field of each face, for acne
prefers one cheek on one face and the chin on the next; and some lesions start beside another.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from acne_lab.data.toy import SIZE_MU, SIZE_SIGMA
from acne_lab.edit.face import Analysis

SIZE_LIMITS = (0.0050, 0.0560)  # 3rd to 99th percentile: a box of a pixel or of a cheek is an annotator's slip
LEAST_PIXELS = 1.6  # diameter: a smaller lesion would change no pixel visibly, yet count
ROW_SHARES = np.array((0.12, 0.23, 0.33, 0.32))  # of lesions, top to bottom of a close-up
COLUMN_SHARES = np.array((0.10, 0.40, 0.40, 0.10))
MOST_CROWDED = 4.0  # a cell takes at most this many times the lesions that its skin would under a uniform scatter
MARGIN = 0.55  # diameters between a lesion's centre and the border of skin
APART = 0.80  # least distance of two new lesions' centres, in sums of their radii
APART_FROM_OLD = 1.05  # ... of a new and an old one's: an overlap would not be a lesion more
FIELD_SIGMA = 0.07  # shares of a close-up: a cheek is 0.3 wide
GRID = 320  # pixels of the map on which places are drawn
TRIES, SHRINK, ROUNDS = 40, 0.85, 4  # places tried before a lesion is made smaller, and how often that happens


class NoRoom(Exception):
    """`fit` lesions found a place before one did not."""

    def __init__(self, fit: int) -> None:
        self.fit = fit
        super().__init__(f"{fit} lesions fit")


@dataclass(frozen=True)
class Placement:
    """Draws diameters and positions.

    Args:
        size_scale: times ACNE04's diameters (the toy faces of 64 px are drawn with 2.5).
        patchiness: standard deviation of the logarithm of each face's random field. 0: every face has the same density.
        clustered: chance that a lesion starts near one that is there. 0: each for itself.
        near: median distance to that one, in units of scale / sqrt(lesions on the face).
        near_sigma: standard deviation of the distance's logarithm.
    """

    size_scale: float = 1.0
    patchiness: float = 0.9
    clustered: float = 0.15
    near: float = 0.14
    near_sigma: float = 0.50

    def __post_init__(self) -> None:
        if not (
            self.size_scale > 0
            and 0 <= self.clustered <= 1
            and self.near > 0
            and min(self.near_sigma, self.patchiness) >= 0
        ):
            raise ValueError(f"size_scale and near must be positive, clustered in [0, 1], the others >= 0; got {self}")

    def diameters(self, rng: np.random.Generator, num: int, scale: float) -> np.ndarray:
        """Diameters [num] in pixels of a photograph whose close-up would measure `scale` pixels."""
        shares = np.exp(rng.normal(SIZE_MU, SIZE_SIGMA, num))
        return np.clip(shares, *SIZE_LIMITS) * self.size_scale * scale

    def positions(
        self, rng: np.random.Generator, analysis: Analysis, diameters: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centres [N, 2] (x, y) and diameters [N] in pixels: the given ones, smaller where that is needed to fit.

        None is smaller than `LEAST_PIXELS`.

        Raises:
            NoRoom: free skin ran out.
        """
        sites = Sites(analysis, _field(rng, self.patchiness))
        unit = analysis.scale / np.sqrt(max(1, len(analysis.lesions) + len(diameters)))
        placed = np.empty((len(diameters), 2))
        sizes = np.maximum(np.array(diameters, float), LEAST_PIXELS)
        order = np.argsort(-sizes, kind="stable")  # stones before sand
        for done, k in enumerate(order):
            others = placed[order[:done]]
            reach = sizes[order[:done]] / 2
            parents = np.concatenate([others, sites.old_centres])
            spot = None
            for _ in range(ROUNDS):
                spot = self._spot(rng, sites, parents, others, reach, sizes[k], unit)
                if spot is not None:
                    break
                sizes[k] = max(sizes[k] * SHRINK, LEAST_PIXELS)
            if spot is None:
                raise NoRoom(done)
            placed[k] = spot
        return placed, sizes

    def _spot(
        self,
        rng: np.random.Generator,
        sites: "Sites",
        parents: np.ndarray,
        others: np.ndarray,
        reach: np.ndarray,
        diameter: float,
        unit: float,
    ) -> np.ndarray | None:
        """A place (x, y) where a lesion of this diameter fits, or None after `TRIES`."""
        start = sites.draw(rng, TRIES)
        near = rng.random(TRIES) < (self.clustered if len(parents) else 0)
        if near.any():
            chosen = parents[rng.integers(len(parents), size=TRIES)]
            distance = unit * self.near * np.exp(rng.normal(0, self.near_sigma, TRIES))
            angle = rng.uniform(0, 2 * np.pi, TRIES)
            beside = chosen + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            start = np.where(near[:, None], beside, start)
        free = sites.clearance(start) > MARGIN * diameter
        if len(others):
            apart = np.linalg.norm(start[:, None] - others[None], axis=-1)
            free &= (apart > APART * (reach + diameter / 2)).all(1)
        if len(sites.old_centres):
            apart = np.linalg.norm(start[:, None] - sites.old_centres[None], axis=-1)
            free &= (apart > APART_FROM_OLD * (sites.old_radii + diameter / 2)).all(1)
        return start[free.argmax()] if free.any() else None


class Sites:
    """The free skin of one photograph, on a reduced grid: how far inside it a point is, and where lesions start."""

    def __init__(self, analysis: Analysis, field: np.ndarray) -> None:
        skin = analysis.skin
        rows, columns = np.nonzero(skin.max(1) > 0.5)[0], np.nonzero(skin.max(0) > 0.5)[0]
        self.y0, self.x0 = int(rows[0]), int(columns[0])
        part = skin[self.y0 : rows[-1] + 1, self.x0 : columns[-1] + 1]
        self.skin = part > 0.5
        self.step = max(1.0, max(part.shape) / GRID)
        size = (max(1, round(part.shape[1] / self.step)), max(1, round(part.shape[0] / self.step)))
        reduced = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BOX))
        # The map is cut to the skin: a border of no skin stands for what lies outside, or for the photograph's edge.
        self.inside = distance_transform_edt(np.pad(reduced > 0.5, 1))[1:-1, 1:-1] * self.step
        self.old_centres = (analysis.lesions[:, :2] + analysis.lesions[:, 2:]).astype(float) / 2
        self.old_radii = (analysis.lesions[:, 2:] - analysis.lesions[:, :2]).max(1, initial=0) / 2
        y, x = np.mgrid[: size[1], : size[0]]
        centre = np.array((self.x0 + part.shape[1] / 2, self.y0 + part.shape[0] / 2))
        at = np.stack([self.x0 + (x + 0.5) * self.step, self.y0 + (y + 0.5) * self.step], axis=-1)
        frame = np.clip((at - centre) / analysis.scale + 0.5, 0, 0.9999)
        row, column = np.moveaxis((frame[..., ::-1] * 4).astype(int), -1, 0)
        fine = (frame * len(field)).astype(int)
        weight = _density(self.inside > 0, row, column) * field[fine[..., 1], fine[..., 0]]
        self.cumulated = np.cumsum(weight.ravel())

    def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Points [num, 2] on skin, by the shares of rows and columns."""
        chosen = np.searchsorted(self.cumulated, rng.random(num) * self.cumulated[-1], side="right")
        rows, columns = np.divmod(np.minimum(chosen, self.inside.size - 1), self.inside.shape[1])
        jitter = rng.random((num, 2))
        return np.stack(
            [self.x0 + (columns + jitter[:, 0]) * self.step, self.y0 + (rows + jitter[:, 1]) * self.step], 1
        )

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance [N] from points [N, 2] to the border of skin, pixels; 0 outside."""
        x, y = np.floor(points - (self.x0, self.y0)).astype(int).T
        height, width = self.skin.shape
        on_skin = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        # A cell at the border counts as skin when most of it is: the point itself must be.
        on_skin &= self.skin[y.clip(0, height - 1), x.clip(0, width - 1)]
        columns, rows = np.floor((points - (self.x0, self.y0)) / self.step).astype(int).T
        height, width = self.inside.shape
        return np.where(on_skin, self.inside[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0.0)


def _field(rng: np.random.Generator, patchiness: float) -> np.ndarray:
    """[64, 64] over the frame: exp of a smooth Gaussian field of this standard deviation, of mean 1."""
    noise = gaussian_filter(rng.standard_normal((64, 64)), FIELD_SIGMA * 64, mode="wrap")
    return np.exp(patchiness * noise / noise.std() - patchiness**2 / 2)


def _density(skin: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Weights [h, w] on skin whose sums over grid rows and columns have the wanted shares, as far as skin allows.

    Iterative proportional fitting (Deming & Stephan 1940) on the 4 x 4 cells' areas; where a cell's skin is a
    sliver, the cap on crowding wins over the shares.
    """
    area = np.bincount((4 * row + column)[skin], minlength=16).reshape(4, 4).astype(float)
    area /= max(area.sum(), 1.0)
    share = area.copy()
    for _ in range(30):
        for axis, wanted in ((1, ROW_SHARES), (0, COLUMN_SHARES)):
            present = share.sum(axis)
            factor = np.where(present > 0, wanted / np.maximum(present, 1e-9), 0.0)
            share = share * (factor[:, None] if axis == 1 else factor[None, :])
        share = np.minimum(share / max(share.sum(), 1e-12), MOST_CROWDED * area)
    density = np.divide(share, area, out=np.zeros_like(share), where=area > 0)
    return density[row, column] * skin
