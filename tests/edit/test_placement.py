"""Sizes and places against the statistics of ACNE04-v2's 32,443 circles, and what must hold for every draw."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from acne_lab.edit.placement import APART, APART_FROM_OLD, LEAST_PIXELS, MARGIN, NoRoom, Placement


def test_diameters_have_the_percentiles():
    found = Placement().diameters(np.random.default_rng(0), 40_000, 1.0)
    published = (0.0064, 0.0103, 0.0135, 0.0193, 0.0347)
    assert np.percentile(found, (5, 25, 50, 75, 95)) == pytest.approx(published, rel=0.13)
    doubled = Placement(size_scale=2.0).diameters(np.random.default_rng(0), 40_000, 1.0)
    assert doubled == pytest.approx(2 * found)


def test_positions_have_the_percentiles_and_shares(bare):
    """Nearest neighbours x sqrt(n), and rows and columns of a 4 x 4 grid, over close-ups with usual counts."""
    nearest, points = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        num = int(np.clip(np.exp(rng.normal(np.log(19), 0.85)), 2, 70))
        placement = Placement()
        centres, _ = placement.positions(rng, bare, placement.diameters(rng, num, bare.scale))
        nearest += list(cKDTree(centres).query(centres, k=2)[0][:, 1] * np.sqrt(num) / bare.scale)
        points.append(centres / bare.scale)
    published = (0.07, 0.14, 0.23, 0.39, 0.81)
    assert np.percentile(nearest, (5, 25, 50, 75, 95)) == pytest.approx(published, rel=0.25)
    cells = (np.concatenate(points) * 4).astype(int).clip(0, 3)
    rows, columns = (np.bincount(cells[:, k], minlength=4) / len(cells) for k in (1, 0))
    assert rows == pytest.approx([0.12, 0.23, 0.33, 0.32], abs=0.05)
    assert columns[1:3].sum() == pytest.approx(0.80, abs=0.05)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num=st.integers(1, 60),
    old=st.lists(st.tuples(st.floats(80, 300), st.floats(80, 350), st.floats(2, 40)), max_size=8),
)
@example(seed=515, num=12, old=[(80.0, 80.0, 2.0)] * 2)  # a cell that is mostly skin, and a point of it that is not
def test_every_lesion_lies_on_free_skin(bare, seed, num, old):
    boxes = np.array([(x - d / 2, y - d / 2, x + d / 2, y + d / 2) for x, y, d in old], np.float32).reshape(-1, 4)
    analysis, placement, rng = replace(bare, lesions=boxes), Placement(), np.random.default_rng(seed)
    wanted = placement.diameters(rng, num, bare.scale)
    centres, diameters = placement.positions(rng, analysis, wanted)
    assert (diameters <= np.maximum(wanted, LEAST_PIXELS)).all()
    x, y = centres.astype(int).T
    assert (bare.skin[y, x] == 1).all()
    inside = distance_transform_edt(bare.skin)[y, x]
    assert (inside > MARGIN * diameters - 2).all()  # the map of places is a little coarser than the photograph
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(num)
    assert (apart >= APART * (diameters[:, None] + diameters[None]) / 2 - 1e-6).all()
    for px, py, d in old:
        assert (np.hypot(*(centres - (px, py)).T) >= APART_FROM_OLD * (d + diameters) / 2 - 0.01).all()


def test_room_runs_out(bare):
    skin = np.zeros_like(bare.skin)
    skin[190:210, 190:210] = 1
    with pytest.raises(NoRoom) as error:
        Placement().positions(np.random.default_rng(0), replace(bare, skin=skin), np.full(200, 6.0))
    assert 3 < error.value.fit < 199


def test_one_seed_one_result(bare):
    first, second = (Placement().positions(np.random.default_rng(7), bare, np.full(20, 6.0))[0] for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize("wrong", [{"size_scale": 0}, {"clustered": 1.5}, {"near": -1}, {"patchiness": -0.1}])
def test_impossible_values(wrong):
    with pytest.raises(ValueError, match="clustered"):
        Placement(**wrong)
