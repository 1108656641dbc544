"""CIELAB against values that colour science has tabulated."""

import numpy as np
import pytest

from acne_lab.metrics.colour import lab


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
