"""Patches, rims, seams and colours on pictures whose figures are known."""

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from acne_lab.colour import lab
from acne_lab.metrics.realism import (
    added_spots,
    colour_shift,
    lesion_patch,
    match_sizes,
    rim_contrast,
    seam,
)

SKIN = (200, 150, 130)


def skin(size=120, seed=0):
    """Noisy skin, uint8 [size, size, 3]."""
    noise = np.random.default_rng(seed).normal(0, 3, (size, size, 1))
    return np.clip(np.array(SKIN) + noise, 0, 255).astype(np.uint8)


def spotted(photo, centre, radius, *, colour=(180, 90, 90), softness=0.0):
    """A disc in place of the skin, and its mask with a margin of 2 px."""
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    distance = np.hypot(x - centre[0], y - centre[1])
    disc = Image.fromarray((255 * (distance <= radius)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(softness))
    alpha = (np.asarray(disc) / 255 * (distance <= 2 * radius))[..., None]
    return np.round(photo * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8), distance <= 2 * radius


def test_a_patch_is_the_square_around_its_box():
    photo = np.zeros((100, 100, 3), dtype=np.uint8)
    photo[40:50, 60:70] = 255
    patch = lesion_patch(photo, np.array([60, 40, 70, 50]), side=30, context=3.0)
    assert patch.shape == (30, 30, 3) and patch.dtype == np.uint8
    assert (patch[10:20, 10:20] == 255).all() and patch.sum() == 100 * 3 * 255  # not resized: every pixel is there
    small = lesion_patch(photo, np.array([64, 44, 65, 45]), side=24, context=3.0)  # at least 12 px wide
    assert (small == 255).all(axis=-1).mean() > 0.5


@pytest.mark.parametrize("box", [(0, 40, 10, 50), (90, 40, 100, 50), (40, 2, 50, 12), (0, 0, 60, 60)])
def test_a_patch_that_would_show_the_border_is_left_out(box):
    assert lesion_patch(np.zeros((100, 100, 3), dtype=np.uint8), np.array(box), side=30) is None


def test_sizes_are_matched_one_to_one():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(2, 0.3, 80), rng.lognormal(2.3, 0.5, 300)
    i, j = match_sizes(a, b, rng)
    assert len(set(i)) == len(set(j)) == len(i) > 70
    ratio = np.log(a[i] / b[j])
    assert np.abs(ratio).max() <= np.log(1.25)
    assert abs(ratio.mean()) < 0.01  # neither set's lesions are larger
    k, m = match_sizes(b, a, np.random.default_rng(1))
    assert k.max() < 300 and m.max() < 80
    assert [len(part) for part in match_sizes(np.array([1.0]), np.array([2.0]), rng)] == [0, 0]
    assert [len(part) for part in match_sizes(np.array([]), np.array([2.0]), rng)] == [0, 0]


def test_a_hard_rim_is_steeper_than_a_soft_one_and_plain_skin_has_none():
    box = np.array([50, 50, 70, 70])
    pictures = [skin(), spotted(skin(), (60, 60), 10, softness=4)[0], spotted(skin(), (60, 60), 10)[0]]
    none, soft, hard = rim_contrast(np.stack([lesion_patch(picture, box, side=48) for picture in pictures]))
    assert none == pytest.approx(1, abs=0.15)
    assert 1.2 < soft < hard / 1.5


def test_seam_of_a_step_that_is_known():
    """Two flat colours: the step is their CIELAB distance."""
    before = np.full((40, 40, 3), SKIN, dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 10:30] = True
    after = before.copy()
    after[mask] = (210, 150, 130)
    step = float(np.linalg.norm(lab(after[20, 20]) - lab(after[0, 0])))
    found = seam(before, after, mask)
    assert (found.before, found.after) == (0, pytest.approx(step, rel=1e-5))
    assert found.ratio == pytest.approx(step / 0.05, rel=1e-5)
    assert seam(before, before, mask).ratio == 1
    assert seam(before, after, np.ones_like(mask)) is seam(before, after, np.zeros_like(mask)) is None


def test_a_sticker_has_a_seam_and_a_spot_that_fades_out_has_none():
    photo = skin()
    faded, mask = spotted(photo, (60, 60), 12, softness=3)
    assert seam(photo, faded, mask).ratio == pytest.approx(1, abs=0.1)
    sticker = photo.copy()
    sticker[mask] = np.clip(photo[mask].astype(int) - 25, 0, 255)
    assert seam(photo, sticker, mask).ratio > 3


def test_colour_shift_inside_and_outside():
    before = np.full((60, 60, 3), SKIN, dtype=np.uint8)
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:40, 20:40] = True
    after = before.copy()
    after[mask] = (210, 140, 130)
    distance = lab(after[30, 30]) - lab(before[30, 30])
    shift = colour_shift(before, after, mask)
    assert shift.delta_e == pytest.approx(float(np.linalg.norm(distance)), rel=1e-4)
    assert shift.a_star == pytest.approx(float(distance[1]), rel=1e-4) and shift.a_star > 5
    assert shift.delta_e_ring == 0 and shift.changed_outside == 0
    after[19, 30], after[0, 0] = (0, 0, 0), (0, 0, 0)
    shift = colour_shift(before, after, mask)
    assert shift.delta_e_ring > 0
    assert shift.changed_outside == pytest.approx(2 / (60 * 60 - 400))
    assert colour_shift(before, after, np.zeros_like(mask)) is None


@pytest.mark.parametrize("corner", [(0, 0), (30, 40), (85, 90)])
def test_only_the_surroundings_of_the_mask_are_looked_at_and_figures_are_those_of_the_whole(corner, monkeypatch):
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (120, 130, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((120, 130), dtype=bool)
    y, x = corner
    mask[y : y + 35, x : x + 40] = rng.random((35, 40)) > 0.4
    found = (seam(before, after, mask), colour_shift(before, after, mask))
    sizes = []
    transform = ndimage.distance_transform_edt
    monkeypatch.setattr(ndimage, "distance_transform_edt", lambda part: sizes.append(part.shape) or transform(part))
    colour_shift(before, after, mask)
    assert max(sizes[0]) < 50
    monkeypatch.setattr("acne_lab.metrics.realism._around", lambda mask, margin: (slice(None), slice(None)))
    for cut, whole in zip(found, (seam(before, after, mask), colour_shift(before, after, mask))):
        assert asdict(cut) == asdict(whole)


def test_added_spots_are_found_where_they_are():
    """Of the sizes that lesions have: a 2.5 % spot has its box, plain skin and skin outside of the mask have none."""
    photo = skin(400)
    edited = spotted(spotted(photo, (120, 150), 5, softness=1)[0], (300, 220), 4, softness=1)[0]
    boxes = added_spots(photo, edited, np.ones((400, 400), dtype=bool))
    centres = np.stack([boxes[:, ::2].mean(1), boxes[:, 1::2].mean(1)], axis=1)
    assert len(boxes) == 2
    for expected in ((120.5, 150.5), (300.5, 220.5)):
        assert np.abs(centres - expected).max(axis=1).min() <= 1.5
    assert np.all((boxes[:, 2] - boxes[:, 0] > 5) & (boxes[:, 2] - boxes[:, 0] < 20))
    assert added_spots(photo, photo, np.ones((400, 400), dtype=bool)).shape == (0, 4)
    left = np.zeros((400, 400), dtype=bool)
    left[:, :200] = True
    assert len(added_spots(photo, edited, left)) == 1
