import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from acne_lab.data.augment import ClassicalAugment, affine_rows, binomial_blur, move
from acne_lab.data.module import EndlessBatches, GanData, GraderBatches, GraderData, gather
from acne_lab.data.table import ImageTable

CLASSES = ("mild", "moderate", "severe", "very_severe")


def make_table(labels, classes=CLASSES):
    num = len(labels)
    rows = {
        "file_name": [f"images/{i}.png" for i in range(num)],
        "severity": [classes[label] if label >= 0 else "" for label in labels],
        "lesions": [None if label == 1 else 10 * label for label in labels],
        "subject": [str(i) for i in range(num)],
        "split": "train",
        "source": "toy",
        "parent": "",
        "sha256": [f"{i:064x}" for i in range(num)],
    }
    return ImageTable(root="nowhere", rows=pd.DataFrame(rows), classes=classes)


def numbered_pixels(num, resolution=4):
    """Image i has the value i on the left and 0 on the right: order and flips can be read off."""
    pixels = np.zeros((num, resolution, resolution, 3), np.uint8)
    pixels[:, :, : resolution // 2] = np.arange(num, dtype=np.uint8)[:, None, None, None]
    return pixels


def make_part(labels):
    return make_table(labels), numbered_pixels(len(labels))


def endless(num, **arguments):
    defaults = {"batch_size": 1, "seed": 0, "mirror": False}
    return EndlessBatches(pixels=numbered_pixels(num), labels=np.arange(num), **{**defaults, **arguments})


def first_images(batches, num_batches):
    """The numbers of the images in the first batches, and whether each was mirrored."""
    images = torch.cat([images for images, _ in itertools.islice(batches, num_batches)])
    left, right = images[:, 0, 0, 0].tolist(), images[:, 0, 0, -1].tolist()
    return [max(pair) for pair in zip(left, right)], [b > a for a, b in zip(left, right)]


class Recorder(pl.LightningModule):
    """Counts images as a GAN does and notes which ones it saw."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.images_seen = 0
        self.seen = []

    def training_step(self, batch, batch_idx):
        _, labels = batch
        self.images_seen += len(labels)
        self.seen += labels.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint):
        self.images_seen = checkpoint["images_seen"]


def quiet_trainer(**arguments):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **arguments},
    )


# --- the endless stream


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 12), seed=st.integers(0, 2**31), epochs=st.integers(1, 3))
def test_every_epoch_is_a_permutation(num, seed, epochs):
    numbers, _ = first_images(endless(num, seed=seed), num * epochs)
    for epoch in range(epochs):
        assert sorted(numbers[epoch * num : (epoch + 1) * num]) == list(range(num))


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 12), start=st.integers(0, 40), seed=st.integers(0, 100))
def test_start_skips_exactly_that_many_images(num, start, seed):
    whole = first_images(endless(num, seed=seed, mirror=True), start + 5)
    late = first_images(endless(num, seed=seed, mirror=True, start=lambda: start), 5)
    assert late == tuple(column[start:] for column in whole)


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 12), world_size=st.integers(1, 4), start=st.integers(0, 20))
def test_ranks_partition_the_stream(num, world_size, start):
    whole, _ = first_images(endless(num, start=lambda: start), 4 * world_size)
    ranks = [
        first_images(endless(num, start=lambda: start, rank=rank, world_size=world_size), 4)[0]
        for rank in range(world_size)
    ]
    assert [number for step in zip(*ranks) for number in step] == whole


def test_epochs_and_seeds_differ():
    numbers, _ = first_images(endless(30), 60)
    assert numbers[:30] != numbers[30:]
    assert numbers[:30] != first_images(endless(30, seed=1), 30)[0]


def test_batches_hold_images_with_their_labels():
    images, labels = next(iter(endless(9, batch_size=4)))
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 4, 4)
    assert labels.dtype == torch.int64
    assert images[:, 0, 0, 0].tolist() == labels.tolist()


def test_mirror_flips_about_half_and_only_when_asked():
    _, flips = first_images(endless(200, mirror=True), 200)
    assert 60 < sum(flips) < 140
    _, flips = first_images(endless(200), 200)
    assert not any(flips)


def test_gan_data_continues_over_ticks_and_resumes_to_the_image(tmp_path):
    table, pixels = make_part([i % 4 for i in range(7)])

    def data():
        return GanData(table=table, pixels=pixels, batch_size=2, seed=3, mirror=True)

    whole = Recorder()
    quiet_trainer(max_epochs=4, limit_train_batches=3).fit(whole, data())
    expected = EndlessBatches(pixels=pixels, labels=table.labels, batch_size=2, seed=3, mirror=True)
    expected = torch.cat([labels for _, labels in itertools.islice(expected, 12)]).tolist()
    assert whole.seen == expected  # although Lightning fetches one batch in advance and restarts the loader

    half = Recorder()
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=3)
    trainer.fit(half, data())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = Recorder()
    quiet_trainer(max_epochs=4, limit_train_batches=3).fit(rest, data(), ckpt_path=tmp_path / "half.ckpt")
    assert half.seen + rest.seen == whole.seen


def test_a_batch_comes_in_under_a_millisecond(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((500, 64, 64, 3), np.uint8))
    pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    stream = iter(EndlessBatches(pixels=pixels, labels=np.zeros(500, np.int64), batch_size=16, seed=0, mirror=True))
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        next(stream)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 1e-3


# --- the grader's data


def grader_data(labels=(0,) * 40 + (1,) * 8, **arguments):
    part = make_part(list(labels))
    defaults = {
        "train": [part],
        "val": make_part([0, 1, 2]),
        "test": make_part([3, 2, 1, 0, 1]),
        "batch_size": 2,
        "balanced": False,
        "augment": None,
        "seed": 0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return GraderData(**{**defaults, **arguments})


def epoch_of(part, *, epoch=0, **arguments):
    batches = GraderBatches(parts=[part], batch_size=4, mean=(0, 0, 0), std=(1, 1, 1), epoch=lambda: epoch, **arguments)
    images, labels, _ = (torch.cat(column) for column in zip(*batches))
    return images, labels


def test_test_images_come_once_in_row_order_and_never_augmented():
    data = grader_data(augment=ClassicalAugment(mirror=1, brightness=0.5), balanced=True)
    for loader, (table, pixels) in ((data.test_dataloader(), data.test), (data.val_dataloader(), data.val)):
        images, labels, counts = (torch.cat(column) for column in zip(*loader))
        np.testing.assert_array_equal(counts, [np.nan if label == 1 else 10 * label for label in table.labels])
        assert labels.tolist() == table.labels.tolist()
        expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        assert torch.equal(images, expected)
        assert len(loader) == -(-len(pixels) // 2)


def test_plain_epochs_are_permutations_without_the_last_odd_batch():
    images, labels = epoch_of(make_part([0, 1, 2, 3, 0, 1, 2, 3, 0, 1]))
    numbers = (images[:, 0, 0, 0] * 255).round().int().tolist()
    assert len(set(numbers)) == len(numbers) == 8
    assert [number % 4 for number in numbers] == labels.tolist()


def test_an_epoch_of_a_given_size_is_whole_permutations_one_behind_the_other():
    part = make_part([i % 4 for i in range(10)])
    images, _ = epoch_of(part, epoch_size=28)
    numbers = (images[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(numbers[:10]) == sorted(numbers[10:20]) == list(range(10))
    assert numbers[:10] != numbers[10:20]
    assert len(numbers) == 28
    assert len(set(numbers[20:])) == 8
    fewer = (epoch_of(part, epoch_size=4, epoch=epoch)[0] for epoch in range(20))
    assert len({tuple(images[:, 0, 0, 0].tolist()) for images in fewer}) > 10  # other images in every epoch
    assert len(epoch_of(part, epoch_size=28, balanced=True)[1]) == 28
    assert len(grader_data(labels=(0, 1), epoch_size=6).train_dataloader().dataset) == 3
    with pytest.raises(ValueError, match="1 training images an epoch do not fill 2"):
        grader_data(epoch_size=1)


def test_balanced_epochs_show_every_class_equally_often():
    labels = [0] * 1400 + [1] * 400 + [3] * 200  # class 2 does not occur
    _, drawn = epoch_of((make_table(labels), np.zeros((2000, 1, 1, 3), np.uint8)), balanced=True)
    counts = drawn.bincount(minlength=4)
    assert counts[2] == 0
    # Binomial with p = 1/3: standard deviation 21, so 5 of them
    assert all(abs(counts[c] - 2000 / 3) < 105 for c in (0, 1, 3))


def test_an_epoch_depends_on_seed_and_number_alone():
    part = make_part([i % 4 for i in range(40)])
    augment = ClassicalAugment(rotation=10, translate=0.1, scale=0.1, blur=0.5, brightness=0.2, contrast=0.2, noise=0.1)
    first, again, later, other = (
        epoch_of(part, augment=augment, balanced=True, epoch=epoch, seed=seed)[0]
        for epoch, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_parts_lie_one_behind_the_other():
    parts = [numbered_pixels(3), numbered_pixels(5)]
    images = gather(parts, np.array([7, 0, 3, 2]))
    assert images[:, 0, 0, 0].tolist() == [4, 0, 0, 2]
    data = grader_data(train=[make_part([0, 0, 1]), make_part([3])])
    assert data.class_counts.tolist() == [2, 1, 0, 1]


def test_unfit_tables_are_refused():
    with pytest.raises(ValueError, match="without a severity"):
        grader_data(test=make_part([0, -1]))
    with pytest.raises(ValueError, match="same classes everywhere"):
        grader_data(val=(make_table([0], ("mild", "severe")), numbered_pixels(1)))
    with pytest.raises(ValueError, match="lower batch_size"):
        grader_data(labels=(0, 1), batch_size=3)


# --- classical augmentation


def test_zero_augmentation_is_the_identity():
    images = torch.rand(3, 3, 8, 8)
    changed = ClassicalAugment(mirror=0)(images, torch.Generator().manual_seed(0))
    assert torch.allclose(changed, images, atol=1e-6)


def test_augmentation_stays_in_range_and_treats_images_apart():
    images = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    augment = ClassicalAugment(rotation=20, translate=0.1, scale=0.2, blur=1, brightness=0.5, contrast=0.5, noise=0.1)
    changed = augment(images, torch.Generator().manual_seed(0))
    assert 0 <= changed.min() <= changed.max() <= 1
    assert len({image.sum().item() for image in changed}) == 8


def test_grain_has_up_to_the_wanted_deviation():
    images = torch.full((400, 3, 16, 16), 0.5)
    changed = ClassicalAugment(mirror=0, noise=0.1)(images, torch.Generator().manual_seed(0))
    deviation = (changed - images).std(dim=(1, 2, 3))
    assert deviation.max() < 0.1 * 1.1
    assert abs(deviation.mean() - 0.05) < 0.005  # uniform between none and all of it
    assert abs((changed - images).mean()) < 1e-3


def test_brightness_is_a_change_or_a_range():
    images = torch.full((400, 3, 4, 4), 0.5)
    for brightness, low, high in ((0.2, 0.8, 1.2), ([0.6, 1.0], 0.6, 1.0)):
        changed = ClassicalAugment(mirror=0, brightness=brightness)(images, torch.Generator().manual_seed(0))
        gain = changed[:, 0, 0, 0] / 0.5
        assert low <= gain.min() < low + 0.02 and high - 0.02 < gain.max() <= high


def test_moves_by_whole_pixels_and_quarter_turns_are_exact():
    images = torch.rand(1, 3, 8, 8)
    still = {
        "angle": torch.zeros(1, 1, 1, 1),
        "shift_x": torch.zeros(1, 1, 1, 1),
        "shift_y": torch.zeros(1, 1, 1, 1),
        "scale": torch.ones(1, 1, 1, 1),
    }
    assert torch.allclose(move(images, affine_rows(**still)), images, atol=1e-6)
    turned = move(images, affine_rows(**{**still, "angle": torch.full((1, 1, 1, 1), torch.pi / 2)}))
    assert torch.allclose(turned, images.rot90(1, (2, 3)), atol=1e-5)
    one_pixel = torch.full((1, 1, 1, 1), 2 / 8)  # in half sides
    shifted = move(images, affine_rows(**{**still, "shift_x": one_pixel}))
    assert torch.allclose(shifted[..., :-1], images[..., 1:], atol=1e-5)


def augmented_as_a_batch(images, generator):
    """The plain reference of the augmentation below: each change is made to the whole batch."""

    def uniform(largest):
        return largest * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)

    images = torch.where(torch.rand(len(images), generator=generator).view(-1, 1, 1, 1) < 0.5, images.flip(3), images)
    rows = affine_rows(angle=uniform(0.1), shift_x=uniform(0.2), shift_y=uniform(0.2), scale=1 + uniform(0.1))
    images = move(images, rows)
    images = images.lerp(convolved(images), uniform(0.6).abs())
    images = images * (1 + uniform(0.2))
    images = images.mean(dim=(1, 2, 3), keepdim=True).lerp(images, 1 + uniform(0.3))
    images = images + uniform(0.05).abs() * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1)


def convolved(images):
    kernel = torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 2, 1]) / 16
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel.expand(3, 1, 3, 3), groups=3)


@pytest.mark.parametrize("side", [9, 64])
def test_images_are_augmented_as_a_batch_would_be(side):
    images = torch.rand(5, 3, side, side)
    augment = ClassicalAugment(
        rotation=math.degrees(0.1), translate=0.1, scale=0.1, blur=0.6, brightness=0.2, contrast=0.3, noise=0.05
    )
    expected = augmented_as_a_batch(images, torch.Generator().manual_seed(1))
    torch.testing.assert_close(augment(images, torch.Generator().manual_seed(1)), expected, rtol=0, atol=1e-6)


def test_binomial_blur_is_a_convolution():
    images = torch.rand(2, 3, 20, 17)
    torch.testing.assert_close(binomial_blur(images), convolved(images), rtol=0, atol=1e-6)


def test_binomial_blur_keeps_the_mean_of_a_constant_and_spreads_a_dot():
    assert torch.allclose(binomial_blur(torch.full((1, 3, 5, 5), 0.7)), torch.tensor(0.7))
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 16
    assert binomial_blur(dot)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
