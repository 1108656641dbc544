"""Lesions in a photograph: where they may be, how strong, and what of the photograph is kept."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.colour import lab
from acne_lab.edit.colour import from_linear, log_chroma, to_linear
from acne_lab.edit.face import Tone
from acne_lab.edit.lesions import KINDS, ProceduralLesions
from acne_lab.edit.overlay import VISIBLE, Overlay

COLOURS = {0.0: (0.8, 0.6, 0.48), 0.5: (0.45, 0.22, 0.12), 1.0: (0.10, 0.05, 0.03)}  # linear light by darkness


def scene(bare, darkness: float = 0.0, noise: float = 0.0):
    """A photograph of even skin and what is known of it."""
    colour = np.array(COLOURS[darkness], np.float32)
    light = np.where(bare.skin[..., None] > 0, colour, np.float32(0.2))
    levels = from_linear(light).astype(float) + np.random.default_rng(0).normal(0, noise, light.shape)
    photo = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    return photo, replace(bare, colour=colour, tone=Tone.of(colour))


def drawn(kind: str, num: int, seed: int = 0, darkness: float = 0.0):
    rng = np.random.default_rng(seed)
    return [ProceduralLesions().draw_one(rng, kind, darkness=darkness) for _ in range(num)]


CENTRES = np.array([(160.0, 260.0), (240.0, 270.0), (200.0, 230.0)])
SIZES = np.array([14.0, 24.0, 5.0])


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_the_mask_nothing_changes(bare, kind):
    photo, known = scene(bare, noise=3)
    made = Overlay()(photo, known, drawn(kind, 3), CENTRES, SIZES, intensity=1.0)
    assert (made.image[~made.mask] == photo[~made.mask]).all()
    assert (made.image != photo).any(-1).sum() > 30
    assert not made.mask[bare.skin == 0].any()
    assert made.mask.sum() < 1.5 * (np.pi * (2.3 * SIZES / 2) ** 2).sum() + 300


def test_without_intensity_nothing_changes(bare):
    photo, known = scene(bare, noise=3)
    lesions = [drawn(kind, 1)[0] for kind in ("papule", "pustule", "comedone")]
    assert (Overlay()(photo, known, lesions, CENTRES, SIZES, intensity=0.0).image == photo).all()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["papule", "nodule", "pustule", "post_inflammatory_erythema"]),
    darkness=st.sampled_from(sorted(COLOURS)),
    steps=st.lists(st.floats(0, 1), min_size=2, max_size=4, unique=True),
)
def test_redness_grows_with_intensity(bare, seed, kind, darkness, steps):
    """The erythema index log R/G of the lesions' surroundings, summed: continuously and monotonically."""
    photo, known = scene(bare, darkness)
    lesions = drawn(kind, 3, seed, known.tone.darkness)
    red = []
    for intensity in sorted(steps):
        made = Overlay()(photo, known, lesions, CENTRES, SIZES, intensity=intensity)
        red.append(float(log_chroma(to_linear(made.image[made.mask]))[:, 0].sum()))
    rounding = 0.004 * made.mask.sum() if darkness == 1.0 else 0.0015 * made.mask.sum()
    assert all(b >= a - rounding for a, b in pairwise(red))
    for (low, high), (a, b) in zip(pairwise(sorted(steps)), pairwise(red)):
        if high - low > 0.3:
            assert b > a + 1


@pytest.mark.parametrize("darkness", COLOURS)
def test_lesions_suit_the_tone(bare, darkness):
    """A papule is visible on every tone, and nowhere brighter than a little above its skin."""
    photo, known = scene(bare, darkness)
    made = Overlay()(photo, known, drawn("papule", 3, 1, known.tone.darkness), CENTRES, SIZES, intensity=1.0)
    before, after = (lab(k)[made.mask] for k in (photo, made.image))
    change = np.linalg.norm(after - before, axis=-1)
    assert 6 < change.max() < 45
    assert (after[:, 0] - before[:, 0]).max() < 14


def test_grain_stays(bare):
    """As strong inside of a large lesion as beside it, and the same grain."""
    photo, known = scene(bare, noise=4)
    lesions, at, size = drawn("nodule", 1), np.array([(200.0, 262.0)]), np.array([50.0])
    made = Overlay()(photo, known, lesions, at, size, intensity=1.0).image[245:280, 180:220, 1].astype(float)
    clean = Overlay()(scene(bare)[0], known, lesions, at, size, intensity=1.0).image[245:280, 180:220, 1].astype(float)
    grain, original = (made - clean), photo[245:280, 180:220, 1] - scene(bare)[0][245:280, 180:220, 1].astype(float)
    assert grain.std() == pytest.approx(original.std(), rel=0.25)
    assert np.corrcoef(grain.ravel(), original.ravel())[0, 1] > 0.95


def test_blur_of_the_camera_is_taken_over(bare):
    """The steepest edge of a comedone in a soft photograph is far less steep than in a sharp one."""

    def steepest(sigma: float) -> float:
        photo, known = scene(bare)
        known = replace(known, blurs=np.array([(200, 200, sigma)], np.float32))
        made = Overlay()(photo, known, drawn("comedone", 3), CENTRES, SIZES, intensity=1.0)
        return float(np.abs(np.diff(made.image[..., 1].astype(int) - photo[..., 1], axis=1)).max())

    assert steepest(4.0) < 0.5 * steepest(0.3)


def test_a_raised_lesion_is_brighter_towards_the_lamp(bare):
    photo, known = scene(bare)
    for side in (-1, 1):
        lit = replace(known, light=np.array((0.8 * side, 0.0), np.float32))
        one = Overlay()(photo, lit, drawn("papule", 3, 2), CENTRES[:1], np.array([30.0]), intensity=1.0).image
        flat = Overlay(shading=0)(photo, lit, drawn("papule", 3, 2), CENTRES[:1], np.array([30.0]), intensity=1.0).image
        gain = one[..., 1].astype(int) - flat[..., 1]
        left, right = gain[250:270, 148:158].mean(), gain[250:270, 162:172].mean()
        assert (right - left) * side > 1


def test_a_lesion_is_narrow_on_a_slope(bare, monkeypatch):
    """Foreshortened along the tilt, at the same height across it."""
    photo, known = scene(bare)
    lesion, at, size = drawn("nodule", 1), np.array([(200.0, 262.0)]), np.array([40.0])
    extents = []
    for tilt in (0.0, 0.8):
        monkeypatch.setattr(type(known), "tilt_at", lambda self, points, t=tilt: np.full((len(points), 2), (t, 0.0)))
        rows, columns = np.nonzero(Overlay()(photo, known, lesion, at, size, intensity=1.0).mask)
        extents.append((np.ptp(columns), np.ptp(rows)))
    assert extents[1][0] == pytest.approx(0.6 * extents[0][0], rel=0.06)
    assert extents[1][1] == pytest.approx(extents[0][1], rel=0.06)


def test_shine_is_not_dyed(bare):
    """White light mirrored by the skin meets no pigment: a highlight stays white."""
    photo, known = scene(bare, 0.5)
    photo[250:270, 150:170] = 250
    made = Overlay()(photo, known, drawn("papule", 1), CENTRES[:1], SIZES[:1] * 1.5, intensity=1.0).image
    beside = Overlay()(
        scene(bare, 0.5)[0], known, drawn("papule", 1), CENTRES[:1], SIZES[:1] * 1.5, intensity=1.0
    ).image
    dyed = np.log(to_linear(photo[255:265, 155:165])) - np.log(to_linear(made[255:265, 155:165]))
    plain = np.log(known.colour) - np.log(to_linear(beside[255:265, 155:165]))
    assert dyed[..., 1].mean() < 0.62 * plain[..., 1].mean()


def test_impossible_values():
    with pytest.raises(ValueError, match="negative"):
        Overlay(shading=-1)


def most_changed(before, after) -> float:
    return float(np.linalg.norm(lab(after) - lab(before), axis=-1).max())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(sorted(KINDS)),
    darkness=st.sampled_from(sorted(COLOURS)),
    diameter=st.floats(2.5, 30),
    blur=st.floats(0.3, 2.0),
)
def test_a_lesion_that_counts_is_seen(bare, seed, kind, darkness, diameter, blur):
    """Small, out of focus or on dark skin: at full intensity, none is fainter than what people notice."""
    photo, known = scene(bare, darkness)
    known = replace(known, blurs=np.array([(200, 200, blur)], np.float32))
    lesions = drawn(kind, 1, seed, known.tone.darkness)
    made = Overlay()(photo, known, lesions, CENTRES[:1], np.array([diameter]), intensity=1.0)
    assert most_changed(photo, made.image) > VISIBLE


def test_only_faint_lesions_are_strengthened(bare):
    photo, known = scene(bare)
    faint = [replace(lesion, blood=0.02, melanin=0.0) for lesion in drawn("post_inflammatory_erythema", 1)]
    strong = [replace(lesion, blood=1.0) for lesion in drawn("papule", 1)]
    for lesions, strengthened in ((faint, True), (strong, False)):
        for least in (4.5, 0.0):
            overlay = Overlay(least_change=least)
            made = overlay(photo, known, lesions, CENTRES[1:2], SIZES[1:2], intensity=1.0)
            assert (made.strengths[0] > 1.5) == (strengthened and least > 0)
            assert made.strengths[0] < 1.02 or strengthened
            again = overlay(photo, known, lesions, CENTRES[1:2], SIZES[1:2], intensity=0.4)
            assert again.strengths == made.strengths  # so that redness grows with intensity alone
