import numpy as np
import pytest

from acne_lab.colour import lab
from acne_lab.edit import poisson
from acne_lab.edit.colour import from_linear, to_linear
from acne_lab.edit.poisson import blend, harmonic


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return x**2 + y**2 < radius**2


def test_harmonic_functions_are_recovered():
    """Planes and saddles solve the 5-point Laplace equation exactly."""
    y, x = np.mgrid[:60, :60] / 30.0
    values = np.stack([x + 2 * y, x * y, x**2 - y**2], axis=-1)
    inside = disc(60, 22)
    broken = np.where(inside[..., None], 99.0, values)
    assert harmonic(broken, inside) == pytest.approx(values, abs=1e-6)


def test_large_regions_agree_with_elimination(monkeypatch):
    values = np.random.default_rng(0).normal(size=(90, 81, 2))
    inside = disc(90, 38)[:, :81]
    exact = harmonic(values, inside)
    monkeypatch.setattr(poisson, "DIRECT", 300)
    assert harmonic(values, inside) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("factor", [(0.7, 0.6, 0.5), (1.2, 1.1, 1.0)])
def test_another_light_is_taken_off(portrait, factor):
    """The same photograph under another light, blended into itself, is the photograph again."""
    other = from_linear(to_linear(portrait) * np.array(factor, np.float32))
    mask = np.roll(disc(512, 70), (100, -40), axis=(0, 1))
    made = blend(portrait, other, mask)
    assert (made[~mask] == portrait[~mask]).all()
    apart = np.linalg.norm(lab(made) - lab(portrait), axis=-1)[mask]
    assert apart.mean() < 1.5 and np.percentile(apart, 95) < 3.5


def test_it_beats_seamless_clone(portrait):
    """Why there is a solver here although cv2 has one."""
    cv2 = pytest.importorskip("cv2")
    other = from_linear(to_linear(portrait) * np.array((0.75, 0.62, 0.55), np.float32))
    mask = np.roll(disc(512, 70), (60, -20), axis=(0, 1))
    rows, columns = np.nonzero(mask)
    centre = int((columns.min() + columns.max() + 1) // 2), int((rows.min() + rows.max() + 1) // 2)
    cloned = cv2.seamlessClone(other, portrait, mask.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE)
    ours = blend(portrait, other, mask)
    error = [np.linalg.norm(lab(k) - lab(portrait), axis=-1)[mask].mean() for k in (ours, cloned)]
    assert error[0] < 0.5 * error[1]


def test_edges_of_what_is_asked(portrait):
    assert (blend(portrait, 255 - portrait, np.zeros((512, 512), bool)) == portrait).all()
    everything = blend(portrait, portrait[::-1].copy(), np.ones((512, 512), bool))
    assert (everything == portrait[::-1]).all()  # no border, nothing to take over
    with pytest.raises(ValueError, match="equal shapes"):
        blend(portrait, portrait[1:], np.ones((512, 512), bool))
