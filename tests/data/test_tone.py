"""The lightness of cheeks, on drawn people whose tone is known and on the one real portrait that a library ships."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import person_of_tone, toy_photo

from acne_lab.colour import skin_type
from acne_lab.data.faces import FaceFinder, faces_available
from acne_lab.data.tone import cheek_angle

pytestmark = pytest.mark.skipif(not faces_available(), reason="acne-lab[faces] is not installed")


@pytest.fixture(scope="module")
def find():
    return FaceFinder(detectors=["dlib_hog"])


@pytest.mark.parametrize("tone", [1, 3, 6])
def test_drawn_people_have_the_tone_that_they_were_drawn_with(find, tone):
    photo, _ = toy_photo(person_of_tone(tone))
    assert skin_type(cheek_angle(photo, find(photo))) == tone


def test_half_a_face_has_the_tone_of_the_whole_one_and_none_where_no_cheek_is(find):
    photo = pytest.importorskip("skimage.data").astronaut()
    face = find(photo)
    whole = cheek_angle(photo, face)
    assert skin_type(whole) == 1  # flash on fair skin
    right = replace(face, landmarks=face.landmarks - np.float32([225, 0]))  # of a photograph that begins at her nose
    assert cheek_angle(np.ascontiguousarray(photo[:, 225:]), right) == pytest.approx(whole, abs=10)
    assert cheek_angle(photo, replace(face, landmarks=face.landmarks + 2000)) is None
