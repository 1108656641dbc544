"""Faces to edit: scikit-image's portrait, drawn faces of every tone, close-ups; and the parts of an editor."""

import numpy as np
import pandas as pd
import pytest
from drawn import person_of_tone, toy_photo
from PIL import Image

from acne_lab.data.table import ImageTable
from acne_lab.edit.editor import Editor
from acne_lab.edit.face import Analyser, Analysis, Tone
from acne_lab.edit.lesions import ProceduralLesions
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.placement import Placement


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return data.astronaut()


@pytest.fixture(scope="session")
def portrait(astronaut) -> np.ndarray:
    """The face of the astronaut, 512 px."""
    face = Image.fromarray(astronaut).crop((140, 10, 310, 180))
    return np.asarray(face.resize((512, 512), Image.Resampling.LANCZOS))


@pytest.fixture(scope="session")
def close_up(astronaut) -> np.ndarray:
    """Half of it, so large that no detector finds it, beside a pinkish wall."""
    half = Image.fromarray(astronaut).crop((222, 75, 292, 180))
    return np.asarray(half.resize((420, 630), Image.Resampling.LANCZOS))


@pytest.fixture(scope="session")
def toned() -> dict[int, np.ndarray]:
    """One drawn face of each Fitzpatrick type."""
    return {tone: toy_photo(person_of_tone(tone))[0] for tone in range(1, 7)}


@pytest.fixture(scope="session")
def analyse() -> Analyser:
    return Analyser()


@pytest.fixture(scope="session")
def on_toned(analyse, toned) -> dict[int, Analysis]:
    """What is known of each of them."""
    return {tone: analyse(photo) for tone, photo in toned.items()}


@pytest.fixture(scope="session")
def editor(analyse) -> Editor:
    return Editor(analyse=analyse, source=ProceduralLesions(), placement=Placement(), overlay=Overlay())


@pytest.fixture(scope="session")
def lesion_table(tmp_path_factory) -> ImageTable:
    """Two severe drawn faces with boxes: donors for a bank."""
    root = tmp_path_factory.mktemp("donors")
    rows, boxes = [], []
    for index in (person_of_tone(2), person_of_tone(5)):
        photo, found = toy_photo(index, severity=2, size=1024, lesion_scale=1.6)
        name = f"{index}.png"
        Image.fromarray(photo).save(root / name, compress_level=1)
        rows.append([name, "severe", len(found), str(index), "train", "toy", "", str(index)])
        boxes += [(name, *box) for box in found]
    columns = ["file_name", "severity", "lesions", "subject", "split", "source", "parent", "sha256"]
    return ImageTable(
        root=root,
        rows=pd.DataFrame(rows, columns=columns),
        classes=("mild", "severe"),
        boxes=pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"]),
    )


@pytest.fixture(scope="session")
def bare() -> Analysis:
    """What is known of a made-up close-up, 400 px: an oval of skin with holes for eyes and mouth, no lesions."""
    side = 400
    y, x = (np.mgrid[:side, :side] + 0.5) / side

    def oval(u, v, a, b):
        return ((x - u) / a) ** 2 + ((y - v) / b) ** 2 < 1

    skin = oval(0.5, 0.53, 0.37, 0.49) & ~oval(0.36, 0.38, 0.12, 0.08) & ~oval(0.66, 0.38, 0.12, 0.08)
    skin &= ~oval(0.5, 0.80, 0.14, 0.06)
    return Analysis(
        skin=skin.astype(np.float32),
        face=None,
        lesions=np.zeros((0, 4), np.float32),
        lesions_from="boxes",
        illumination=np.ones((side, side), np.float32),
        light=np.array((0.0, -0.5), np.float32),
        tone=Tone(40.0, 3),
        colour=np.array((0.67, 0.386, 0.238), np.float32),
        scale=float(side),
        grain=1.0,
        blurs=np.zeros((0, 3), np.float32),
    )
