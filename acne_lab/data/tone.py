"""How light the skin of a face is: the individual typology angle of its cheeks.

A photograph's colours are those of its lamp and its camera too: the angle sorts the people of one set from light to
dark, and is no measurement of anybody's skin.
"""

import numpy as np
from PIL import Image, ImageDraw

from acne_lab.colour import LINEAR, lab_of_light, typology_angle
from acne_lab.data.faces import Face

# Corners of a cheek among the 68 landmarks: jaw beside the ear and the mouth, corner of the mouth, wing of the nose,
# lower lid. Lips, nose and eyes stay outside.
CHEEKS = ((2, 4, 48, 31, 41), (14, 12, 54, 35, 46))
MIN_PIXELS = 50  # of both cheeks together, within the photograph
WELL_LIT = (0.5, 0.9)  # quantiles of luminance: neither in shadow (nor a beard), nor shining


def cheek_angle(photo: np.ndarray, face: Face) -> float | None:
    """Degrees, 90 palest to -90 darkest, of a face on a photograph uint8 [H, W, 3]; None: no cheek is."""
    mask = Image.new("L", photo.shape[1::-1])
    for corners in CHEEKS:
        points = face.landmarks[list(corners)]
        inwards = points.mean(axis=0) + 0.8 * (points - points.mean(axis=0))  # landmarks lie on edges
        ImageDraw.Draw(mask).polygon([tuple(point) for point in inwards.tolist()], fill=255)
    light = LINEAR[photo[np.asarray(mask) > 0]]
    if len(light) < MIN_PIXELS:
        return None
    luminance = light @ np.array((0.2126, 0.7152, 0.0722), np.float32)
    low, high = np.quantile(luminance, WELL_LIT)
    skin = np.median(light[(luminance >= low) & (luminance <= high)], axis=0)
    return round(typology_angle(lab_of_light(skin)), 1)
