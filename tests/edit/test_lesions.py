import json

import numpy as np
import pytest

from acne_lab.colour import lab_of_light
from acne_lab.edit.lesions import KINDS, REACH, SHARES, ProceduralLesions

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
