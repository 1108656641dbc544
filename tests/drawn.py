"""Drawn faces, one at a time and with their boxes."""

import numpy as np

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
