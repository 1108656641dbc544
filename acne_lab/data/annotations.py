"""Where the lesions of ACNE04 are: the release's boxes (Pascal VOC) and the circles of its second annotation.

ACNE04-v2 marks many more lesions (mean 27 a photograph, up to 434), as circles in one COCO-like JSON file, for
1,204 of the photographs. Its circles become the boxes around them.
"""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from acne_lab.data.photo import SIDEWAYS

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in px

OUTSIDE = 0.01  # of a side: boxes that reach outside of the photograph by less were drawn to its edge, by hand
MAX_DIAMETER = 0.25  # of the short side; 99 % of the lesions are below 0.055, so one above is a slip of the pen


class VocFile(NamedTuple):
    """size: width and height in px that the file gives, None if it gives none."""

    size: tuple[int, int] | None
    boxes: list[Box]


class Circle(NamedTuple):
    """Centre and radius in px of the picture it was drawn on, whose size is `size`, None if it is not said."""

    x: float
    y: float
    radius: float
    size: tuple[int, int] | None


def read_voc(path: Path) -> VocFile:
    """A Pascal VOC annotation.

    Raises:
        ElementTree.ParseError: not XML.
        ValueError: an object has no box of positive area, or a size is no number.
    """
    root = ElementTree.parse(path).getroot()
    width, height = root.findtext("size/width"), root.findtext("size/height")
    boxes = []
    for number, item in enumerate(root.iter("object"), start=1):
        corners = [item.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            raise ValueError(f"object {number} has no box")
        x0, y0, x1, y1 = map(float, corners)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"object {number} has a box without area: {x0:g}, {y0:g}, {x1:g}, {y1:g}")
        boxes.append((x0, y0, x1, y1))
    return VocFile((int(width), int(height)) if width and height else None, boxes)


def fitted_boxes(boxes: list[Box], size: tuple[int, int]) -> list[Box]:
    """The boxes, cut at the borders of a photograph of `size` (width, height); one of which nothing is left is gone.

    Raises:
        ValueError: a box reaches outside by more than `OUTSIDE` of that side: it was not drawn on this picture.
    """
    width, height = size
    slack_x, slack_y = OUTSIDE * width, OUTSIDE * height
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        if x0 < -slack_x or y0 < -slack_y or x1 > width + slack_x or y1 > height + slack_y:
            raise ValueError(
                f"object {number} has a box outside of the {width} x {height} photograph: "
                f"{x0:g}, {y0:g}, {x1:g}, {y1:g}"
            )
    cut = [(max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))) for x0, y0, x1, y1 in boxes]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in cut if x0 < x1 and y0 < y1]


def upright_boxes(boxes: list[Box], size: tuple[int, int], orientation: int) -> list[Box]:
    """Boxes that were drawn on the pixels as stored, `size` (width, height), where they are on the upright photograph.

    Args:
        orientation: EXIF's, 1 to 8, as in the standard's table: where row 0 and column 0 of the stored pixels belong.
    """
    width, height = size
    turned = []
    for x0, y0, x1, y1 in boxes:
        if orientation in (2, 3, 7, 8):  # the stored columns run from the right, or from the bottom, of what is upright
            x0, x1 = width - x1, width - x0
        if orientation in (3, 4, 6, 7):  # the stored rows do
            y0, y1 = height - y1, height - y0
        turned.append((y0, x0, y1, x1) if orientation in SIDEWAYS else (x0, y0, x1, y1))
    return turned


def read_circles(path: Path) -> dict[str, list[Circle]]:
    """ACNE04-v2's file: the stem of a photograph's file name -> its circles, of those photographs that have some.

    Names may be paths, of Windows too. An `image_id` is the `id` of an entry of "images", or, where there is none,
    itself the file name.

    Raises:
        ValueError: not such a file; says what is missing.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        entries = {str(entry["id"]): entry for entry in content.get("images", [])}
        circles: dict[str, list[Circle]] = {}
        for mark in content["annotations"]:
            entry = entries.get(str(mark["image_id"]), {})
            size = (int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
            x, y = mark["coordinates"]
            stem = PureWindowsPath(str(entry.get("file_name", mark["image_id"]))).stem
            circles.setdefault(stem, []).append(Circle(float(x), float(y), float(mark["radius"]), size))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"data.annotations_v2={path} cannot be read as JSON ({error})") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"data.annotations_v2={path} is not ACNE04-v2's file: its annotations need image_id, coordinates "
            f"[x, y] and radius ({type(error).__name__}: {error})"
        ) from error
    return circles


def circle_boxes(circles: list[Circle], size: tuple[int, int], orientation: int = 1) -> tuple[list[Box], list[Circle]]:
    """The boxes around the circles, in px of a photograph of `size`, cut at its borders; and circles that cannot be.

    A picture of the same pixels with its sides swapped was not turned by its EXIF `orientation`, and its circles are.
    A circle cannot be if its centre is outside of the picture, or its diameter is not above zero or is more than
    `MAX_DIAMETER` of the short side.
    """
    boxes, rejected = [], []
    for circle in circles:
        width, height = circle.size or size
        inside = 0 <= circle.x <= width and 0 <= circle.y <= height
        if not (inside and 0 < 2 * circle.radius <= MAX_DIAMETER * min(width, height)):
            rejected.append(circle)
            continue
        x, y, radius = circle.x, circle.y, circle.radius
        box = (x - radius, y - radius, x + radius, y + radius)
        if orientation in SIDEWAYS and size[0] != size[1] and (width, height) == size[::-1]:
            (box,) = upright_boxes([box], (width, height), orientation)
            width, height = size
        scale_x, scale_y = size[0] / width, size[1] / height
        x0, y0, x1, y1 = box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y
        boxes.append((max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1]))))
    return boxes, rejected
