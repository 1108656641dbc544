"""Lightning data modules: packed uint8 pixels in, batches out, the same for the same seed.

Both draw whole batches straight from the memory-mapped pixels, in this process: at these sizes a copy is
faster than a worker's pipe. What comes next is a pure function of the seed and of a clock that the checkpoint
holds (images seen for the GAN, the epoch for the grader), so a resumed run continues to the bit whatever the
loader had fetched in advance. Neither knows files, Hydra or the networks.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from acne_lab.data.table import ImageTable

Augment = Callable[[Tensor, Generator], Tensor]
Part = tuple[ImageTable, np.ndarray]  # a table and its pixels, uint8 [N, R, R, 3], in the table's row order


def loader(batches: Dataset) -> DataLoader:
    """Whole batches, in this process. Its own generator keeps it from drawing a number of torch's at each epoch."""
    return DataLoader(batches, batch_size=None, num_workers=0, generator=Generator())


def stream_epoch(num_images: int, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Epoch number `epoch` of the endless stream: the images permuted [N] and whether to flip each [N]."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(num_images), rng.random(num_images) < 0.5


def batch_of(pixels: np.ndarray, chosen: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Images uint8 [B, 3, R, R] of the rows `chosen` [B], those with `mirrored` [B] flipped left to right."""
    images = pixels[chosen]
    images[mirrored] = images[mirrored, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class EndlessBatches(IterableDataset):
    """An endless shuffled stream of whole batches: images uint8 [B, 3, R, R] and labels int64 [B].

    The stream is a sequence of epochs, each a permutation of all images; position p of it depends on
    (seed, p) only. Rank r of W takes the positions start + r, start + r + W, and so on.

    Args:
        pixels: uint8 [N, R, R, 3], usually a memory map.
        labels: int64 [N].
        batch_size: B, images a rank.
        seed: of the order and the flips.
        mirror: flip half of the images left to right.
        start: called at every `iter`: the number of images that all ranks together have taken before.
        rank, world_size: r and W.
    """

    def __init__(
        self,
        *,
        pixels: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        mirror: bool,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        assert len(pixels) == len(labels) > 0
        self.pixels = pixels
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.mirror = mirror
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        assert get_worker_info() is None, "worker processes would each repeat the stream: num_workers=0"
        stream = self._positions()
        while True:
            taken = [next(stream) for _ in range(self.batch_size)]
            chosen, mirrored = (np.array(column) for column in zip(*taken))
            yield batch_of(self.pixels, chosen, mirrored & self.mirror), torch.from_numpy(self.labels[chosen])

    def _positions(self) -> Iterator[tuple[int, bool]]:
        """(row of the image, mirrored) at each of this rank's positions."""
        num_images = len(self.labels)
        position = self.start() + self.rank
        while True:
            epoch = position // num_images
            order, mirrored = stream_epoch(num_images, seed=self.seed, epoch=epoch)
            while position // num_images == epoch:
                offset = position % num_images
                yield order[offset], mirrored[offset]
                position += self.world_size


class GanData(pl.LightningDataModule):
    """The endless stream for a GAN, without splits: hand over the training rows only.

    The LightningModule that trains on it must have `images_seen`, the number of real images that all ranks
    together have been shown, restored from its checkpoint: every (re)start of the loader begins there. So an
    epoch (a tick) goes on where the last one ended.

    Args:
        table: N images; the label of one without a severity is -1.
        pixels: uint8 [N, R, R, 3] in the table's row order.
        batch_size: images a step, of all ranks together.
        seed: of the order and the flips.
        mirror: flip half of the images left to right.
    """

    def __init__(
        self,
        *,
        table: ImageTable,
        pixels: np.ndarray,
        batch_size: int,
        seed: int,
        mirror: bool,
    ):
        super().__init__()
        self.table = table
        self.pixels = pixels
        self.batch_size = batch_size
        self.seed = seed
        self.mirror = mirror

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]"""
        return self.table.labels

    def train_dataloader(self) -> DataLoader:
        batches = EndlessBatches(
            pixels=self.pixels,
            labels=self.labels,
            batch_size=self.batch_size // self.trainer.world_size,
            seed=self.seed,
            mirror=self.mirror,
            start=lambda: int(self.trainer.lightning_module.images_seen),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return loader(batches)


def epoch_order(labels: Tensor, size: int, *, balanced: bool, generator: Generator) -> Tensor:
    """The images [size] int64 of one training epoch, in order.

    Plain: permutations, one behind the other. Balanced: draws with replacement, each from a class chosen evenly
    among those that occur, so that rare grades are seen as often as common ones.
    """
    if not balanced:
        num_permutations = math.ceil(size / len(labels))
        return torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(num_permutations)])[:size]
    weights = 1 / labels.bincount().double()[labels]
    return torch.multinomial(weights, size, replacement=True, generator=generator)


def truth_of(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Labels int64 [N] and lesion counts float32 [N], NaN where unknown, of tables one behind the other."""
    columns = zip(*((table.labels, table.lesion_counts) for table, _ in parts))
    labels, counts = (torch.from_numpy(np.concatenate(column)) for column in columns)
    return labels, counts


class GraderBatches(Dataset):
    """The batches of one epoch, by number: images float [B, 3, R, R], normalised, labels int64 [B], and lesion counts
    float [B], NaN where unknown.

    With `epoch` (training) batch i depends on (seed, epoch, i) only, and a last batch that is not full is
    dropped (a single image in it would break batch normalisation). Without it the images come in row order,
    all of them, never augmented.

    Args:
        parts: tables with their pixels, one behind the other, all of one resolution.
        batch_size: B.
        mean, std: of each colour channel of pixels in [0, 1].
        epoch: called for every batch: the number of the epoch. None: no training.
        epoch_size, balanced, augment, seed: see `GraderData`; for training only.
    """

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        epoch: Callable[[], int] | None = None,
        epoch_size: int | None = None,
        balanced: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        assert all(len(table) == len(pixels) for table, pixels in parts)
        self.pixels = [pixels for _, pixels in parts]
        self.labels, self.counts = truth_of(parts)
        self.batch_size = batch_size
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self.epoch = epoch
        self.epoch_size = epoch_size or len(self.labels)
        self.balanced = balanced
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        num_full, left = divmod(self.epoch_size, self.batch_size)
        return num_full if self.epoch or not left else num_full + 1

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(number)  # ends a for loop over the batches
        if self.epoch is None:
            order = torch.arange(len(self.labels))
        else:
            generator = seeded(self.seed, self.epoch())
            order = epoch_order(self.labels, self.epoch_size, balanced=self.balanced, generator=generator)
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        images = gather(self.pixels, chosen.numpy()).float() / 255
        if self.epoch is not None and self.augment is not None:
            images = self.augment(images, seeded(self.seed, self.epoch(), number))
        return (images - self.mean) / self.std, self.labels[chosen], self.counts[chosen]


def seeded(*numbers: int) -> Generator:
    """A torch generator for these numbers >= 0, unrelated to that of any other numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0] >> 1))


def gather(parts: Sequence[np.ndarray], chosen: np.ndarray) -> Tensor:
    """Rows `chosen` [B] of arrays [N_i, R, R, 3] that lie one behind the other, as uint8 [B, 3, R, R]."""
    first_rows = np.cumsum([0] + [len(part) for part in parts])
    images = np.empty((len(chosen), *parts[0].shape[1:]), np.uint8)
    for part, first in zip(parts, first_rows):
        here = (chosen >= first) & (chosen < first + len(part))
        images[here] = part[chosen[here] - first]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


class GraderData(pl.LightningDataModule):
    """Training, validation and test images for a grader.

    Args:
        train: (table, pixels uint8 [N, R, R, 3]) pairs to learn from, e.g. real and generated images.
        val: the pair that picks the checkpoint.
        test: the pair that is graded once, at the end; real images.
        batch_size: images a step.
        epoch_size: images an epoch, whatever the number of rows; None: as many as there are rows.
        balanced: show every grade equally often, by drawing rare ones more than once an epoch.
        augment: changes training images at random, e.g. `ClassicalAugment`; None for none.
        seed: of the order and the augmentation.
        mean: of each colour channel (pixels in [0, 1]), as the backbone's `data_config` says.
        std: likewise.

    Raises:
        ValueError: tables with different classes, or an image without a severity.
    """

    def __init__(
        self,
        *,
        train: Sequence[Part],
        val: Part,
        test: Part,
        batch_size: int,
        epoch_size: int | None = None,
        balanced: bool,
        augment: Augment | None,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        tables = [table for table, _ in [*train, val, test]]
        self.classes = tables[0].classes
        for table in tables:
            if tuple(table.classes) != tuple(self.classes):
                raise ValueError(
                    f"{table.root} has the classes {list(table.classes)}, {tables[0].root} has "
                    f"{list(self.classes)}: a grader needs the same classes everywhere"
                )
            if len(table.labels) and table.labels.min() < 0:
                raise ValueError(f"{table.root} has images without a severity: drop those rows first")
        num_train = epoch_size or sum(len(table.labels) for table, _ in train)
        if num_train < batch_size:
            raise ValueError(f"{num_train} training images an epoch do not fill {batch_size}: lower batch_size")
        self.train = list(train)
        self.val = val
        self.test = test
        self.batch_size = batch_size
        self.epoch_size = epoch_size
        self.balanced = balanced
        self.augment = augment
        self.seed = seed
        self.mean = mean
        self.std = std

    @property
    def labels(self) -> Tensor:
        """Of the training images, int64 [N]."""
        return truth_of(self.train)[0]

    @property
    def counts(self) -> Tensor:
        """Lesions of the training images, float32 [N], NaN where unknown."""
        return truth_of(self.train)[1]

    @property
    def class_counts(self) -> Tensor:
        """Training images of each class, int64 [C]."""
        return self.labels.bincount(minlength=len(self.classes))

    def train_dataloader(self) -> DataLoader:
        batches = GraderBatches(
            parts=self.train,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            epoch=lambda: self.trainer.current_epoch,
            epoch_size=self.epoch_size,
            balanced=self.balanced,
            augment=self.augment,
            seed=self.seed,
        )
        return loader(batches)

    def val_dataloader(self) -> DataLoader:
        return self._in_row_order(self.val)

    def test_dataloader(self) -> DataLoader:
        return self._in_row_order(self.test)

    def _in_row_order(self, part: Part) -> DataLoader:
        batches = GraderBatches(parts=[part], batch_size=self.batch_size, mean=self.mean, std=self.std)
        return loader(batches)
