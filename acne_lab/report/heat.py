"""Pictures of an attribution: the photograph in gray, the attribution as colour on it, lesions outlined."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

COLOURS = colormaps["inferno"]
WIDTH = 4  # times as large an outline is drawn, and then reduced: Pillow draws no smooth ones
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
    marks = Image.new("RGBA", (WIDTH * side, WIDTH * side))
    draw = ImageDraw.Draw(marks)
    for x0, y0, x1, y1 in np.asarray(boxes).reshape(-1, 4) * WIDTH * side:
        rim = 0.25 * max(x1 - x0, y1 - y0) + 2 * WIDTH
        draw.ellipse((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline=(*LESION, 235), width=round(1.3 * WIDTH))
    if shows and peak:
        row, column = np.unravel_index(attribution.argmax(), attribution.shape)
        x, y = ((k + 0.5) / n * WIDTH * side for k, n in zip((column, row), attribution.shape[::-1]))
        for arm in ((0, 7), (7, 0)):
            line = [(x - arm[0] * WIDTH, y - arm[1] * WIDTH), (x + arm[0] * WIDTH, y + arm[1] * WIDTH)]
            draw.line(line, fill=(*PLACE, 255), width=round(1.6 * WIDTH))
    marks = marks.resize((side, side), Image.Resampling.BOX)
    picture.paste(marks, mask=marks)
    return picture
