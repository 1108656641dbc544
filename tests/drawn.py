"""Drawn faces, one at a time and with their boxes."""

import numpy as np

from acne_lab.data import portrait
from acne_lab.data.portrait import render_photo
from acne_lab.data.toy import Shot, lesion_boxes, sample_person, sample_photo


def person_of_tone(tone: int) -> int:
    for index in range(200):
        subject, _ = sample_person(5, index, 1.0)
        if abs(subject.tone - tone) < 0.3 and subject.hair.style not in ("bald", "fringe"):
            return index
    raise AssertionError(f"no person of tone {tone}")


def toy_photo(index: int, *, severity: int = 0, size: int = 512, lesion_scale: float = 1.0):
    """A drawn face, uint8 [size, size, 3], and the boxes of its lesions [N, 4]."""
    subject, places = sample_person(5, index, lesion_scale)
    photo = sample_photo(5, Shot(index, 0, severity), subject, places)
    return render_photo(subject, photo, size), np.array(lesion_boxes(subject, photo, size)).reshape(-1, 4)


LAYERS = (
    portrait.draw_background,
    portrait.draw_hair_behind,
    portrait.draw_neck_and_shoulders,
    portrait.draw_ears,
    portrait.draw_skin,
    portrait.draw_mouth,
    portrait.draw_nostrils,
    portrait.draw_eyes,
    portrait.draw_brows,
    portrait.draw_hair_in_front,
)  # in the order of `portrait.render_photo`
FACE, NECK = LAYERS.index(portrait.draw_skin), LAYERS.index(portrait.draw_neck_and_shoulders)
CLOTHES = len(LAYERS)


class LabelledScene(portrait.Scene):
    """A scene that also knows which of `LAYERS` each pixel shows, clothes apart."""

    def paint(self, colour, alpha, window=(slice(None), slice(None))):
        self.strokes += 1
        shown = CLOTHES if self.layer == NECK and self.strokes == 2 else self.layer
        self.shows[window][np.broadcast_to(alpha, self.shows[window].shape) > 0.5] = shown
        super().paint(colour, alpha, window)


def shown_layers(subject: portrait.Subject, photo: portrait.Photo, size: int) -> np.ndarray:
    """uint8 [size, size]: which of `LAYERS` each pixel shows, or `CLOTHES`."""
    scene = LabelledScene(subject, photo, size)
    scene.shows = np.zeros((size, size), np.uint8)
    for scene.layer, draw in enumerate(LAYERS):
        scene.strokes = 0
        draw(scene)
    return scene.shows
