"""An attribution on the page: the photograph in gray with colour where it lies, and how much of it lies on lesions."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from acne_lab.report.plots import INK, MUTED, SERIES, STYLE, canvas, legend_below, plain

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


def rates_figure(groups: Mapping[str, Mapping]) -> Figure:
    """Hit rates (times of chance) and pointing rates by group of photographs, first on top, beside two controls.

    Each group has the figures of `acne_lab.jobs.explain`: value, low and high (None: no interval) by name.
    """
    series = (("", SERIES[1], "o", "these lesions"), ("_elsewhere", MUTED, "D", "lesions of other people"))
    series += (("_random", SERIES[0], "s", "random weights"),)
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, (left, right) = canvas(rows=1, columns=2, height=0.9 + 0.4 * len(groups))
        heights = np.arange(len(groups))[::-1]
        for axes, name, scale in ((left, "hit_rate", 1), (right, "pointing", 100)):
            for (control, colour, marker, label), shift in zip(series, (0.2, 0.0, -0.2)):
                for height, each in zip(heights + shift, groups.values()):
                    if (known := each.get(name + control)) is None:
                        continue
                    if known["low"] is not None:
                        ends = [scale * known["low"], scale * known["high"]]
                        axes.plot(ends, [height, height], color=colour, linewidth=1.8)
                    axes.plot(scale * known["value"], height, marker, color=colour, markersize=5.5, label=label)
                    label = None
            axes.set(ylim=(-0.6, len(groups) - 0.4))
            axes.tick_params(axis="y", labelcolor=INK)
        left.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        left.set(title="Heat on lesions; 1 is chance")
        left.set_xlim(left=0)
        left.set_yticks(heights, [plain(name) for name in groups])
        chance = [100 * each["area"] for each in groups.values()]
        right.plot(chance, heights, "|", color=INK, markersize=15, label="chance")
        right.set(title="Strongest place on a lesion, %", xlim=(-2, 102))
        right.set_yticks(heights, [])
        legend_below(figure, right, columns=4)
        return figure
