"""Refining photographs of any size."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from acne_lab.edit.networks import Inpainter
from acne_lab.edit.refine import BATCH, CONTEXT, Refiner, batches, windows
from acne_lab.edit.weights import read_refiner, save_refiner


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    G = Inpainter(width=4, num_down=2, num_blocks=1)
    torch.nn.init.normal_(G.leave.weight, std=5.0)
    return G.eval()


def discs(size, *places):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 <= r**2 for cy, cx, r in places], axis=0)


def photos(size):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)


MASKS = [
    ((100, 140), [(50, 60, 5), (52, 75, 4), (3, 3, 6), (96, 136, 9)]),
    ((61, 47), [(30, 20, 3), (58, 45, 4)]),
    ((20, 90), [(10, 45, 6)]),  # lower than a window
    ((9, 11), [(4, 5, 3)]),
    ((130, 130), [(65, 65, 40)]),  # larger than a window
]


@pytest.mark.parametrize(("size", "places"), MASKS)
def test_only_masked_pixels_change(network, size, places):
    (photo, overlaid), mask = photos(size), discs(size, *places)
    refiner = Refiner(network, window=32)
    painted = refiner(photo, overlaid, mask, 3)
    assert painted.shape == photo.shape and painted.dtype == np.uint8
    assert (painted[~mask] == photo[~mask]).all()
    assert (painted[mask] != photo[mask]).mean() > 0.9
    assert (refiner(photo, overlaid, mask, 3) == painted).all()
    assert (refiner(photo, overlaid, mask, 4) != painted).any()


def test_an_empty_mask_is_the_photograph(network):
    photo, overlaid = photos((40, 40))
    assert (Refiner(network, window=32)(photo, overlaid, np.zeros((40, 40), bool), 0) == photo).all()


@pytest.mark.parametrize(("size", "places"), MASKS)
def test_windows_hold_each_part_once_and_whole(size, places):
    mask = discs(size, *places)
    painted = np.zeros(size, int)
    for (rows, columns), inside in windows(mask, window=32, step=4):
        painted[rows, columns] += inside
        for span, length, across in ((rows, size[0], 1), (columns, size[1], 0)):
            side = span.stop - span.start
            assert side % 4 == 0 and side >= 32 and span.start >= 0
            where = np.nonzero(inside.any(axis=across))[0] + span.start
            context = int(CONTEXT * side)  # or the photograph's border
            assert where.min() >= span.start + context or span.start == 0
            assert where.max() < span.stop - context or span.stop >= length
    assert (painted == mask).all()


def test_a_window_takes_its_neighbours_along():
    """Lesions on a grid of 6 px, all of which one window of 64 px holds with its context."""
    mask = discs((200, 200), *[(100 + 6 * i, 100 + 6 * j, 2) for i in range(-2, 3) for j in range(-2, 3)])
    assert len(windows(mask, window=128, step=4)) == 1
    far = discs((400, 400), *[(20 + 90 * i, 20 + 90 * j, 2) for i in range(5) for j in range(5)])
    found = windows(far, window=64, step=4)
    assert len(found) == 25
    assert [len(part) for part in batches(found)] == [BATCH] * 3 + [1]


def test_a_window_must_fit_the_network(network):
    with pytest.raises(ValueError, match="window=30 must be a multiple of 4"):
        Refiner(network, window=30)


def test_a_file_holds_the_refiner(network, tmp_path):
    save_refiner(tmp_path / "refiner.safetensors", network, window=32)
    read = read_refiner(tmp_path / "refiner.safetensors")
    assert read.window == 32
    (photo, overlaid), mask = photos((40, 50)), discs((40, 50), (20, 20, 5))
    assert (read(photo, overlaid, mask, 0) == Refiner(network, window=32)(photo, overlaid, mask, 0)).all()


def test_files_that_are_no_refiner_are_refused(network, tmp_path):
    path = tmp_path / "refiner.safetensors"
    with pytest.raises(ValueError, match="there is no file"):
        read_refiner(path)
    path.write_bytes(b"no such format")
    with pytest.raises(ValueError, match="damaged"):
        read_refiner(path)
    state = network.state_dict()
    for about, message in (
        (None, "holds no refiner"),
        ('{"G": {"width": 4}}', "tensors do not fit"),
        ('{"G": {"num_blocks": 1000000000}}', "must be from 1 to 64"),
        ('{"G": {"colour": 1}}', "colour"),
        ("{}", "no refiner that this version can build"),
    ):
        save_file(state, path, {"refiner": about} if about else None)
        with pytest.raises(ValueError, match=message):
            read_refiner(path)


def test_it_travels_without_tensors(network):
    """torch sends these as handles of shared or GPU memory; the copy paints the same."""
    refiner = Refiner(network, window=32)
    assert not any(isinstance(value, torch.Tensor | torch.nn.Module) for value in refiner.__getstate__().values())
    (photo, overlaid), mask = photos((40, 40)), discs((40, 40), (20, 20, 5))
    travelled = pickle.loads(pickle.dumps(refiner))
    assert (travelled(photo, overlaid, mask, 0) == refiner(photo, overlaid, mask, 0)).all()
