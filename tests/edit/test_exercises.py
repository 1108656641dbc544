"""Exercises of the refiner: what is taken away, what must stay, and that a stream goes on where it stopped."""

from itertools import islice

import numpy as np
import pytest
import torch
from skins import cut, table_of

from acne_lab.edit.exercises import EndlessExercises, Exercises, choose_lesions
from acne_lab.edit.heal import REACH, ellipses
from acne_lab.edit.overlay import Overlay


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return cut(table_of(root), root / "cache")


def exercises(patches, blank=True):
    return Exercises(patches, overlay=Overlay(), blank=blank)


def test_overlaid_and_photograph_differ_in_the_mask_alone(patches):
    for i in range(len(patches)):
        for seed in range(5):
            photo, overlaid, mask = exercises(patches)(i, np.random.default_rng(seed))
            assert (photo == patches.pixels[i, 0]).all()
            assert (photo[~mask] == overlaid[~mask]).all()
            assert mask.any()


def test_drawn_lesions_take_the_place_of_real_ones(patches):
    i = int(np.argmax(np.diff(patches.first)))
    boxes = patches.boxes[patches.lesions_of(i)]
    photo, overlaid, mask = exercises(patches, blank=False)(i, np.random.default_rng(0))
    healed = ellipses(boxes, mask.shape, reach=REACH)
    assert mask[healed].all()
    redness = [image[..., 0].astype(float) - image[..., 1] for image in (photo, overlaid, patches.pixels[i, 1])]
    core = ellipses(boxes, mask.shape, reach=0.6)
    assert redness[0][core].mean() > redness[2][core].mean() + 15
    assert redness[1][core].mean() > redness[2][core].mean() + 5  # neither healed ...
    assert (photo[core] != overlaid[core]).any(axis=-1).mean() > 0.5  # ... nor the real one


def test_some_exercises_change_nothing(patches):
    i = int(np.argmax(np.diff(patches.first)))
    drawn = [exercises(patches)(i, np.random.default_rng(seed)) for seed in range(60)]
    unchanged = [(photo == overlaid).all() for photo, overlaid, _ in drawn]
    assert 1 <= sum(unchanged) <= 20
    assert all(mask.any() for _, _, mask in drawn)
    without = [exercises(patches, blank=False)(i, np.random.default_rng(seed)) for seed in range(60)]
    assert not any((photo == overlaid).all() for photo, overlaid, _ in without)


def test_lesions_that_touch_stay_together():
    boxes = np.array([[10, 10, 20, 20], [19, 10, 29, 20], [40, 40, 50, 50]], float)
    taken = {tuple(choose_lesions(boxes, 64, np.random.default_rng(seed))) for seed in range(50)}
    assert taken == {(True, True, False), (False, False, True), (True, True, True)}


def test_a_stream_goes_on_where_it_stopped(patches):
    def stream(start, seed=0, mirror=True):
        batches = EndlessExercises(exercises(patches), batch_size=4, seed=seed, mirror=mirror, start=lambda: start)
        return list(islice(batches, 8 - start // 4))

    whole, rest, other = stream(0), stream(12), stream(0, seed=1)
    for one, same in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not torch.equal(whole[0][0], other[0][0])
    photo, overlaid, mask = whole[0]
    assert photo.shape == overlaid.shape == (4, 3, 32, 32) and mask.shape == (4, 1, 32, 32)
    assert (photo.dtype, overlaid.dtype, mask.dtype) == (torch.uint8, torch.uint8, torch.bool)
    straight = stream(0, mirror=False)
    flipped = [torch.equal(a, b.flip(-1)) for x, y in zip(whole, straight) for a, b in zip(x[0], y[0])]
    same = [torch.equal(a, b) for x, y in zip(whole, straight) for a, b in zip(x[0], y[0])]
    assert all(f != s for f, s in zip(flipped, same)) and 0 < sum(flipped) < len(flipped)
