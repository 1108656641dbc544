"""The severity swap with models whose pictures are known: what it transfers, where, and what it leaves alone."""

import numpy as np
import pytest
from PIL import Image

from acne_lab.colour import lab
from acne_lab.data.toy import ToyFaces
from acne_lab.edit.colour import to_linear
from acne_lab.edit.editor import Edit, Skipped
from acne_lab.edit.face import Analyser
from acne_lab.edit.swap import SeveritySwap, agreement, density_change, soft_mask, transferred

MODEL_SIDE = 64


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> np.ndarray:
    """A drawn face of 160 px in the middle of a wider photograph."""
    folder = tmp_path_factory.mktemp("face")
    faces = ToyFaces(resolution=160, class_counts={"mild": 1}, seed=4)
    rows = faces.collect(folder, 0).rows
    face = np.asarray(Image.open(folder / rows["file_name"][0]).convert("RGB"))
    wide = np.full((160, 220, 3), 60, dtype=np.uint8)
    wide[:, 30:190] = face
    return wide


def spots(crop: np.ndarray, severity: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models that draw the crop: as it is, and a quarter darker with red spots."""
    base = np.asarray(Image.fromarray(crop).resize((MODEL_SIDE, MODEL_SIDE), Image.Resampling.BOX))
    rng = np.random.default_rng(seed)
    target = base * 0.75
    for x, y in rng.integers(4, MODEL_SIDE - 4, (40, 2)):
        target[y - 1 : y + 2, x - 1 : x + 2] *= (1.0, 0.75, 0.75)
    return base, target.astype(np.uint8)


def swap(**options) -> SeveritySwap:
    return SeveritySwap(analyse=Analyser(landmarks=False), swap=spots, **options)


def edited(photo: np.ndarray, *, seed: int = 0, **options) -> Edit:
    return swap(**options)(photo, boxes=np.array([[1, 2, 3, 4.0]]), num_added=7, severity="severe", seed=seed)


def test_skin_gets_redder_and_everything_else_is_bit_identical(photo):
    edit = edited(photo)
    assert edit.mask.any() and not edit.mask[:, :28].any()  # the models look at the middle square
    assert (edit.image[~edit.mask] == photo[~edit.mask]).all()
    redder = lab(edit.image[edit.mask])[:, 1] - lab(photo[edit.mask])[:, 1]
    assert np.percentile(redder, 95) > 3
    assert abs(float(np.median(redder))) < 1.5  # that the model is darker all over is not transferred
    assert edit.lesions_before == 1 and edit.lesions_added is None and edit.boxes.shape == (0, 4)
    assert edit.parameters["square"] == [30, 0, 160] and edit.parameters["severity"] == "severe"


def test_deterministic_by_seed(photo):
    first, again, other = edited(photo), edited(photo), edited(photo, seed=1)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_strength_grows_from_nothing(photo):
    shifts = [float(np.abs(edited(photo, strength=s).image.astype(int) - photo).mean()) for s in (0.0, 0.3, 0.7, 1.0)]
    assert shifts[0] == 0 and shifts == sorted(shifts)


def test_equal_models_change_nothing(photo):
    same = SeveritySwap(
        analyse=Analyser(landmarks=False), swap=lambda crop, severity, seed: 2 * (spots(crop, "", 0)[0],)
    )
    edit = same(photo, boxes=None, num_added=0, severity="severe", seed=0)
    assert (edit.image == photo).all()


def test_texture_stays_the_photograph_s(photo):
    """The models' pixels are 2.5 px wide: what is finer in the photograph must still be there."""
    pores = np.random.default_rng(0).normal(0, 6, photo.shape[:2])[..., None]
    photo = np.clip(photo + pores, 0, 255).astype(np.uint8)
    edit = edited(photo)
    inner = edit.mask[1:-1, 1:-1] & (np.abs(edit.image.astype(int) - photo).max(-1) > 0)[1:-1, 1:-1]
    before, after = (np.log(np.maximum(to_linear(k)[..., 1], 1e-3)) for k in (photo, edit.image))
    fine = [
        (4 * k[1:-1, 1:-1] - k[:-2, 1:-1] - k[2:, 1:-1] - k[1:-1, :-2] - k[1:-1, 2:])[inner] for k in (before, after)
    ]
    assert np.corrcoef(*fine)[0, 1] > 0.9


def test_no_skin_is_skipped(photo):
    with pytest.raises(Skipped, match="skin"):
        edited(np.full((80, 80, 3), (40, 90, 160), dtype=np.uint8))
    with pytest.raises(Skipped, match="of the square that the models look at is skin"):
        edited(photo, min_skin=0.95)


@pytest.mark.parametrize(("options", "match"), [({"framing": "left"}, "framing"), ({"strength": 1.5}, "strength")])
def test_impossible_options(options, match):
    with pytest.raises(ValueError, match=match):
        swap(**options)


def test_density_change_is_the_narrow_part_that_may_be_acne():
    base = np.full((64, 64, 3), 180, dtype=np.uint8)
    darker = np.full((64, 64, 3), 120, dtype=np.uint8)
    assert np.abs(density_change(base, darker, detail=0.1)).max() < 1e-5
    spot = darker.copy()
    spot[31:33, 31:33, 1] = 60
    change = density_change(base, spot, detail=0.1)
    expected = np.log(to_linear(np.uint8(120)) / to_linear(np.uint8(60)))
    assert change[31, 31, 1] == pytest.approx(float(expected), rel=1e-3)
    assert np.count_nonzero(np.abs(change) > 1e-5) == 4  # the skin around it is as it was, and so are red and blue
    hair = darker.copy()
    hair[28:36, 28:36] = 20
    assert density_change(base, hair, detail=0.1)[32, 32].max() < 0.01
    shine = darker.copy()
    shine[31:33, 31:33, 1] = 255
    assert density_change(base, shine, detail=0.1).min() == pytest.approx(-0.12)


def test_a_median_on_a_smaller_copy_is_about_the_same():
    rng = np.random.default_rng(0)
    base = np.full((256, 256, 3), 180, dtype=np.uint8)
    spot = base.copy()
    spot[120:126, 120:126, 1] = 120
    spot[..., 0] -= rng.integers(0, 3, (256, 256)).astype(np.uint8)
    change = density_change(base, spot, detail=0.1)
    expected = np.log(to_linear(np.uint8(180)) / to_linear(np.uint8(120)))
    assert change[122, 122, 1] == pytest.approx(float(expected), rel=0.02)


def test_a_projection_that_missed_is_not_believed():
    crop = np.full((128, 128, 3), 150, dtype=np.uint8)
    base = np.full((64, 64, 3), 140, dtype=np.uint8)  # another exposure does not matter
    base[:, :20] = 30
    trust = agreement(crop, base, np.ones((128, 128)))
    assert trust[:, 30:].min() > 0.99 and trust[:, :16].max() < 0.01


def test_a_filter_multiplies_light_and_a_soft_mask_fades():
    crop = np.full((40, 40, 3), 150, dtype=np.uint8)
    dark = transferred(crop, np.full((10, 10, 3), np.log(2.0)), np.ones((40, 40)))
    assert np.allclose(to_linear(dark), to_linear(crop) / 2, rtol=0.02)
    skin = np.zeros((40, 40), dtype=np.float32)
    skin[10:30, 10:] = 1
    weights = soft_mask(skin, feather=5)
    assert (weights[skin == 0] == 0).all() and weights[20, 20] == 1
    assert 0 < weights[10, 20] < weights[12, 20] < weights[14, 20] <= 1
    assert weights[20, 39] < 0.1  # skin that is cut by the crop fades too
