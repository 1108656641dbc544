"""CIELAB against values that colour science has tabulated, and the angle of skin in it."""

import numpy as np
import pytest

from acne_lab.colour import lab, skin_type, typology_angle


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_primaries_and_grays(rgb, expected):
    np.testing.assert_allclose(lab(np.array(rgb, dtype=np.uint8)), expected, atol=0.02)


def test_agrees_with_scikit_image():
    color = pytest.importorskip("skimage.color")
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    np.testing.assert_allclose(lab(image), color.rgb2lab(image), atol=0.02)


def test_typology_angle_and_its_types():
    assert typology_angle(np.array([60.0, 10.0, 10.0])) == pytest.approx(45)
    assert typology_angle(np.array([40.0, 10.0, 10.0])) == pytest.approx(-45)
    assert [skin_type(angle) for angle in (90, 50, 41, 28, 0, -30, -90)] == [1, 2, 3, 4, 5, 6, 6]
