"""Pictures of an attribution: the photograph in gray, the attribution as colour on it, lesions outlined."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

COLOURS = colormaps["inferno"]
FINE = 3  # times as large an outline is drawn, and then reduced: Pillow draws no smooth ones
RIM = 0.25  # of a lesion's width, from its box to its outline
ARM = 7  # px of the cross on the highest place
LESION, PLACE = (120, 235, 255), (255, 255, 255)


def heat_picture(
    photo: np.ndarray, attribution: np.ndarray | None, boxes: np.ndarray, *, side: int, peak: bool = True
) -> Image.Image:
    """A photograph with an attribution and lesions drawn on it.

    Args:
        photo: uint8 [S, S, 3].
        attribution: float [H, W] >= 0, on the same square; its highest value is the brightest, whatever it is. None:
            the photograph stays in colour.
        boxes: float [N, 4], x0 y0 x1 y1 of the lesions in sides of the square; each is outlined a little outside.
        side: of the picture in px.
        peak: mark the highest place with a cross.
    """
    large = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    shows = attribution is not None and attribution.max() > 0
    if attribution is not None:
        large = np.repeat(0.62 * (large @ np.float32([0.299, 0.587, 0.114]))[..., None], 3, axis=2)
    if shows:
        heat = Image.fromarray((attribution / attribution.max()).astype(np.float32))
        heat = np.clip(np.asarray(heat.resize((side, side), Image.Resampling.BILINEAR)), 0, 1)
        opacity = (0.9 * heat**0.7)[..., None]
        large = (1 - opacity) * large + opacity * 255 * COLOURS(0.3 + 0.65 * heat)[..., :3]
    picture = Image.fromarray(np.clip(large, 0, 255).astype(np.uint8))
    if len(boxes):
        outlines = Image.new("L", (FINE * side, FINE * side))
        draw = ImageDraw.Draw(outlines)
        for x0, y0, x1, y1 in np.asarray(boxes) * FINE * side:
            rim = RIM * max(x1 - x0, y1 - y0) + 2 * FINE
            draw.ellipse((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline=235, width=round(1.3 * FINE))
        picture.paste(LESION, mask=outlines.reduce(FINE))
    if shows and peak:
        row, column = np.unravel_index(attribution.argmax(), attribution.shape)
        x, y = (round((k + 0.5) / n * side) for k, n in zip((column, row), attribution.shape[::-1]))
        for dx, dy in ((0, ARM), (ARM, 0)):
            ImageDraw.Draw(picture).line([(x - dx, y - dy), (x + dx, y + dy)], fill=PLACE, width=2)
    return picture
