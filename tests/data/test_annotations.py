import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from acne_lab.data.annotations import Circle, circle_boxes, fitted_boxes, read_circles, read_voc, upright_boxes


def test_boxes_are_cut_at_the_border_and_refused_outside_of_it():
    boxes = [(-0.5, 3, 5, 9), (90, 40, 100.9, 50)]
    assert fitted_boxes(boxes, (100, 50)) == [(0, 3, 5, 9), (90, 40, 100, 50)]
    for box in ((-2, 3, 5, 9), (2, 3, 5, 60), (50, 3, 102, 9)):
        with pytest.raises(ValueError, match="object 1 has a box outside of the 100 x 50 photograph"):
            fitted_boxes([box], (100, 50))


def test_a_box_of_which_nothing_is_on_the_photograph_is_gone():
    beyond = [(-0.9, 3, -0.2, 9), (100.2, 3, 100.8, 9), (4, -0.4, 9, 0), (4, 50, 9, 50.3)]
    assert fitted_boxes([*beyond, (1, 2, 3, 4)], (100, 50)) == [(1, 2, 3, 4)]


def test_voc_without_a_size(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation/>")
    assert read_voc(tmp_path / "a.xml") == (None, [])


CIRCLES = [
    {"image_id": "levle0_1.jpg", "coordinates": [50, 40], "radius": 5, "class_name": "papule"},
    {"image_id": "levle0_1.jpg", "coordinates": [98, 1], "radius": 5},
    {"image_id": "levle0_2", "coordinates": [1, 1], "radius": 2},
]


def test_circles_by_file_name(tmp_path):
    (tmp_path / "v2.json").write_text(json.dumps({"annotations": CIRCLES}))
    circles = read_circles(tmp_path / "v2.json")
    assert {stem: len(found) for stem, found in circles.items()} == {"levle0_1": 2, "levle0_2": 1}
    boxes, rejected = circle_boxes(circles["levle0_1"], (100, 80))
    assert boxes == [(45, 35, 55, 45), (93, 0, 100, 6)]
    assert rejected == []


@pytest.mark.parametrize("name", ["x/levle0_1.jpg", "D:\\ACNE04\\levle0_1.jpg", "x\\levle0_1.jpg"])
def test_circles_by_id_on_a_smaller_picture(tmp_path, name):
    images = [{"id": 7, "file_name": name, "width": 50, "height": 40}, {"id": 8, "file_name": "b.jpg"}]
    marks = [{"image_id": 7, "coordinates": [10, 10], "radius": 2}]
    (tmp_path / "v2.json").write_text(json.dumps({"images": images, "annotations": marks}))
    circles = read_circles(tmp_path / "v2.json")
    assert set(circles) == {"levle0_1"}  # b.jpg has no circle: nobody marked it, and its release's boxes stay
    assert circle_boxes(circles["levle0_1"], (100, 120)) == ([(16, 24, 24, 36)], [])


@pytest.mark.parametrize("mark", [(50, 40, 5481), (50, 40, 0), (50, 40, -3), (500, 40, 3), (50, -4, 3)])
def test_absurd_circles_are_rejected_by_rule(mark):
    circle = Circle(*map(float, mark), None)
    assert circle_boxes([circle], (100, 80)) == ([], [circle])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is not ACNE04-v2's file"),
        ('{"annotations": [{"image_id": 1}]}', "coordinates"),
        ('{"annotations": [{"image_id": 1, "coordinates": [1], "radius": 2}]}', "is not ACNE04-v2's file"),
    ],
)
def test_other_files_are_refused(tmp_path, text, reason):
    (tmp_path / "v2.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_circles(tmp_path / "v2.json")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_photograph(orientation):
    """A white rectangle on the stored pixels is where Pillow shows it on the upright ones."""
    stored = np.zeros((30, 40), np.uint8)
    stored[4:9, 10:23] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored)
    image.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(image))
    ((x0, y0, x1, y1),) = upright_boxes([(10, 4, 23, 9)], (40, 30), orientation)
    assert upright[y0:y1, x0:x1].min() == 255 and upright.sum() == stored.sum()
    if orientation >= 5:
        assert circle_boxes([Circle(20, 10, 3, (40, 30))], (30, 40), orientation) == (
            upright_boxes([(17, 7, 23, 13)], (40, 30), orientation),
            [],
        )
