"""Analysis: skin only, on every tone, with and without a face; lesions, tone, light, blur, grain."""

from itertools import pairwise

import numpy as np
import pytest
from drawn import person_of_tone, toy_photo
from scipy.ndimage import gaussian_filter

from acne_lab.data.portrait import face_to_frame, skin_clearance
from acne_lab.data.toy import Shot, sample_person, sample_photo
from acne_lab.edit.blobs import find_lesions
from acne_lab.edit.colour import log_chroma, luminance, to_linear
from acne_lab.edit.face import Analyser, Tone
from acne_lab.edit.optics import blur_samples, grain, illumination, light_direction
from acne_lab.edit.regions import face_width, surface_tilt
from acne_lab.edit.skin import NoSkin


@pytest.fixture(scope="module")
def on_portrait(analyse, portrait):
    return analyse(portrait)


def test_skin_of_a_portrait(on_portrait):
    skin, mark = on_portrait.skin, on_portrait.face.landmarks
    assert skin.shape == (512, 512) and skin.dtype == np.float32 and 0 <= skin.min() <= skin.max() <= 1
    for part in (slice(36, 42), slice(42, 48), slice(48, 68), slice(17, 27)):  # eyes, lips and teeth, brows
        x, y = mark[part].astype(int).T
        assert skin[y, x].max() == 0
    assert skin[:110].max() < 0.5  # hair
    assert skin[:, :60].max() == 0 and skin[:, 450:].max() == 0  # background
    for x, y in (mark[[2, 31, 41]].mean(0), mark[[14, 35, 46]].mean(0), mark[[8, 57]].mean(0)):  # cheeks, chin
        assert skin[int(y), int(x)] > 0.5
    assert 0.1 < (skin > 0.5).mean() < 0.3


def test_clothes_of_skin_colour_are_not_skin(analyse, astronaut):
    skin = analyse(astronaut).skin
    assert skin[190:].max() == 0  # an orange suit, hands in gloves


@pytest.mark.parametrize("tone", range(1, 7))
def test_skin_of_every_tone(on_toned, tone):
    """Where a drawn face has bare skin it is found, and nothing else."""
    subject, places = sample_person(5, person_of_tone(tone), 1.0)
    photo = sample_photo(5, Shot(person_of_tone(tone), 0, 0), subject, places)
    u, v = np.random.default_rng(0).uniform((-0.6, -0.6), (0.6, 0.75), (4000, 2)).T
    clear = skin_clearance(u, v, subject)
    x, y = ((face_to_frame(u, v, subject, photo) + 1) * 256).astype(int).clip(0, 511)
    found = on_toned[tone].skin[y, x]
    assert (found[clear > 0.04] > 0.5).mean() > 0.85
    assert (found[clear < -0.03] > 0.5).mean() < 0.03


def test_a_close_up_without_a_face(close_up):
    """Colour alone: cheek, not the wall behind it, nor hair, eye or lips."""
    analysis = Analyser(landmarks=False)(close_up)
    assert analysis.face is None and analysis.scale == 420
    skin = analysis.skin
    assert skin[560:, 300:].max() < 0.5 and skin[:60, 250:].max() < 0.5
    assert skin[165:177, 130:148].max() < 0.5  # the eye
    assert (skin[260:340, 200:260] > 0.5).mean() > 0.9


def test_photographs_without_skin_are_refused(analyse, portrait):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    blue = np.full((200, 200, 3), (60, 90, 200), np.uint8)
    wall = np.clip(
        np.full((200, 200, 3), (214, 167, 134)) + np.random.default_rng(1).normal(0, 1, (200, 200, 3)), 0, 255
    )
    for photo in (noise, blue, wall.astype(np.uint8)):
        with pytest.raises(NoSkin, match="no skin found"):
            analyse(photo)
    gray = np.repeat(portrait.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    with pytest.raises(NoSkin):
        analyse(gray)


def test_tones_come_in_order(on_toned):
    tones = [on_toned[k].tone for k in range(1, 7)]
    assert all(a.ita > b.ita for a, b in pairwise(tones))
    assert all(abs(tone.fitzpatrick - k) <= 1 for k, tone in enumerate(tones, start=1))
    assert Tone.of(to_linear(np.uint8([243, 211, 193]))).darkness < 0.1 < 0.8 < Tone.of(np.full(3, 0.03)).darkness


def test_known_boxes_are_taken_and_others_found(analyse):
    photo, boxes = toy_photo(person_of_tone(2), severity=2, size=512, lesion_scale=2.0)
    given = analyse(photo, boxes)
    assert given.lesions_from == "boxes" and (given.lesions == boxes.astype(np.float32)).all()
    found = analyse(photo)
    assert found.lesions_from == "blobs"
    centres = (found.lesions[:, :2] + found.lesions[:, 2:]) / 2
    true = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.linalg.norm(true[:, None] - centres[None], axis=-1)
    assert (apart.min(1) < (boxes[:, 2] - boxes[:, 0])).mean() > 0.5
    assert abs(len(centres) - len(boxes)) < 0.6 * len(boxes)


def test_even_skin_has_no_lesions(bare):
    light = bare.skin[..., None] * bare.colour + (1 - bare.skin[..., None]) * 0.1
    none = find_lesions(log_chroma(light), np.log(luminance(light)), bare.skin, bare.scale)
    assert none.shape == (0, 4)
    y, x = np.mgrid[:400, :400] + 0.5
    light = light * np.exp(-np.exp(-((x - 160) ** 2 + (y - 270) ** 2) / 40)[..., None] * np.array((0.1, 0.5, 0.4)))
    (box,) = find_lesions(log_chroma(light), np.log(luminance(light)), bare.skin, bare.scale)
    assert (box[:2] + box[2:]) / 2 == pytest.approx([160, 270], abs=2)


def test_scale_follows_the_face(analyse, astronaut, portrait):
    """Lesions on a small face in a large photograph are small."""
    large, small = analyse(portrait), analyse(astronaut)
    assert small.scale < 0.35 * 512 < 0.9 * 512 <= large.scale <= 512
    assert small.scale / face_width(small.face.landmarks) == pytest.approx(1.5)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 5.0])
def test_blur_is_measured(astronaut, sigma):
    """On the sharp photograph, blurred by as much, under grain."""
    soft = gaussian_filter(astronaut[..., 1].astype(float), sigma)
    soft = np.clip(soft + np.random.default_rng(0).normal(0, 1.0, soft.shape), 0, 255).astype(np.uint8)
    found = np.median(blur_samples(soft, (0, 0, 512, 512), 1.0)[:, 2])
    assert 0.65 * sigma < found < 1.35 * sigma


def test_grain_is_measured():
    y, x = np.mgrid[:200, :200]
    smooth = 120 + 0.2 * x + 0.1 * y
    for level in (0.0, 2.0, 6.0):
        noisy = smooth + np.random.default_rng(0).normal(0, level, smooth.shape)
        assert grain(noisy) == pytest.approx(level, rel=0.05, abs=0.01)


@pytest.mark.parametrize("side", [-1, 1])
def test_light_comes_from_where_it_comes_from(on_portrait, side):
    """A face shaded as an ellipsoid under a lamp from one side."""
    landmarks = on_portrait.face.landmarks
    y, x = np.mgrid[:512, :512]
    normals = surface_tilt(landmarks, np.stack([x.ravel(), y.ravel()], 1))
    brightness = (0.5 * side * normals[:, 0] - 0.2 * normals[:, 1]).reshape(512, 512)
    skin = (on_portrait.skin > 0.5).astype(np.float32)
    lamp = illumination(brightness, skin, on_portrait.scale)
    assert lamp[skin > 0].mean() == pytest.approx(1, abs=0.1)
    light = light_direction(lamp, skin, landmarks)
    assert light[0] * side > 0.2 and light[1] < 0 and np.linalg.norm(light) <= 1.0001
