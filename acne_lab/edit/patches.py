"""What the refiner learns from: patches of training photographs, cut once, and exercises made of them.

A patch is cut at the photograph's own scale, most of them around a lesion. Beside it lies the same patch healed: the
lesions that `boxes` names replaced by the skin next to them. An exercise takes lesions of a patch away, draws others of
the same places and sizes over the healed skin, and asks for the photograph back.

It does not know how lesions are drawn: `overlay` is given.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from scipy import ndimage
from torch import Tensor
from torch.utils.data import IterableDataset
from tqdm import tqdm

from acne_lab.data.module import stream_epoch
from acne_lab.data.photo import read_photo
from acne_lab.data.table import BadData, ImageTable

VERSION = 1  # change it with anything that changes what is cut or how it is healed
NEAR_A_LESION = 0.75  # share of the patches that are cut around one
REACH = 1.3  # a lesion's redness ends outside of its box: what is healed is this much larger
HOLE = 1.6  # as large as what is painted for a lesion of that size
BLANK = 0.15  # share of exercises that take no lesion away: nothing is to be invented
MARGIN = 2  # px around what was drawn that may be painted as well
STRANGE = 6.0  # gray levels: healing takes no skin that has stronger edges, or another colour
HOLES = 1.0  # mean number of places in an exercise that may be painted and must come back as they are

Overlay = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(skin uint8 [S, S, 3], boxes float [n, 4], rng) -> uint8 [S, S, 3]: lesions drawn that fill these boxes."""


@dataclass(frozen=True)
class Patches:
    """M patches of S x S pixels and the lesions in them.

    Args:
        pixels: uint8 [M, S, S, 3], memory-mapped.
        healed: the same without lesions.
        boxes: float32 [K, 4], x0 y0 x1 y1 in pixels of the patch: lesions that lie in it with all that is healed.
        first: int64 [M + 1]: patch i has the boxes from first[i] to first[i + 1].
        sizes: float32 [L]: diameters of all lesions of the photographs, in px; never empty.
    """

    pixels: np.ndarray
    healed: np.ndarray
    boxes: np.ndarray
    first: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        return self.pixels.shape[1]

    def boxes_of(self, i: int) -> np.ndarray:
        return self.boxes[self.first[i] : self.first[i + 1]]


def cut_patches(
    table: ImageTable,
    *,
    heal: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    side: int,
    per_photo: int,
    cache_dir: str | Path,
    num_workers: int,
) -> Patches:
    """Patches of all photographs of a table, from the cache if they are there.

    Args:
        table: with boxes.
        heal: (photograph, source of the gradients, mask) -> photograph with the mask's pixels replaced.
        side: of a patch, in px of the photograph.
        per_photo: patches of each photograph.
        cache_dir: where they are kept, as `<key>/refiner_*.npy`, under a hash of what is in them.
        num_workers: threads.

    Raises:
        BadData: photographs are too small, have vanished or changed since the table was made; names them.
        ValueError: the table has no lesion boxes.
    """
    if table.boxes is None or len(table.boxes) == 0:
        raise ValueError(
            f"{table.root} has no lesion boxes: the refiner learns from lesions whose place is known "
            "(data=toy, data=acne04 with its Detection folder, or a boxes.csv beside metadata.csv)"
        )
    folder = Path(cache_dir) / patches_key(table, side=side, per_photo=per_photo)
    if not (folder / "refiner_boxes.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / "refiner_boxes.npz").exists():  # another process may have cut them meanwhile
                _cut(table, folder, heal, side, per_photo, num_workers)
    with np.load(folder / "refiner_boxes.npz") as lesions:
        about = {name: lesions[name] for name in ("boxes", "first", "sizes")}
    pixels = np.load(folder / "refiner_pixels.npy", mmap_mode="r")
    return Patches(pixels=pixels[:, 0], healed=pixels[:, 1], **about)


def patches_key(table: ImageTable, *, side: int, per_photo: int) -> str:
    """16 hex digits of what decides the patches."""
    boxes = {name: part.to_numpy()[:, 1:].tolist() for name, part in table.boxes.groupby("file_name")}
    photos = [[row.sha256, boxes.get(row.file_name, [])] for row in table.rows.itertuples()]
    text = json.dumps(["refiner", VERSION, side, per_photo, photos])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cut(table: ImageTable, folder: Path, heal: Callable, side: int, per_photo: int, num_workers: int) -> None:
    """Fill the arrays aside; the file of boxes comes last: where it is, the patches are whole."""
    boxes = {name: part.to_numpy()[:, 1:].astype(np.float32) for name, part in table.boxes.groupby("file_name")}
    aside = folder / "refiner_pixels.npy.part"
    shape = (len(table) * per_photo, 2, side, side, 3)
    pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)

    def cut(item: tuple[int, str, str]) -> str | list[np.ndarray]:
        index, file_name, sha256 = item
        try:
            content = (table.root / file_name).read_bytes()
        except OSError as error:
            return f"{file_name}: cannot be read ({error.strerror})"
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{file_name}: has changed since the table was made"
        photo = np.asarray(read_photo(io.BytesIO(content)))
        if min(photo.shape[:2]) < side:
            return f"{file_name}: {photo.shape[1]} x {photo.shape[0]} is smaller than a patch of {side} px"
        lesions = boxes.get(file_name, np.zeros((0, 4), np.float32))
        rng = np.random.default_rng(int(sha256[:16], 16))
        kept = []
        for number, (x, y) in enumerate(corners(rng, photo.shape[:2], lesions, side=side, num=per_photo)):
            pixels[index * per_photo + number, 0] = photo[y : y + side, x : x + side]
            top, left = max(y - side // 2, 0), max(x - side // 2, 0)  # skin to heal with lies around the patch, too
            piece = photo[top : y + side + side // 2, left : x + side + side // 2]
            smooth = healed(piece, lesions - np.array([left, top, left, top], np.float32), heal, rng)
            pixels[index * per_photo + number, 1] = smooth[y - top :, x - left :][:side, :side]
            inside = lesions - np.array([x, y, x, y], np.float32)
            kept.append(inside[within(inside, (side, side))])
        return kept

    items = list(zip(range(len(table)), table.rows["file_name"], table.rows["sha256"]))
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        done = list(tqdm(pool.map(cut, items), total=len(items), desc=f"patches {side} px", unit="photo", delay=1))
    if problems := [result for result in done if isinstance(result, str)]:
        aside.unlink()
        raise BadData(problems, "lower patches.side, put the files back, or run `acne-lab prepare` again")
    pixels.flush()
    os.replace(aside, folder / "refiner_pixels.npy")
    kept = [part for result in done for part in result]
    first = np.cumsum([0, *map(len, kept)])
    sizes = diameters(np.concatenate(list(boxes.values())))
    with open(folder / "refiner_boxes.npz.part", "wb") as file:
        np.savez(file, boxes=np.concatenate(kept), first=first, sizes=sizes)
    os.replace(folder / "refiner_boxes.npz.part", folder / "refiner_boxes.npz")


def corners(
    rng: np.random.Generator, size: tuple[int, int], lesions: np.ndarray, *, side: int, num: int
) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of `num` patches in a photograph of (height, width): most of them around a lesion."""
    room = np.array([size[1] - side, size[0] - side])
    num_near = round(NEAR_A_LESION * num) if len(lesions) else 0
    order = np.concatenate([rng.permutation(len(lesions)) for _ in range(-(-num_near // max(len(lesions), 1)))] or [[]])
    centres = (lesions[order[:num_near].astype(int), :2] + lesions[order[:num_near].astype(int), 2:]) / 2
    near = centres - side / 2 + rng.uniform(-side / 4, side / 4, (num_near, 2))
    anywhere = rng.uniform(0, 1, (num - num_near, 2)) * room
    return [(int(x), int(y)) for x, y in np.clip(np.concatenate([near, anywhere]), 0, room).round()]


def diameters(boxes: np.ndarray) -> np.ndarray:
    """Geometric mean of width and height: [N, 4] -> [N] px."""
    return np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1), axis=1))


def within(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which lesions lie in a piece of (height, width) with all that is healed of them: [N, 4] -> bool [N]."""
    centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * REACH
    return ((centre - radius >= 2) & (centre + radius <= np.array(size[::-1]) - 2)).all(axis=1)


def ellipses(boxes: np.ndarray, size: tuple[int, int], *, reach: float) -> np.ndarray:
    """The pixels of lesions, each the ellipse in its box, `reach` times as large: [N, 4] -> bool of (height, width)."""
    y, x = np.ogrid[: size[0], : size[1]]
    shape = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        u, v = (x + 0.5 - (x0 + x1) / 2) / max(x1 - x0, 1), (y + 0.5 - (y0 + y1) / 2) / max(y1 - y0, 1)
        shape |= u**2 + v**2 <= (reach / 2) ** 2
    return shape


def healed(photo: np.ndarray, boxes: np.ndarray, heal: Callable, rng: np.random.Generator) -> np.ndarray:
    """A piece of a photograph with skin from beside each lesion in place of it: that skin's gradients, this one's light.

    Lesions that touch are healed as one. The skin comes from a place around them that is most like their surroundings:
    without lesions, without edges, of the same colour. Where there is none, the surroundings are continued smoothly.

    Args:
        photo: uint8 [H, W, 3].
        boxes: [N, 4]: lesions; those that reach over the border are left as they are.
        heal: see `cut_patches`.
        rng: chooses directions.
    """
    size = photo.shape[:2]
    lesions = ellipses(boxes, size, reach=REACH)
    edges = ndimage.gaussian_gradient_magnitude(photo.mean(axis=-1), 1.0)
    parts, num_parts = ndimage.label(ellipses(boxes[within(boxes, size)], size, reach=REACH))
    for part in range(1, num_parts + 1):
        shape = parts == part
        around = ndimage.binary_dilation(shape, iterations=3) & ~lesions
        colour = photo[around].mean(axis=0) if around.any() else photo[shape].mean(axis=0)
        rows, columns = np.nonzero(shape)
        span = max(np.ptp(rows), np.ptp(columns)) + 2
        found = []
        for turn in rng.uniform(0, 2 * np.pi) + np.arange(12) * np.pi / 6:
            for far in (1.0, 1.5, 2.0, 3.0):
                dy, dx = round(far * span * np.sin(turn)), round(far * span * np.cos(turn))
                y, x = rows + dy, columns + dx
                if min(y.min(), x.min()) > 0 and y.max() < size[0] - 1 and x.max() < size[1] - 1:
                    strange = np.abs(photo[y, x].mean(axis=0) - colour).mean() / 10
                    found.append((edges[y, x].mean() + strange + 20 * lesions[y, x].mean(), dy, dx))
        least, dy, dx = min(found, default=(np.inf, 0, 0))
        is_skin = least < STRANGE
        source = np.roll(photo, (-dy, -dx), axis=(0, 1)) if is_skin else np.zeros_like(photo)
        photo = heal(photo, source, shape)
    return photo


def choose_lesions(boxes: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Some of a patch's lesions, at least one; those that touch stay together: [N, 4] -> [n, 4]."""
    parts, num_parts = ndimage.label(ellipses(boxes, (side, side), reach=REACH))
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
    part_of = parts[centres[:, 1], centres[:, 0]]
    taken = rng.permutation(num_parts)[: rng.integers(1, num_parts + 1)] + 1
    return boxes[np.isin(part_of, taken)]


class Exercises:
    """Photograph, drawn lesions and mask out of a patch.

    Args:
        patches: what they are made of.
        overlay: draws lesions.
        blank: make holes in which nothing is to change, and some exercises of these alone; a network that does not
            see the drawn lesions could not tell them.
    """

    def __init__(self, patches: Patches, *, overlay: Overlay, blank: bool) -> None:
        self.patches, self.overlay, self.blank = patches, overlay, blank

    def __call__(self, i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patch i as the target uint8 [S, S, 3], the overlaid one likewise, and the mask bool [S, S]."""
        photo, boxes, side = np.asarray(self.patches.pixels[i]), self.patches.boxes_of(i), self.patches.side
        overlaid, mask = photo, np.zeros((side, side), bool)
        if len(boxes) and not (self.blank and rng.random() < BLANK):
            boxes = choose_lesions(boxes, side, rng)
            skin = np.where(ellipses(boxes, mask.shape, reach=REACH)[..., None], self.patches.healed[i], photo)
            overlaid = self.overlay(skin, boxes, rng)
            mask = changed(photo, overlaid)
        num_holes = rng.poisson(HOLES) if self.blank and mask.any() else 1 - mask.any()
        if num_holes:
            centres, sizes = rng.uniform(0, side, (num_holes, 2)), rng.choice(self.patches.sizes, (num_holes, 1))
            mask = mask | ellipses(np.hstack([centres - sizes / 2, centres + sizes / 2]), mask.shape, reach=HOLE)
        return photo, overlaid, mask


def changed(photo: np.ndarray, overlaid: np.ndarray) -> np.ndarray:
    """The pixels that differ, and those around them: bool [S, S]."""
    return ndimage.binary_dilation((photo != overlaid).any(axis=-1), iterations=MARGIN)


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


def as_batch(drawn: list) -> tuple[Tensor, Tensor, Tensor]:
    """Exercises as tensors: uint8 [B, 3, S, S] twice and bool [B, 1, S, S]."""
    photo, overlaid, mask = (np.stack(column) for column in zip(*drawn))
    channels_first = [np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (photo, overlaid, mask[..., None])]
    return tuple(torch.from_numpy(array) for array in channels_first)
