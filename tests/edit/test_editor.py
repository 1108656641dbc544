"""The guarantees of an edit, on a real portrait, on drawn faces of every tone, on a close-up without a face."""

import hashlib
import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import composed

from acne_lab.build import build
from acne_lab.data.faces import IdentityEmbedder
from acne_lab.edit.bank import LesionBank
from acne_lab.edit.editor import Editor, Skipped, most_changed, with_grain
from acne_lab.edit.face import Analyser
from acne_lab.edit.lesions import ProceduralLesions
from acne_lab.edit.optics import grain
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.placement import Placement

NONE = np.zeros((0, 4))


def make(analyse, **given) -> Editor:
    parts = {"source": ProceduralLesions(), "placement": Placement(), "overlay": Overlay()} | given
    return Editor(analyse=analyse, **parts)


@pytest.fixture(scope="module")
def known(analyse, portrait):
    """An analyser that knows the portrait already: a test of what follows need not look for the face again."""
    found = analyse(portrait, NONE)
    return lambda photo, boxes: found if boxes is None else replace(found, lesions=np.asarray(boxes, np.float32))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), num=st.integers(0, 45), intensity=st.floats(0, 1))
def test_guarantees(known, portrait, seed, num, intensity):
    old = np.array([[150, 300, 160, 310], [300, 330, 306, 336]], np.float32)
    edit = make(known, intensity=intensity)(portrait, boxes=old, num_added=num, severity="severe", seed=seed)
    assert (edit.image[~edit.mask] == portrait[~edit.mask]).all()
    assert not edit.mask[known(portrait, old).skin == 0].any()
    assert (edit.lesions_before, edit.lesions_added, edit.boxes.shape) == (2, num, (num, 4))
    assert edit.boxes.dtype == np.float32 and edit.image.dtype == np.uint8 and edit.mask.dtype == bool
    assert (edit.boxes[:, 2:] > edit.boxes[:, :2]).all()
    for x0, y0, x1, y1 in edit.boxes:
        part = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        assert edit.mask[part].any()
        if intensity > 0.9:
            assert (edit.image[part] != portrait[part]).any(), "a lesion that counts can be seen"
    if intensity == 0 or num == 0:
        assert (edit.image == portrait).all()
    assert json.loads(json.dumps(edit.parameters)) == edit.parameters
    assert sum(edit.parameters["kinds"].values()) == num


@pytest.mark.parametrize("tone", range(1, 7))
def test_every_tone_is_edited(toned, on_toned, tone):
    edit = make(lambda photo, boxes: on_toned[tone])(toned[tone], boxes=None, num_added=20, severity="moderate", seed=1)
    change = np.abs(edit.image.astype(int) - toned[tone]).max(-1)
    assert len(edit.boxes) == 20 and 12 < change.max() < 160
    assert (edit.image[~edit.mask] == toned[tone][~edit.mask]).all()


def test_what_counts_is_seen(on_toned, toned, known, portrait):
    """On every tone, at most one lesion of fifty is fainter than what people notice; the row says how many are."""
    photos = [(toned[tone], on_toned[tone]) for tone in toned] + [(portrait, known(portrait, None))]
    shown = []
    for photo, analysis in photos:
        edit = make(lambda p, b, analysis=analysis: analysis)(
            photo, boxes=None, num_added=25, severity="severe", seed=2
        )
        seen = most_changed(photo, edit.image, edit.boxes) >= 3
        assert edit.parameters["visible"] == seen.sum()
        shown.append(seen.mean())
    assert np.mean(shown) > 0.98
    none = make(known, intensity=0.0)(portrait, boxes=NONE, num_added=5, severity="severe", seed=2)
    assert none.parameters["visible"] == 0


def test_a_close_up_without_a_face_is_edited_on_its_skin(close_up):
    edit = make(Analyser(landmarks=False))(close_up, boxes=NONE, num_added=30, severity="severe", seed=0)
    assert not edit.mask[560:, 310:].any() and not edit.mask[:50, 260:].any()
    assert not edit.parameters["landmarks"]


def test_the_person_stays_the_same(known, portrait, toned, on_toned):
    """Cosine similarity of dlib's embedding before and after 40 lesions; its threshold for two photographs of one
    person is a distance of 0.6 between vectors of length about 1.4, hence a similarity of about 0.9."""
    embed = IdentityEmbedder()
    edit = make(known)(portrait, boxes=NONE, num_added=40, severity="very_severe", seed=3)
    face = known(portrait, None).face
    before = embed(portrait, face)
    assert before @ embed(edit.image, face) > 0.95
    assert before @ embed(toned[3], on_toned[3].face) < 0.9


PRINT_HASH = """
import hashlib, sys
from skimage.data import astronaut
from acne_lab.edit.editor import Editor
from acne_lab.edit.face import Analyser
from acne_lab.edit.lesions import ProceduralLesions
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.placement import Placement
make = Editor(analyse=Analyser(), source=ProceduralLesions(), placement=Placement(), overlay=Overlay())
made = make(astronaut(), boxes=None, num_added=10, severity="severe", seed=5)
print(hashlib.sha256(made.image.tobytes() + made.boxes.tobytes()).hexdigest())
"""


def test_another_process_makes_the_same_bits(editor, astronaut):
    edit = editor(astronaut, boxes=None, num_added=10, severity="severe", seed=5)
    here = hashlib.sha256(edit.image.tobytes() + edit.boxes.tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", PRINT_HASH], capture_output=True, text=True, check=True).stdout
    assert there.strip() == here
    other = editor(astronaut, boxes=None, num_added=10, severity="severe", seed=6)
    assert (other.image != edit.image).any()


def test_workers_get_the_same_editor(astronaut):
    sent = pickle.loads(pickle.dumps(make(Analyser(landmarks=False))))
    photo = astronaut[:180, 120:320]
    here, there = (
        k(photo, boxes=None, num_added=4, severity="mild", seed=5) for k in (make(Analyser(landmarks=False)), sent)
    )
    assert (here.image == there.image).all()


def test_photographs_that_cannot_be_edited_are_skipped(editor, known, portrait):
    with pytest.raises(Skipped, match="no skin found") as error:
        editor(np.full((300, 300, 3), 90, np.uint8), boxes=None, num_added=3, severity="mild", seed=0)
    assert error.value.reason == str(error.value)
    crowded = np.array([(x, y, x + 24, y + 24) for x in range(100, 420, 24) for y in range(180, 500, 24)])
    with pytest.raises(Skipped, match=r"not enough free skin for 34 lesions \(\d+ fit\)"):
        make(known)(portrait, boxes=crowded, num_added=34, severity="severe", seed=0)


def test_impossible_arguments(editor, analyse, portrait):
    with pytest.raises(ValueError, match="uint8"):
        editor(portrait.astype(float), boxes=None, num_added=1, severity="mild", seed=0)
    with pytest.raises(ValueError, match="remove none"):
        editor(portrait, boxes=None, num_added=-1, severity="mild", seed=0)
    with pytest.raises(ValueError, match="intensity"):
        make(analyse, intensity=1.5)


def test_refinement_is_confined_to_the_mask(known, portrait):
    """Whatever a network paints, outside of the mask the photograph stays; the overlay is kept beside the result."""
    seen = []

    def refine(photo, overlaid, mask, seed):
        seen.append((photo is portrait, mask.sum(), seed))
        return 255 - overlaid

    edit = make(known, refine=refine)(portrait, boxes=NONE, num_added=8, severity="moderate", seed=9)
    plain = make(known)(portrait, boxes=NONE, num_added=8, severity="moderate", seed=9)
    assert seen == [(True, edit.mask.sum(), 9)]
    assert (edit.overlaid == plain.image).all() and (edit.image[~edit.mask] == portrait[~edit.mask]).all()
    assert (edit.image[edit.mask] != plain.image[edit.mask]).any(-1).mean() > 0.9
    make(known, refine=refine)(portrait, boxes=NONE, num_added=0, severity="mild", seed=9)
    assert len(seen) == 1  # nothing to refine


def test_clean_paint_gets_the_photographs_grain():
    rng = np.random.default_rng(0)
    photo = np.clip(np.round(120 + rng.normal(0, 5, (120, 120, 3))), 0, 255).astype(np.uint8)
    painted, mask = np.full_like(photo, 120), np.zeros((120, 120), bool)
    mask[20:100, 20:100] = True
    made = with_grain(painted, photo, mask, grain(photo[..., 1]), rng)
    assert grain(made[20:100, 20:100, 1]) == pytest.approx(5, rel=0.1)
    assert (made[~mask] == painted[~mask]).all()
    assert (with_grain(photo, photo, mask, 5.0, rng) == photo).all()  # nothing is missing


def test_bank_edits_too(known, portrait, lesion_table):
    edit = make(known, source=LesionBank(table=lesion_table))(
        portrait, boxes=NONE, num_added=20, severity="severe", seed=0
    )
    assert (edit.image[~edit.mask] == portrait[~edit.mask]).all() and (edit.image != portrait).any()
    donors = {lesion["donor"] for lesion in edit.parameters["lesions"]}
    assert donors <= set(lesion_table.rows["file_name"])


def test_shipped_configs_build(lesion_table, toned):
    """They name every argument of the parts, and edit."""
    for name in ("overlay", "overlay_bank"):
        edit = composed("train", "experiment=grader", f"edit={name}")["edit"]
        assert edit["name"] == name and edit["bank"] == (name == "overlay_bank")
        node, given = dict(edit["editor"]), {}
        if edit["bank"]:
            given["source"] = build({**node.pop("source"), "_partial_": True})(table=lesion_table)
        made = build({**node, "_partial_": True})(**given)
        assert len(made(toned[2], boxes=None, num_added=3, severity="mild", seed=0).boxes) == 3


def test_a_bank_edits_as_drawn_lesions_do():
    """The two arms of a comparison differ in where lesions come from, and in nothing else."""
    changed = ("edit.editor.placement.patchiness=0.5", "edit.editor.overlay.least_change=2")
    drawn, bank = (
        composed("train", "experiment=grader", f"edit={name}", *changed)["edit"] for name in ("overlay", "overlay_bank")
    )
    assert (drawn.pop("bank"), bank.pop("bank")) == (False, True)
    assert drawn.pop("name") != bank.pop("name")
    assert drawn["editor"].pop("source") != bank["editor"].pop("source")
    assert drawn == bank


@pytest.mark.slow
def test_a_megapixel_takes_under_a_second_and_a_half(editor, portrait):
    from PIL import Image

    large = np.asarray(Image.fromarray(portrait).resize((1024, 1024)))
    editor(large, boxes=None, num_added=1, severity="mild", seed=0)  # loads models
    start = time.process_time()
    editor(large, boxes=None, num_added=40, severity="very_severe", seed=0)
    assert time.process_time() - start < 1.5
