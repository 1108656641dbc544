"""Figures of the report: numbers and pictures in, a matplotlib Figure or an image out. No file is read here.

A figure is drawn once, in the light colours of the palette. For the page `inline_svg` turns each colour into
a CSS variable, so the drawing follows the reader's light or dark theme; for report.md `png` keeps them.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

# CSS variable: (light, dark). Light colours must be distinct: by them the SVG is recoloured.
# The six series keep apart for the common kinds of colour blindness; the ramp runs from mild to very severe.
PALETTE = {
    "ink": ("#1d2329", "#e4e7ea"),
    "muted": ("#68717b", "#98a1ab"),
    "rule": ("#dde1e5", "#333a42"),
    "series-1": ("#2f6f9f", "#6fb1e0"),
    "series-2": ("#c4622d", "#ee9a67"),
    "series-3": ("#3d8b62", "#6cc796"),
    "series-4": ("#8a5a9e", "#c396d6"),
    "series-5": ("#a8852a", "#d9b95c"),
    "series-6": ("#57606b", "#aab4bf"),
    "ramp-1": ("#dfa94b", "#f2c879"),
    "ramp-2": ("#d67f45", "#ee9d68"),
    "ramp-3": ("#c0504a", "#e2736b"),
    "ramp-4": ("#97304f", "#d0537a"),
    "ramp-5": ("#651d4c", "#ab4a92"),
}
INK, MUTED, RULE = (PALETTE[name][0] for name in ("ink", "muted", "rule"))
SERIES = [light for name, (light, _) in PALETTE.items() if name.startswith("series")]
RAMP = [light for name, (light, _) in PALETTE.items() if name.startswith("ramp")]

TALLEST = 9  # points, of a marker in a legend
WIDTH = 9.6  # inches; at the page's 960 px a point is 1.39 px
STYLE = {
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "figure.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched and read aloud
}

_GAN_PANELS = (
    # title, {column: label}, what the axis shows at least
    ("Loss", {"loss/G": "generator", "loss/D": "discriminator"}, None),
    ("Discriminator score", {"score/real": "real", "score/fake": "generated"}, None),
    ("Regularisation (log)", {"loss/r1": "R1", "loss/path_length": "path length"}, None),
    ("ADA: augmentation probability p", {"ada/p": "p"}, (0, 1)),
    ("ADA: overfitting signal r_t", {"ada/r_t": "r_t"}, (0, 1)),
    ("Seconds per kimg", {"speed/s_per_kimg": "s/kimg"}, None),
)


def ramp(num_classes: int) -> list[str]:
    """`num_classes` colours from mild to very severe; beyond five classes neighbours share one."""
    return [RAMP[round(index)] for index in np.linspace(0, min(num_classes, len(RAMP)) - 1, num_classes)]


def look(num_classes: int) -> dict:
    """What every page's template needs of colours: the palette, and which of it each severity has, mild first."""
    return {"palette": PALETTE, "ramp": [f"ramp-{RAMP.index(colour) + 1}" for colour in ramp(num_classes)]}


def gan_figure(curves: pd.DataFrame) -> Figure | None:
    """Training curves of one GAN against thousands of images seen; None where `curves` has none of them."""
    panels = [
        (
            title,
            {column: label for column, label in names.items() if column in curves and curves[column].notna().any()},
            span,
        )
        for title, names, span in _GAN_PANELS
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels or "images_seen" not in curves:
        return None
    rows = -(-len(panels) // 3)
    with rc_context(STYLE):
        figure, cells = canvas(rows=rows, columns=3, height=2.15 * rows)
        for axes, (title, names, span) in zip(cells, panels):
            for (column, label), colour in zip(names.items(), SERIES):
                known = curves[["images_seen", column]].dropna()
                axes.plot(
                    known["images_seen"] / 1000,
                    known[column],
                    color=colour,
                    label=label,
                    **dot_if_single(known),
                )
            axes.set_title(title)
            if "(log)" in title and (curves[list(names)].max() > 0).all():
                axes.set_yscale("log")
            if span is not None:
                low, high = axes.get_ylim()
                axes.set_ylim(min(low, span[0] - 0.04), max(high, span[1] + 0.04))
            if len(names) > 1:
                axes.legend(loc="best")
        for axes in cells[len(panels) :]:
            axes.remove()
        for axes in cells[max(0, len(panels) - 3) : len(panels)]:
            axes.set_xlabel("thousand images seen (kimg)")
        return figure


def realism_figure(areas: Mapping[str, Mapping[str, float]], scores: Mapping[str, np.ndarray]) -> Figure:
    """Areas under ROC curves (value, low, high) by name, controls muted, beside histograms of scores by set."""
    with rc_context(STYLE):
        figure, (left, right) = canvas(rows=1, columns=2, height=2.5)
        heights = np.arange(len(areas))[::-1]
        for height, area, colour in zip(heights, areas.values(), (SERIES[1], *(len(areas) - 1) * [MUTED])):
            left.plot([area["low"], area["high"]], [height, height], color=colour, linewidth=2.4)
            left.plot(area["value"], height, "o", color=colour, markersize=7)
        left.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        left.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(areas) - 0.3), title="AUC; 0.5 is a coin")
        left.set_yticks(heights, [plain(name) for name in areas])
        left.tick_params(axis="y", labelcolor=INK)
        left.grid(visible=False)
        low, high = np.percentile(np.concatenate(list(scores.values())), (0.5, 99.5))
        bins = np.linspace(low, max(high, low + 1e-6), 31)
        for (name, values), colour in zip(scores.items(), (SERIES[0], SERIES[1])):
            weights = np.full(len(values), 1 / max(len(values), 1))
            clipped = np.clip(values, low, high)
            right.hist(clipped, bins=bins, weights=weights, histtype="stepfilled", color=colour, alpha=0.28)
            right.hist(clipped, bins=bins, weights=weights, histtype="step", color=colour, linewidth=1.4, label=name)
        right.set(title="The classifier's score of each lesion", xlabel="looks real   ···   looks edited", yticks=[])
        right.set_ylim(top=1.3 * right.get_ylim()[1])  # room for the legend
        right.legend(loc="upper left", ncols=2)
        return figure


def counts_figure(counts: pd.DataFrame) -> Figure:
    """Images of each severity (rows, first on top), in parts (columns): shades of the severity's colour."""
    parts = list(counts.columns)
    shades = np.linspace(1, 0.32, len(parts)) if len(parts) > 1 else [1.0]
    with rc_context({**STYLE, "axes.grid": False}):
        figure, (axes,) = canvas(rows=1, columns=1, height=0.62 + 0.36 * len(counts), width=0.55 * WIDTH)
        heights = np.arange(len(counts))[::-1]
        start = np.zeros(len(counts))
        for part, shade in zip(parts, shades):
            values = counts[part].to_numpy()
            axes.barh(heights, values, left=start, height=0.62, color=ramp(len(counts)), alpha=shade)
            if len(parts) > 1:
                axes.barh(0, 0, color=MUTED, alpha=shade, label=plain(str(part)))
            start = start + values
        for height, total in zip(heights, start):
            share = f"{100 * total / max(start.sum(), 1):.1f} %"
            axes.annotate(
                f"{total:,.0f}  ({share})",
                (total, height),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=MUTED,
            )
        axes.set(xlim=(0, 1.22 * max(start.max(), 1)), ylim=(-0.6, len(counts) - 0.4))
        axes.set_yticks(heights, [plain(str(name)) for name in counts.index])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        if len(parts) > 1:
            legend_below(figure, axes, columns=len(parts))
        return figure


def subjects_figure(num_images: Sequence[int], confidence: Sequence[float] | None = None) -> Figure | None:
    """How many images the subjects have, and how sure it is who is on an image.

    Args:
        num_images: of each subject.
        confidence: of each image, in [0, 1]; None: not known.

    Returns:
        None where every subject has one image and no confidence is known.
    """
    if max(num_images, default=0) <= 1 and confidence is None:
        return None
    with rc_context(STYLE):
        figure, cells = canvas(rows=1, columns=1 if confidence is None else 2, height=2.3)
        largest = 10
        sizes = np.minimum(np.asarray(num_images, dtype=int), largest)
        present = np.arange(1, max(4, sizes.max(initial=1)) + 1)
        numbers = [int((sizes == size).sum()) for size in present]
        cells[0].bar(present, numbers, width=0.7, color=SERIES[0])
        for size, number in zip(present, numbers):
            if number:
                cells[0].annotate(
                    f"{number:,}", (size, number), (0, 3), textcoords="offset points", ha="center", color=MUTED
                )
        cells[0].set_xticks(present, [f"{size}+" if size == largest else str(size) for size in present])
        cells[0].set(title="Subjects by their number of images", xlabel="images of one subject")
        cells[0].margins(y=0.14)
        if confidence is not None:
            cells[1].hist(confidence, bins=np.linspace(0, 1, 21), color=SERIES[0], rwidth=0.86)
            cells[1].set(title="Images by subject confidence", xlabel="confidence, 0 to 1", xlim=(-0.01, 1.01))
        return figure


def lesions_figure(
    sizes: Sequence[float],
    numbers: Mapping[str, Sequence[int]],
    *,
    reference: tuple[float, float, str],
) -> Figure | None:
    """Sizes of the lesions, and how many an image has.

    Args:
        sizes: diameters in short sides of their photographs.
        numbers: severity -> lesions of each of its images.
        reference: mean and standard deviation of the logarithm of another set's sizes, and that set's name.

    Returns:
        None where neither is known.
    """
    sizes = np.asarray(sizes, dtype=float)
    numbers = {name: np.asarray(counts, dtype=int) for name, counts in numbers.items()}
    counted = any(len(counts) for counts in numbers.values())
    if not (len(sizes) or counted):
        return None
    with rc_context(STYLE):
        figure, cells = canvas(rows=1, columns=2 if len(sizes) and counted else 1, height=2.75)
        if len(sizes):
            _draw_sizes(cells[0], sizes, reference)
        if counted:
            _draw_numbers(cells[-1], numbers)
        return figure


def _draw_sizes(axes: Axes, sizes: np.ndarray, reference: tuple[float, float, str]) -> None:
    mu, sigma, name = reference
    low = min(np.quantile(sizes, 0.002), np.exp(mu - 2.8 * sigma))
    high = max(np.quantile(sizes, 0.998), np.exp(mu + 3.2 * sigma))
    edges = np.geomspace(low, high, 41)
    shares, _ = np.histogram(sizes, edges)
    width = np.log(edges[1] / edges[0])
    axes.bar(edges[:-1], 100 * shares / len(sizes), np.diff(edges) * 0.92, align="edge", color=SERIES[0], label="here")
    x = np.geomspace(low, high, 200)
    density = np.exp(-((np.log(x) - mu) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    axes.plot(x, 100 * density * width, color=SERIES[1], label=name)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(title="Lesion size (log)", xlabel="diameter, in short sides of the photograph", xlim=(low, high))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.legend(loc="best")


def _draw_numbers(axes: Axes, numbers: Mapping[str, np.ndarray]) -> None:
    largest = max(counts.max(initial=0) for counts in numbers.values())
    step = largest // 66 + 1  # a bar for each number, up to ACNE04's largest
    edges = np.arange(0, largest + step + 1, step) - 0.5
    heights, below = [np.histogram(counts, edges)[0] for counts in numbers.values()], np.zeros(len(edges) - 1)
    for name, height, colour in zip(numbers, heights, ramp(len(numbers))):
        axes.bar(edges[:-1], height, step * 0.9, bottom=below, align="edge", color=colour, label=plain(name))
        below = below + height
    axes.set(title="Images by their number of lesions", xlabel="lesions on an image", xlim=(edges[0] - 0.5, edges[-1]))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right")


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """The figure as an <svg> element for the page: theme colours, the page's font, words for a screen reader.

    `name` keeps the ids of several drawings in one page apart, and makes the same drawing the same text.
    `description` must be escaped for HTML already.
    """
    text = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=metadata, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<style [^>]*>.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # matplotlib names its groups (figure_1, axes_1, ...) and refers only to clip paths and markers.
    svg = re.sub(r'(<g\b[^>]*?) id="[^"]*"', r"\1", svg)
    for variable, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg class="plot" role="img" aria-label="{description}" {box.group()} xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]


def png(figure: Figure) -> bytes:
    """The figure on white, 144 dots an inch."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def thumbnail(image: Image.Image, *, side: int) -> Image.Image:
    """The middle square of a photograph, at most `side` pixels wide, upright; never enlarged."""
    if image.format == "JPEG":
        image.draft("RGB", (side, side))  # decodes a 12-megapixel photograph at the size we need
    upright = ImageOps.exif_transpose(image).convert("RGB")
    side = min(side, *upright.size)
    return ImageOps.fit(upright, (side, side), method=Image.Resampling.LANCZOS)


def shrunk(image: Image.Image, *, width: int) -> Image.Image:
    """The image at most `width` pixels wide, in its proportions."""
    height = round(image.height * width / image.width)
    return (image.resize((width, height), Image.Resampling.LANCZOS) if image.width > width else image).convert("RGB")


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    side: int,
    gap: int = 4,
    title: str = "",
    captions: Sequence[Sequence[str]] = (),
    row_labels: Sequence[str] = (),
) -> Image.Image:
    """Rows of thumbnails on white, each scaled to `side` pixels.

    Args:
        rows: pictures of any mode; transparent parts become white, None leaves a place empty.
        side: of a thumbnail, in pixels.
        gap: between thumbnails, in pixels.
        title: what stands above them all, in as many lines as it needs.
        captions: what stands above the pictures of the first, second, ... row; a row without any needs no space.
        row_labels: what stands on the left of each row.
    """
    font = ImageFont.load_default(size=max(12, side // 14))
    line = round(1.6 * font.size)
    left = max((round(font.getlength(label)) + line for label in row_labels), default=0)
    above = [line if any(row) else 0 for row in captions] + [0] * (len(rows) - len(captions))
    columns = max(len(row) for row in rows)
    width = left + columns * (side + gap) - gap
    heading = _wrapped(title, font, width - line)
    height = len(heading) * line + sum(above) + len(rows) * (side + gap) - gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for y, text in enumerate(heading):
        draw.text((line / 2, (y + 0.5) * line), text, fill=INK, font=font, anchor="lm")
    top = len(heading) * line
    for y, row in enumerate(rows):
        for x, caption in enumerate(captions[y] if above[y] else ()):
            middle = (left + x * (side + gap) + side / 2, top + line / 2)
            draw.text(middle, caption, fill=INK, font=font, anchor="mm")
        top += above[y]
        if row_labels:
            draw.text((line / 2, top + side / 2), row_labels[y], fill=INK, font=font, anchor="lm")
        for x, image in enumerate(row):
            if image is not None:
                small = image.resize((side, side), Image.Resampling.LANCZOS)
                mask = small if small.mode == "RGBA" else None
                sheet.paste(small, (left + x * (side + gap), top), mask)
        top += side + gap
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines of `width` pixels, broken at spaces and behind / and -, which names of runs have."""
    lines: list[str] = []
    for piece in re.findall(r".+?(?:[/-]|\s+|$)", text):
        if lines and font.getlength((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return lines


def projection_figure(curve: pd.DataFrame) -> Figure:
    """Distance to the photograph at each step of a projection (columns step and distance)."""
    with rc_context(STYLE):
        figure, (axes,) = canvas(rows=1, columns=1, height=2.6)
        axes.plot(curve["step"], curve["distance"], color=SERIES[0], **dot_if_single(curve))
        axes.set(title="Perceptual distance to the photograph", xlabel="step")
        axes.set_ylim(bottom=0)
        return figure


def encoded(image: Image.Image) -> tuple[str, bytes]:
    """(media type, bytes): PNG for a small image, whose every pixel matters, JPEG for the others."""
    small = image.width * image.height <= 96 * 96
    data = io.BytesIO()
    if small:
        image.save(data, "PNG", optimize=True)
    else:
        image.save(data, "JPEG", quality=86, optimize=True)
    return ("image/png" if small else "image/jpeg"), data.getvalue()


def data_uri(image: Image.Image) -> str:
    """The image as a data: address, for the src of an <img>."""
    media_type, data = encoded(image)
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def canvas(*, rows: int, columns: int, height: float, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot, which keeps every figure alive until someone closes it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.6)
    for line in legend.get_lines():  # what stands over several rows of a figure has one row in the legend
        line.set_markersize(min(line.get_markersize(), TALLEST))


def dot_if_single(points: pd.DataFrame) -> dict:
    """A line through one point is invisible."""
    return {"marker": "o", "markersize": 4} if len(points) == 1 else {}


def plain(name: str) -> str:
    """A name from a file, drawn as it is: $ would start mathematics, a leading _ hides it from a legend."""
    return name.replace("$", r"\$").lstrip("_").strip() or "unnamed"
