import json

import numpy as np
import pytest

from acne_lab.colour import TO_XYZ, lab_of_light
from acne_lab.edit.lesions import ERYTHEMA, KINDS, REACH, SHARES, ProceduralLesions

AXIS = np.linspace(-3, 3, 121, dtype=np.float32)
U, V = np.meshgrid(AXIS, AXIS)
RHO = np.hypot(U, V)
PALE = np.array((0.67, 0.386, 0.238), np.float32)
UP = np.array((0.0, -0.5))


def drawn(kind: str, num: int = 20, darkness: float = 0.0):
    """Layers of `num` lesions of a kind."""
    rng, source = np.random.default_rng(0), ProceduralLesions()
    lesions = [source.draw_one(rng, kind, darkness=darkness) for _ in range(num)]
    return [lesion.layers(U, V, light=UP, darkness=darkness) for lesion in lesions]


def lab_change(layers) -> np.ndarray:
    """Mean CIELAB change of pale skin within half a radius."""
    after = lab_of_light(PALE * np.exp(-layers.absorbance[RHO < 0.5]))
    return (after - lab_of_light(PALE)).mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_in_range_and_end(kind):
    for layers in drawn(kind):
        assert layers.absorbance.shape == (121, 121, 3) and layers.absorbance.dtype == np.float32
        assert all(part.min() >= 0 for part in layers[1:]) and layers.pus.max() <= 1
        assert layers.absorbance.min() >= -0.01
        centre, rim = layers.absorbance[RHO < 0.3].mean(), layers.absorbance[RHO > REACH].mean()
        assert rim < 0.06 * centre
        assert all(part[RHO > REACH].max() < 0.03 for part in (layers.pus, layers.height, layers.gloss))


def test_kinds_are_what_they_are_called():
    for kind in ("papule", "pustule", "nodule", "post_inflammatory_erythema"):
        assert all(lab_change(layers)[1] > 2 for layers in drawn(kind)), f"{kind} reddens"
    assert all(lab_change(layers)[0] < -8 for layers in drawn("comedone")), "a plug is dark"
    assert all(lab_change(layers)[1] < 8 for layers in drawn("comedone")), "and not red"
    brown = [layers.absorbance[RHO < 0.5].mean(0) for layers in drawn("pigment")]
    assert all(0.05 < red < green < blue for red, green, blue in brown), "melanin takes blue most"
    assert all((layers.pus.max() > 0.3) == (kind == "pustule") for kind in KINDS for layers in drawn(kind, 5))
    flat = ("post_inflammatory_erythema", "pigment")
    assert all((layers.height.max() > 0) == (kind not in flat) for kind in KINDS for layers in drawn(kind, 5))
    assert KINDS["nodule"].factor[0] > 1.5 and KINDS["comedone"].factor[1] < 0.75


def test_no_two_lesions_are_alike_nor_round():
    layers = drawn("papule", 6)
    bodies = [k.absorbance[..., 1] / k.absorbance[..., 1].max() for k in layers]
    assert min(np.abs(a - b).max() for i, a in enumerate(bodies) for b in bodies[:i]) > 0.15
    ring = np.abs(RHO - 0.8) < 0.05
    assert all(body[ring].std() > 0.02 for body in bodies)


def test_dark_skin_is_pigmented_where_pale_skin_is_reddened():
    pale, dark = (drawn("papule", 10, darkness=d) for d in (0.0, 1.0))
    blue_over_green = [
        np.mean([k.absorbance[..., 2].sum() / k.absorbance[..., 1].sum() for k in tone]) for tone in (pale, dark)
    ]
    assert blue_over_green[1] > blue_over_green[0] + 0.04
    rng = np.random.default_rng(0)
    marks = [[ProceduralLesions().draw_one(rng, "mark", darkness=d).kind for _ in range(200)] for d in (0.0, 1.0)]
    assert marks[0].count("pigment") < 30 < 170 < marks[1].count("pigment")


def test_draws_follow_the_shares_and_the_seed():
    source = ProceduralLesions()
    lesions = source.draw(np.random.default_rng(3), 4000, severity="very severe", darkness=0.0)
    kinds = [lesion.kind for lesion in lesions]
    assert kinds.count("papule") / 4000 == pytest.approx(SHARES["very_severe"]["papule"], abs=0.03)
    assert "nodule" not in {lesion.kind for lesion in source.draw(np.random.default_rng(3), 500, severity="mild")}
    again = source.draw(np.random.default_rng(3), 4000, severity="very severe", darkness=0.0)
    assert again == lesions
    assert json.loads(json.dumps(lesions[0].parameters()))["kind"] == lesions[0].kind
    assert source.draw(np.random.default_rng(0), 0, severity="other", diameters=np.empty(0)) == []


def test_small_lesions_are_fainter():
    diameters = np.repeat([4.0, 16.0], 400)
    lesions = ProceduralLesions(shares={"moderate": {"papule": 1}}).draw(
        np.random.default_rng(0), 800, diameters=diameters
    )
    blood = np.array([lesion.blood for lesion in lesions])
    assert blood[:400].mean() < 0.8 * blood[400:].mean()


def test_no_spread_draws_the_middle():
    lesions = ProceduralLesions(shares={"moderate": {"papule": 1}}, spread=0).draw(np.random.default_rng(0), 5)
    assert {lesion.factor for lesion in lesions} == {np.mean(KINDS["papule"].factor)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shares": {"severe": {"papule": 1}}}, "moderate"),
        ({"shares": {"moderate": {"wart": 1}}}, "chances of papule"),
        ({"shares": {"moderate": {"papule": 0}}}, "not all 0"),
        ({"spread": 2}, "spread"),
    ],
)
def test_impossible_values(given, says):
    with pytest.raises(ValueError, match=says):
        ProceduralLesions(**given)


# fmt: off
# Haemoglobin's molar extinction at 400, 410, ... 700 nm, cm^-1 / (mol / l), with and without oxygen (Prahl 1999).
OXYGENATED = np.array([
    266232, 466840, 480360, 246072, 102580, 62816, 44480, 33209, 26629, 23684, 20932, 20035, 24202, 39956, 53236,
    43016, 32613, 44496, 50104, 14400, 3200, 1506, 942, 610, 442, 368, 319, 294, 277, 276, 290,
])
DEOXYGENATED = np.array([
    223296, 303956, 407560, 528600, 413280, 103292, 23388, 16156, 14550, 16684, 20862, 25773, 31589, 39036, 46592,
    53412, 53788, 45072, 37020, 28324, 14677, 9443, 6509, 5148, 4345, 3750, 3226, 2795, 2407, 2051, 1794,
])
D65 = np.array([
    82.75, 91.49, 93.43, 86.68, 104.86, 117.01, 117.81, 114.86, 115.92, 108.81, 109.35, 107.80, 104.79, 107.69,
    104.41, 104.05, 100, 96.33, 95.79, 88.69, 90.01, 89.60, 87.70, 83.29, 83.70, 80.03, 80.21, 82.28, 78.28, 69.72,
    71.61,
])
# fmt: on


def skin_light(blood: float, oxygen: float) -> np.ndarray:
    """Linear sRGB of skin over a share of blood in its dermis: reflectance at 31 wavelengths, seen under D65.

    Absorption and scattering as Jacques 2013; diffuse reflectance of a deep layer as Farrell, Patterson & Wilson
    1992; the eye's colour matching functions as Wyman, Sloan & Shirley 2013.
    """
    nm = np.arange(400, 701, 10.0)
    of_blood = 2.303 * 150 / 64500 * (oxygen * OXYGENATED + (1 - oxygen) * DEOXYGENATED)
    absorbed = blood * of_blood + (1 - blood) * 0.3 * (0.244 + 85.3 * np.exp(-(nm - 154) / 66.2))
    scattered = 46 * (nm / 500) ** -1.3
    albedo = scattered / (absorbed + scattered)
    depth = np.sqrt(3 * (1 - albedo))
    internal = (1 + 0.493) / (1 - 0.493)
    reflected = albedo / 2 * (1 + np.exp(-4 / 3 * internal * depth)) * np.exp(-depth)
    reflected *= np.exp(-2 * 0.006 * 0.03 * 6.6e11 * nm**-3.33)  # 60 um of epidermis with 3 % of melanosomes, twice

    def lobe(mean, left, right):
        return np.exp(-0.5 * ((nm - mean) * np.where(nm < mean, left, right)) ** 2)

    x = 0.362 * lobe(442, 0.0624, 0.0374) + 1.056 * lobe(599.8, 0.0264, 0.0323) - 0.065 * lobe(501.1, 0.0490, 0.0382)
    y = 0.821 * lobe(568.8, 0.0213, 0.0247) + 0.286 * lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * lobe(437, 0.0845, 0.0278) + 0.681 * lobe(459, 0.0385, 0.0725)
    to_rgb = np.linalg.inv(TO_XYZ.astype(float))
    seen, white = (to_rgb @ [(light * D65 * k).sum() for k in (x, y, z)] for light in (reflected, np.ones_like(nm)))
    return seen / white


@pytest.mark.parametrize("blood", [0.01, 0.02, 0.04])
def test_redness_has_the_colour_of_blood_under_skin(blood):
    """Per density of green, for well oxygenated blood: as the optics of skin have it, within their spread."""
    density = -np.log(skin_light(blood, oxygen=0.85) / skin_light(0.004, oxygen=0.75))
    assert density / density[1] == pytest.approx(ERYTHEMA, abs=0.10)


def test_redness_is_warm():
    """Pale skin gets redder and stays as yellow as it was; it must not turn pink, as blue light would make it."""
    for kind in ("papule", "pustule", "post_inflammatory_erythema"):
        change = np.mean([lab_change(layers) for layers in drawn(kind)], axis=0)
        assert 0 < np.degrees(np.arctan2(change[2], change[1])) < 30
