"""Skin by colour alone, on drawn faces whose renderer knows where it is: of every tone, with hair and walls like it."""

import numpy as np
import pytest
from drawn import CLOTHES, FACE, LAYERS, NECK, shown_layers

from acne_lab.data import portrait
from acne_lab.data.toy import Shot, sample_person, sample_photo
from acne_lab.edit.face import Analyser
from acne_lab.edit.middle import mahalanobis, middle_region, trimmed_gaussian
from acne_lab.edit.skin import NoSkin

SURROUNDINGS = (
    LAYERS.index(portrait.draw_background),
    LAYERS.index(portrait.draw_hair_behind),
    LAYERS.index(portrait.draw_hair_in_front),
    CLOTHES,
)
# Pale skin before a beige wall, dark skin before a pinkish one, blond and red hair, bald heads.
PEOPLE = (7, 236, 12, 19, 14, 48)


def drawn(index: int, size: int, *, close_up: bool) -> tuple[np.ndarray, np.ndarray]:
    """A photograph [size, size, 3] and what its pixels show."""
    subject, places = sample_person(11, index, 2.5)
    photo = sample_photo(11, Shot(index, 0, index % 4), subject, places)
    if not close_up:
        return portrait.render_photo(subject, photo, size), shown_layers(subject, photo, size)
    x, y = ((portrait.face_to_frame(0.22, 0.1, subject, photo) + 1) * size - size / 2).astype(int).clip(0, size)
    part = slice(y, y + size), slice(x, x + size)
    return portrait.render_photo(subject, photo, 2 * size)[part], shown_layers(subject, photo, 2 * size)[part]


@pytest.mark.parametrize(("size", "close_up"), [(64, False), (64, True), (128, False)])
def test_skin_is_told_from_its_surroundings(size, close_up):
    analyse = Analyser(landmarks=False)
    surroundings, found = [], []
    for index in PEOPLE:
        pixels, shows = drawn(index, size, close_up=close_up)
        skin = analyse(pixels).skin > 0.5
        surroundings.append(np.isin(shows[skin], SURROUNDINGS).mean())
        assert np.isin(shows[skin], (FACE, NECK)).mean() > 0.85
        found.append(skin[shows == FACE].mean())
    assert np.mean(surroundings) < 0.02 and max(surroundings) < 0.05
    assert np.mean(found) > 0.5


def test_a_middle_without_skin_is_refused():
    """A wall of skin colour around a blue door."""
    rng = np.random.default_rng(0)
    photo = np.clip(rng.normal((214, 167, 134), 6, (120, 120, 3)), 0, 255).astype(np.uint8)
    photo[20:, 30:90] = rng.normal((60, 90, 160), 6, (100, 60, 3)).astype(np.uint8)
    with pytest.raises(NoSkin, match="the middle of the photograph"):
        Analyser(landmarks=False)(photo)


def test_a_wall_that_skin_would_admit_wins_its_pixels_back():
    """An even wall one standard deviation of skin away, in light of linear steps."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(x - 48, y - 48) < 30
    shade = np.exp(rng.normal(0, 0.02, (96, 96, 1)) + 0.3 * (x[..., None] - 48) / 48)
    skin = np.array((0.60, 0.30, 0.20)) * shade * (1 + 0.1 * np.sin(y / 3)[..., None] * (1, -1, 0))
    wall = np.array((0.48, 0.33, 0.25)) * np.exp(rng.normal(0, 0.02, (96, 96, 1)))
    light = np.where(disc[..., None], skin, wall).astype(np.float32)
    region, core = middle_region(light, np.ones((96, 96), bool))
    assert (region > 0.5)[disc].mean() > 0.8
    assert (region > 0.5)[~disc].mean() < 0.02
    assert core[~disc].sum() == 0
    assert middle_region(light, np.zeros((96, 96), bool)) is None


def test_a_trimmed_gaussian_ignores_outliers():
    rng = np.random.default_rng(2)
    samples = rng.normal((1.0, 2.0), (0.1, 0.3), (2000, 2))
    samples[:100] += 9
    mean, covariance = trimmed_gaussian(samples, np.zeros(2))
    assert mean == pytest.approx([1, 2], abs=0.05)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.1, 0.3], rel=0.3)
    assert mahalanobis(mean, mean, covariance) == 0
