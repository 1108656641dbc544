"""Exercises for the refiner: a patch's lesions are taken away, others drawn there, and the photograph is asked for."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import IterableDataset

from acne_lab.data.module import stream_epoch
from acne_lab.edit.heal import REACH, ellipses
from acne_lab.edit.lesions import REACH as DRAWN_REACH
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.patches import Patches, diameters, drawn_lesion

BLANK = 0.1  # share of exercises that take no lesion away: nothing is to be invented
HOLES = 0.5  # mean number of places in the others that may be painted and must come back as they are

Exercise = tuple[np.ndarray, np.ndarray, np.ndarray]


class Exercises:
    """Makes photograph, drawn lesions and mask out of a patch.

    Args:
        patches: of the photographs that may be seen.
        overlay: draws lesions.
        blank: also make holes in which nothing is to change, and exercises of these alone; a network that does not see
            the drawn lesions could not tell them.
    """

    def __init__(self, patches: Patches, *, overlay: Overlay, blank: bool) -> None:
        self.patches, self.overlay, self.blank = patches, overlay, blank

    def __call__(self, i: int, rng: np.random.Generator) -> Exercise:
        """Patch i uint8 [S, S, 3], which is the target, the overlaid one likewise, and the mask bool [S, S]."""
        patches, side = self.patches, self.patches.side
        photo, smooth = np.asarray(patches.pixels[i])
        boxes, drawn = patches.boxes[patches.lesions_of(i)], patches.drawn[patches.lesions_of(i)]
        overlaid, mask = photo, np.zeros((side, side), bool)
        if len(boxes) and not (self.blank and rng.random() < BLANK):
            taken = choose_lesions(boxes, side, rng)
            boxes, drawn = boxes[taken], rng.permuted(drawn[taken], axis=1)[:, 0]
            healed = ellipses(boxes, mask.shape, reach=REACH)
            skin = np.where(healed[..., None], smooth, photo)
            centres, lesions = (boxes[:, :2] + boxes[:, 2:]) / 2, [drawn_lesion(text) for text in drawn]
            sizes = diameters(boxes)
            overlaid, mask, _ = self.overlay(skin, patches.analysis_of(i), lesions, centres, sizes, intensity=1.0)
            mask = mask | healed
        num_holes = rng.poisson(HOLES) if self.blank and mask.any() else 1 - mask.any()
        if num_holes:
            centres, sizes = rng.uniform(0, side, (num_holes, 2)), rng.choice(patches.sizes, (num_holes, 1))
            holes = np.hstack([centres - sizes / 2, centres + sizes / 2])
            mask = mask | ellipses(holes, mask.shape, reach=DRAWN_REACH)
        return photo, overlaid, mask


def choose_lesions(boxes: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Some of a patch's lesions, at least one; those that touch stay together: [N, 4] -> bool [N]."""
    parts, num_parts = ndimage.label(ellipses(boxes, (side, side), reach=REACH))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int).T
    taken = rng.permutation(num_parts)[: rng.integers(1, num_parts + 1)] + 1
    return np.isin(parts[y, x], taken)


class EndlessExercises(IterableDataset):
    """An endless shuffled stream of batches: photographs and overlaid ones uint8 [B, 3, S, S], masks bool [B, 1, S, S].

    What comes at position p of it depends on (seed, p) only, so that a resumed run goes on to the bit.

    Args:
        exercises: of the training patches.
        batch_size: B.
        seed: of order, flips and lesions.
        mirror: flip half of the exercises left to right.
        start: called at every `iter`: the position to begin with.
    """

    def __init__(
        self, exercises: Exercises, *, batch_size: int, seed: int, mirror: bool, start: Callable[[], int]
    ) -> None:
        self.exercises, self.batch_size, self.seed = exercises, batch_size, seed
        self.mirror, self.start = mirror, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        position, num = self.start(), len(self.exercises.patches)
        while True:
            drawn = []
            for p in range(position, position + self.batch_size):
                order, mirrored = stream_epoch(num, seed=self.seed, epoch=p // num)
                arrays = self.exercises(int(order[p % num]), np.random.default_rng((self.seed, p)))
                flip = self.mirror and mirrored[p % num]
                drawn.append([array[:, ::-1] if flip else array for array in arrays])
            position += self.batch_size
            yield as_batch(drawn)


def as_batch(drawn: list[Exercise]) -> tuple[Tensor, Tensor, Tensor]:
    """Exercises as tensors: uint8 [B, 3, S, S] twice and bool [B, 1, S, S]."""
    photo, overlaid, mask = (np.stack(column) for column in zip(*drawn))
    channels_first = [np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (photo, overlaid, mask[..., None])]
    return tuple(torch.from_numpy(array) for array in channels_first)
