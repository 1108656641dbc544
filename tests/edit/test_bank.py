from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.edit.bank import LEAST, LesionBank, cut_out
from acne_lab.edit.colour import from_linear, log_chroma, to_linear
from acne_lab.edit.lesions import REACH
from acne_lab.edit.overlay import Overlay

SKIN = np.array((0.6, 0.34, 0.21))
BLOOD = np.array((0.10, 0.50, 0.40))


@pytest.fixture(scope="module")
def bank(lesion_table) -> LesionBank:
    return LesionBank(table=lesion_table)


def skin_with_lesion(tone: float = 1.0, takes: np.ndarray = BLOOD) -> np.ndarray:
    """A patch of even skin with one lesion of diameter 20 at (60, 50), under a slanting light."""
    y, x = np.mgrid[:100, :120] + 0.5
    density = np.exp(-((((x - 60) ** 2 + (y - 50) ** 2) / 80) ** 2))[..., None] * takes
    light = SKIN * tone * (0.8 + 0.003 * x)[..., None] * np.exp(-density)
    grain = np.random.default_rng(0).normal(0, 0.004, light.shape)
    return from_linear(light + grain)


BOX = np.array([[50.0, 40.0, 70.0, 60.0]])


@pytest.mark.parametrize("tone", [1.0, 0.25])
def test_a_cutting_is_what_the_lesion_took_from_the_light(tone):
    """Whatever the tone of the skin and the slope of the light."""
    cutting = cut_out(skin_with_lesion(tone), BOX, 0)
    size = len(cutting.density)
    axis = np.linspace(-REACH, REACH, size)
    rho = np.hypot(*np.meshgrid(axis, axis))
    assert cutting.density[rho < 0.4].mean(0) == pytest.approx(BLOOD, abs=0.06)
    assert np.abs(cutting.density[rho > 1.85]).max() == 0
    assert np.abs(cutting.density[(rho > 1.45)]).mean() < 0.01


def test_the_donors_tone_is_known():
    assert cut_out(skin_with_lesion(1.0), BOX, 0).darkness < cut_out(skin_with_lesion(0.25), BOX, 0).darkness - 0.3


@pytest.mark.parametrize(
    ("boxes", "why"),
    [
        ([[50, 40, 50 + LEAST - 1, 60]], "small"),
        ([[50, 40, 90, 55]], "long"),
        ([[0, 40, 20, 60]], "at the border"),
        ([[50, 40, 70, 60], [62, 45, 80, 63]], "beside another"),
        ([[20, 20, 32, 32]], "invisible"),
    ],
)
def test_unfit_lesions_are_left_out(boxes, why):
    assert cut_out(skin_with_lesion(), np.array(boxes, float), 0) is None


def test_lesions_on_rough_ground_are_left_out():
    photo = skin_with_lesion()
    photo[:, 78:81] = 10  # a strand of hair
    assert cut_out(photo, BOX, 0) is None


def test_a_bank_from_a_table(bank, lesion_table):
    assert 10 < len(bank.cuttings) <= len(lesion_table.boxes)
    drawn = bank.draw(np.random.default_rng(0), 50, darkness=0.1)
    again = LesionBank(table=lesion_table).draw(np.random.default_rng(0), 50, darkness=0.1)
    assert [lesion.parameters() for lesion in drawn] == [lesion.parameters() for lesion in again]
    pale, dark = lesion_table.rows["file_name"]
    assert sum(lesion.donor == pale for lesion in drawn) > 40
    assert sum(lesion.donor == dark for lesion in bank.draw(np.random.default_rng(0), 50, darkness=0.8)) > 40
    assert len(LesionBank(table=lesion_table, max_lesions=5).cuttings) == 5
    axis = np.linspace(-3, 3, 61, dtype=np.float32)
    layers = drawn[0].layers(*np.meshgrid(axis, axis), light=np.zeros(2), darkness=0.1)
    assert layers.absorbance.shape == (61, 61, 3) and not layers.pus.any() and not layers.height.any()


def test_what_a_bank_may_not_hold(lesion_table):
    with pytest.raises(ValueError, match=r"boxes\.csv"):
        LesionBank(table=replace(lesion_table, boxes=None))
    with pytest.raises(ValueError, match="training rows only, not test"):
        LesionBank(table=replace(lesion_table, rows=lesion_table.rows.assign(split=["train", "test"])))
    tiny = lesion_table.boxes.assign(x1=lambda b: b.x0 + 2, y1=lambda b: b.y0 + 2)
    with pytest.raises(ValueError, match="edit=overlay"):
        LesionBank(table=replace(lesion_table, boxes=tiny))


@pytest.mark.parametrize(
    ("density", "what"),
    [((-0.30, -0.30, -0.30), "a speck of light"), ((0.30, 0.30, 0.30), "grey"), ((0.5, 0.3, 0.2), "green")],
)
def test_spots_that_do_not_redden_are_left_out(density, what):
    """Else an edit would be paler or less red the stronger it is drawn."""
    assert cut_out(skin_with_lesion(takes=np.array(density)), BOX, 0) is None


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    darkness=st.sampled_from([0.1, 0.8]),
    steps=st.lists(st.floats(0, 1), min_size=2, max_size=4, unique=True),
)
def test_redness_grows_with_intensity(bare, bank, seed, darkness, steps):
    """The erythema index log R/G of the lesions' surroundings, summed: of lesions from a bank, too."""
    lesions = bank.draw(np.random.default_rng(seed), 3, darkness=darkness)
    photo = np.full((*bare.skin.shape, 3), from_linear(SKIN * (1 if darkness < 0.5 else 0.25)), np.uint8)
    centres, sizes = np.array([(160.0, 260.0), (240.0, 270.0), (200.0, 230.0)]), np.array([14.0, 24.0, 9.0])
    red = []
    for intensity in sorted(steps):
        made = Overlay()(photo, bare, lesions, centres, sizes, intensity=intensity)
        red.append(float(log_chroma(to_linear(made.image[made.mask]))[:, 0].sum()))
    assert all(b >= a - 0.002 * made.mask.sum() for a, b in pairwise(red))
