"""Lesions taken out of photographs."""

import numpy as np

from acne_lab.edit.heal import REACH, ellipses, healed

SKIN, RED = np.array([200, 150, 130]), np.array([170, 60, 60])
BOXES = np.array([[20, 30, 32, 40], [60, 20, 68, 28], [66, 24, 74, 34]], float)  # the last two touch


def face(noise=2.0):
    """Skin that gets darker to the right, with grain, and lesions as large as their boxes."""
    rng = np.random.default_rng(0)
    skin = SKIN - 0.3 * np.arange(100)[None, :, None] + rng.normal(0, noise, (80, 100, 1))
    lesions = ellipses(BOXES, (80, 100), reach=1.0)
    return skin, np.where(lesions[..., None], skin - SKIN + RED, skin).round().clip(0, 255).astype(np.uint8)


def test_ellipses_fill_their_boxes():
    shape = ellipses(BOXES[:1], (80, 100), reach=1.0)
    rows, columns = np.nonzero(shape)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (30, 40, 20, 32)
    assert abs(shape.sum() - np.pi * 5 * 6) < 6
    cut = ellipses(np.array([[-4.0, -4.0, 4.0, 4.0], [200.0, 0.0, 210.0, 9.0]]), (10, 10), reach=1.0)
    assert cut.sum() == 13  # a quarter of a disc, and nothing of what lies outside


def test_healed_skin_is_skin():
    skin, photo = face()
    smooth = healed(photo, BOXES, np.random.default_rng(1)).astype(float)
    inside = ellipses(BOXES, (80, 100), reach=REACH)
    assert (smooth[~inside] == photo[~inside]).all()
    assert np.abs(smooth[inside] - skin[inside]).mean() < 4  # it has other grain
    assert np.abs((smooth - skin)[inside].mean(axis=0)).max() < 1.5
    grain = smooth[..., 0] - (SKIN[0] - 0.3 * np.arange(100))
    assert 1.2 < grain[inside].std() < 3.5  # ... and as much of it
    assert (healed(photo, BOXES, np.random.default_rng(1)) == smooth).all()


def test_where_there_is_no_skin_the_surroundings_are_continued():
    """Everything around shows other lesions: of these, 60 levels away, next to nothing is copied."""
    boxes = np.array([[x, y, x + 9, y + 9] for x in range(8, 84, 13) for y in range(8, 64, 13)], float)
    lesions = ellipses(boxes, (80, 100), reach=1.0)
    crowded = np.where(lesions[..., None], RED, SKIN).astype(np.uint8)
    smooth = healed(crowded, boxes, np.random.default_rng(0))
    inner = ellipses(boxes, (80, 100), reach=REACH)
    assert np.abs(smooth[inner].astype(int) - SKIN).max() <= 12
