"""Patches of training photographs: where they are cut, and what is kept with them."""

import json

import numpy as np
import pytest
from PIL import Image
from skins import cut, table_of

from acne_lab.data.table import BadData, ImageTable
from acne_lab.edit.patches import corners, drawn_lesion, on_skin, within


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return cut(table_of(root), root / "cache")


def test_patches_hold_lesions_and_the_same_without(patches):
    assert (len(patches), patches.side) == (12, 32)
    assert sorted(patches.sizes) == [10, 10, 12]
    num = np.diff(patches.first)
    assert num[:3].sum() >= 3 and num[4:].sum() == 0  # around a's; b has none, c's lies in a corner
    for i in np.nonzero(num)[0]:
        photo, smooth = np.asarray(patches.pixels[i], float)
        for x0, y0, x1, y1 in patches.boxes[patches.lesions_of(i)].round().astype(int):
            centre = slice(y0 + 3, y1 - 3), slice(x0 + 3, x1 - 3)
            redness = [image[centre][..., 0].mean() - image[centre][..., 1].mean() for image in (photo, smooth)]
            assert redness[0] > 80 and redness[1] < 60  # of skin: 50


def test_what_was_read_from_the_photograph_is_kept(patches):
    analysis = patches.analysis_of(0)
    assert analysis.skin.shape == analysis.illumination.shape == (32, 32)
    assert analysis.skin.mean() > 0.5
    assert analysis.tone.fitzpatrick in range(1, 7)
    assert analysis.blur_at(np.array([[3.0, 4.0]])).shape == (1,)
    assert analysis.face is None and analysis.light.shape == (2,)


def test_drawn_lesions_resemble_the_real_ones(patches):
    """These are red spots: none of the few kept has pus on it, or is a dark plug."""
    kept = [drawn_lesion(str(text)) for texts in patches.drawn for text in texts]
    assert len(kept) == 2 * len(patches.boxes)
    assert (
        sum(lesion.kind in ("papule", "post_inflammatory_erythema", "nodule", "pigment") for lesion in kept)
        > len(kept) * 2 / 3
    )


def test_they_are_cut_once(patches, tmp_path, monkeypatch):
    table = table_of(tmp_path)
    first = cut(table, tmp_path / "cache")
    (tmp_path / "a.png").unlink()
    again = cut(table, tmp_path / "cache")
    for name in ("pixels", "maps", "boxes", "first"):
        assert (getattr(again, name) == getattr(first, name)).all()
        assert (getattr(patches, name) == getattr(first, name)).all()  # wherever the table lies
    assert json.loads(str(again.about[0])).keys() >= {"light", "tone", "scale"}
    with pytest.raises(BadData, match=r"a\.png: cannot be read"):
        cut(table, tmp_path / "cache", side=24)
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    with pytest.raises(BadData, match=r"a\.png: has changed"):
        cut(table, tmp_path / "cache", side=24)


def test_bad_input(tmp_path):
    table = table_of(tmp_path)
    with pytest.raises(BadData, match="128 x 128 is smaller than a patch of 256 px"):
        cut(table, tmp_path / "cache", side=256)
    bare = ImageTable(root=tmp_path, rows=table.rows, classes=("mild",))
    with pytest.raises(ValueError, match="no lesion boxes"):
        cut(bare, tmp_path / "cache")


def test_corners_stay_inside_and_go_to_every_lesion():
    lesions = np.array([[10, 10, 20, 20], [500, 300, 520, 330], [990, 690, 1000, 700]], float)
    found = np.array(corners(np.random.default_rng(0), (700, 1000), lesions, side=64, num=8))
    assert len(found) == 8
    assert (found >= 0).all() and (found <= [1000 - 64, 700 - 64]).all()
    holds = [((found[:6] <= box[:2]) & (found[:6] + 64 >= box[2:])).all(axis=1) for box in lesions]
    assert [part.sum() for part in holds] == [2, 2, 2]
    assert len(corners(np.random.default_rng(0), (64, 64), lesions[:0], side=64, num=3)) == 3


def test_within_leaves_room_for_what_is_healed():
    boxes = np.array([[10, 10, 20, 20], [3, 10, 13, 20], [10, 3, 20, 13], [22, 10, 30, 20]], float)
    assert within(boxes, (40, 32)).tolist() == [True, False, False, False]


def test_lesions_beside_hair_are_left_out_with_those_that_touch_them():
    skin = np.ones((60, 60), np.float32)
    skin[:, :10] = 0
    boxes = np.array([[8, 10, 18, 20], [18, 10, 28, 20], [40, 10, 50, 20], [70, 10, 80, 20]], np.float32)
    assert on_skin(skin, boxes).tolist() == [False, False, True, False]
    assert on_skin(skin, boxes[:0]).tolist() == []
