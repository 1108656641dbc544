import numpy as np
import pytest

from acne_lab.edit.colour import from_linear, log_chroma, shrink, to_linear


def test_linear_light_and_back_is_exact():
    levels = np.arange(256, dtype=np.uint8)
    assert (from_linear(to_linear(levels)) == levels).all()
    assert (from_linear(np.array([-1.0, 2.0])) == (0, 255)).all()


def test_the_inverse_is_that_of_srgb():
    light = np.linspace(0, 1, 5001)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(from_linear(light) - srgb * 255).max() < 0.6


def test_shading_cancels_in_log_chroma():
    skin = np.array([0.6, 0.35, 0.2], np.float32)
    assert log_chroma(0.3 * skin) == pytest.approx(log_chroma(skin), abs=1e-6)


def test_shrink_keeps_shape_and_mean_and_never_enlarges(portrait):
    small = shrink(portrait[:400], 128)
    assert small.shape == (100, 128, 3)
    assert small.mean() == pytest.approx(portrait[:400].mean(), abs=0.5)
    assert shrink(portrait, 1000) is portrait
