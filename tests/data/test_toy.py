"""The drawn population: the same for the same seed, labelled exactly, with every lesion on skin."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, maximum_filter

from acne_lab.data.portrait import (
    LESION_KINDS,
    Scene,
    draw_background,
    draw_brows,
    draw_ears,
    draw_eyes,
    draw_hair_behind,
    draw_hair_in_front,
    draw_mouth,
    draw_neck_and_shoulders,
    draw_nostrils,
    draw_skin,
    face_to_frame,
    render_photo,
    skin_clearance,
    unyaw,
)
from acne_lab.data.toy import (
    BANDS,
    CLASSES,
    Shot,
    ToyFaces,
    proportional_counts,
    sample_person,
    sample_photo,
)


def person_and_photo(index: int, severity: str, seed: int = 0, photo: int = 0):
    subject, places = sample_person(seed, index, 2.5)
    return subject, sample_photo(seed, Shot(index, photo, CLASSES.index(severity)), subject, places)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return ToyFaces(num_images=160).collect(tmp_path_factory.mktemp("toy"), num_workers=1)


def files(collected) -> dict[str, bytes]:
    return {name: (collected.images_root / name).read_bytes() for name in collected.rows.file_name}


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    source = ToyFaces(num_images=16, seed=3)
    one, two = (
        source.collect(tmp_path / "one", num_workers=1),
        source.collect(tmp_path / "two", num_workers=2),
    )
    assert files(one) == files(two)
    pd.testing.assert_frame_equal(one.rows, two.rows)
    pd.testing.assert_frame_equal(one.boxes, two.boxes)


def test_another_seed_is_another_population(tmp_path):
    first, second = (ToyFaces(num_images=8, seed=k).collect(tmp_path / str(k), num_workers=1) for k in (0, 1))
    assert set(files(first).values()).isdisjoint(files(second).values())


def test_a_larger_set_goes_on_where_the_smaller_one_ended():
    small, large = ToyFaces(num_images=100).shots(), ToyFaces(num_images=400).shots()
    common = len(set(small) & set(large)) / len(small)
    assert common > 0.9  # the last few fill the classes that the stream has left short


def test_fingerprint_follows_the_arguments():
    assert ToyFaces(num_images=1457).fingerprint() == ToyFaces(num_images=1457).fingerprint()
    changes = {"num_images": 10, "photos_per_subject": 2, "resolution": 128, "lesion_scale": 2.0, "seed": 1}
    prints = {ToyFaces(**{name: value}).fingerprint() for name, value in changes.items()}
    assert len(prints | {ToyFaces().fingerprint()}) == len(changes) + 1


@pytest.mark.parametrize(
    ("num_images", "counts"),
    [(1457, (513, 633, 182, 129)), (2914, (1026, 1266, 364, 258)), (100, (35, 43, 13, 9)), (1, (0, 1, 0, 0))],
)
def test_class_counts_are_those_of_acne04_by_largest_remainder(num_images, counts):
    source = ToyFaces(num_images=num_images)
    assert source.class_counts == counts
    assert proportional_counts(num_images, (513, 633, 182, 129)) == counts
    assert tuple(np.bincount([shot.severity for shot in source.shots()], minlength=4)) == counts


def test_class_counts_override_num_images():
    shots = ToyFaces(class_counts={"severe": 5, "mild": 3}).shots()
    assert np.bincount([shot.severity for shot in shots], minlength=4).tolist() == [3, 0, 5, 0]
    with pytest.raises(ValueError, match="very_severe"):
        ToyFaces(class_counts={"extreme": 1})


def test_severity_is_the_band_of_the_lesions_drawn(collected):
    low, high = np.array([BANDS[CLASSES.index(name)] for name in collected.rows.severity]).T
    assert (collected.rows.lesions.between(low, high)).all()
    assert (collected.rows.severity == collected.rows.file_name.str.split("/").str[0]).all()
    for severity, lesions in collected.rows.groupby("severity").lesions:
        low, high = BANDS[CLASSES.index(severity)]
        assert abs(lesions.mean() - (low + high) / 2) < 0.25 * (high - low), severity  # filled, not piled at a border


def test_a_person_has_several_photographs_and_mostly_one_severity(collected):
    people = collected.rows.groupby("subject")
    assert 3 < people.size().mean() < 5
    assert people.severity.agg(lambda s: (s == s.mode()[0]).mean()).mean() > 0.75


def test_lesions_keep_most_of_their_places_between_photographs():
    subject, places = sample_person(0, 4, 2.5)
    first, second = (sample_photo(0, Shot(4, k, 2), subject, places).lesions[["u", "v"]].tolist() for k in (0, 1))
    kept = len(set(first) & set(second)) / min(len(first), len(second))
    assert 0.5 < kept < 1


def test_every_fitzpatrick_type_is_there(collected):
    assert set(collected.rows.skin_tone) == {1, 2, 3, 4, 5, 6}


def test_one_box_per_lesion_inside_the_photograph(collected):
    boxes, rows = collected.boxes, collected.rows.set_index("file_name")
    assert boxes.file_name.value_counts().reindex(rows.index, fill_value=0).tolist() == rows.lesions.tolist()
    assert boxes[["x0", "y0"]].min(axis=None) >= 0
    assert boxes[["x1", "y1"]].max(axis=None) <= 64
    assert (boxes.x1 > boxes.x0).all()
    assert (boxes.y1 > boxes.y0).all()
    assert 1.7 < (boxes.x1 - boxes.x0).median() < 3  # a median lesion is seen at 64 px


@pytest.mark.parametrize("index", range(6))
def test_lesions_lie_on_bare_skin_and_are_separate(index):
    subject, photo = person_and_photo(index, "very_severe")
    lesions = photo.lesions
    assert (skin_clearance(lesions["u"], lesions["v"], subject) > 0.7 * lesions["radius"]).all()
    apart = np.hypot(lesions["u"][:, None] - lesions["u"], lesions["v"][:, None] - lesions["v"])
    np.fill_diagonal(apart, np.inf)
    assert (apart.min(1) > 0.9 * lesions["radius"]).all()
    assert lesions["radius"].min() > 0.012  # 0.8 px across at 64 px


def layered(subject, photo, size):
    """The linear image before the camera, whose blur and noise know no borders."""
    scene = Scene(subject, photo, size)
    layers = (
        draw_background,
        draw_hair_behind,
        draw_neck_and_shoulders,
        draw_ears,
        draw_skin,
        draw_mouth,
        draw_nostrils,
    )
    for layer in (*layers, draw_eyes, draw_brows, draw_hair_in_front):
        layer(scene)
    return scene


@pytest.mark.parametrize("index", [0, 7, 20])
def test_lesions_change_skin_and_nothing_else(index):
    subject, photo = person_and_photo(index, "very_severe")
    with_acne = layered(subject, photo, 128)
    without = layered(subject, replace(photo, lesions=photo.lesions[:0]), 128).image
    changed = np.abs(with_acne.image - without).max(0) > 0.02
    skin = skin_clearance(with_acne.u, with_acne.v, subject) > 0
    inside_face = with_acne.face < with_acne.edge
    assert changed.any()
    assert not (changed & ~inside_face).any()
    assert (changed & binary_dilation(skin, iterations=2)).sum() > 0.85 * changed.sum()


@pytest.mark.parametrize("index", range(5))
def test_every_lesion_shows_in_its_place(index):
    subject, photo = person_and_photo(index, "severe")
    places = ((face_to_frame(photo.lesions["u"], photo.lesions["v"], subject, photo) + 1) * 64).astype(int)
    with_acne = layered(subject, photo, 128).image
    without = layered(subject, replace(photo, lesions=photo.lesions[:0]), 128).image
    contrast = (np.abs(with_acne - without) / (without + 0.01)).max(0)
    contrast = maximum_filter(contrast, 5)[places[1], places[0]]  # a pustule may be as pale as skin in the middle
    assert (contrast > 0.15).all(), [LESION_KINDS[k] for k in photo.lesions["kind"][contrast <= 0.15]]


def test_face_to_frame_inverts_the_pose():
    subject, photo = person_and_photo(1, "severe")
    photo = replace(photo, roll=0.0, scale=1.0, shift=(0.0, 0.0), yaw=0.08)
    u = np.linspace(-0.7, 0.7, 41)
    np.testing.assert_allclose(unyaw(face_to_frame(u, 0 * u, subject, photo)[0], subject, photo), u, atol=1e-6)


@pytest.mark.parametrize("severity", CLASSES)
def test_resolutions_show_the_same_scene(severity):
    subject, photo = person_and_photo(11, severity)
    small, large = render_photo(subject, photo, 64), render_photo(subject, photo, 256)
    assert small.dtype == large.dtype == np.uint8
    assert (small.shape, large.shape) == ((64, 64, 3), (256, 256, 3))
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BOX))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.97


@pytest.mark.slow
def test_drawing_is_fast_enough():
    photos = [person_and_photo(k, CLASSES[k % 2]) for k in range(60)]
    start = time.perf_counter()
    for subject, photo in photos:
        render_photo(subject, photo, 64)
    assert len(photos) / (time.perf_counter() - start) > 60
