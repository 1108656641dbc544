"""Figures of graders: their scores, what tells arms apart, whether their probabilities can be believed, their curves.

Numbers in, a matplotlib Figure out, as in `plots`. A study of one backbone is one panel, of several a panel each.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acne_lab.report.plots import (
    INK,
    MUTED,
    RULE,
    SERIES,
    STYLE,
    canvas,
    dot_if_single,
    legend_below,
    plain,
    ramp,
)

LABEL_WIDTH = 26  # letters of a line
_SMALL = {**STYLE, "axes.grid": False, "axes.titlesize": 8, "font.size": 7.5}

# Name of the arm; (mean confidence, share of right grades, share of the images) of each bin; what stands in the panel.
Reliability = tuple[str, Sequence[tuple[float, float, float]], str]


class Row(NamedTuple):
    """A mean and how far it may be off.

    Args:
        name: of the arm.
        mean: over the seeds.
        by_seed: value of every seed.
        half_width: of the interval over seeds; None of one seed.
        people: interval over people; None without.
        verdict: "better", "worse" or anything else.
        recall: {severity: recall in [0, 1] or None}.
    """

    name: str
    mean: float
    by_seed: Sequence[float] = ()
    half_width: float | None = None
    people: tuple[float, float] | None = None
    verdict: str = ""
    recall: Mapping[str, float | None] = {}


def arms_figure(panels: Mapping[str, Sequence[Row]], *, classes: Sequence[str]) -> Figure:
    """Balanced accuracy of each arm, in [0, 1], beside the recalls it is the mean of. First row on top."""
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, cells = _panels(panels, row=0.44)
        shifts = np.linspace(0.2, -0.2, len(classes))  # equal recalls must not hide each other
        for axes, rows in zip(cells, panels.values()):
            heights = np.arange(len(rows))[::-1]
            for name, colour, shift in zip(classes, ramp(len(classes)), shifts):
                values = [np.nan if row.recall.get(name) is None else row.recall[name] for row in rows]
                axes.plot(values, heights + shift, "o", color=colour, markersize=4.5, label=f"recall {plain(name)}")
            _intervals(axes, heights, rows, colours=[MUTED] * len(rows))
            means = [row.mean for row in rows]
            axes.plot(means, heights, "|", color=INK, markersize=21, markeredgewidth=2.4, label="balanced accuracy")
            if classes:
                axes.axvline(1 / len(classes), color=MUTED, linewidth=1, linestyle=(0, (3, 3)), label="chance")
            axes.set_xlim(-0.015, 1.015)
        legend_below(figure, cells[0], columns=5)
        return figure


def differences_figure(panels: Mapping[str, Sequence[Row]], *, label: str) -> Figure:
    """Differences to one arm, in points, by their verdict in green, orange and grey. First row on top."""
    colours = {"better": SERIES[2], "worse": SERIES[1]}
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, cells = _panels(panels, row=0.34)
        for axes, rows in zip(cells, panels.values()):
            heights = np.arange(len(rows))[::-1]
            axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
            of_rows = [colours.get(row.verdict, MUTED) for row in rows]
            _intervals(axes, heights, rows, colours=of_rows)
            for row, height, colour in zip(rows, heights, of_rows):
                axes.plot(
                    row.mean, height, "|", color=INK if colour is MUTED else colour, markersize=14, markeredgewidth=2.6
                )
        low, high = _span([row for rows in panels.values() for row in rows])
        for axes in cells:
            axes.set_xlim(low, high)
        for axes in _lowest(cells, len(panels)):
            axes.set_xlabel(label)
        is_one_seed = {row.verdict for rows in panels.values() for row in rows} == {"one seed"}
        shown = {"one seed": MUTED} if is_one_seed else {**colours, "not told apart": MUTED}
        for name, colour in shown.items():
            cells[0].plot(
                [], [], "|", color=INK if colour is MUTED else colour, markersize=12, markeredgewidth=2.6, label=name
            )
        legend_below(figure, cells[0], columns=6)
        return figure


def _intervals(axes: Axes, heights: np.ndarray, rows: Sequence[Row], *, colours: Sequence[str]) -> None:
    """Of every row the interval over people as a band, the one over seeds as a line, each seed as a dot."""
    words = {"people": "95 % over people", "seeds": "95 % over seeds", "dot": "one seed"}
    for row, height, colour in zip(rows, heights, colours):
        if row.people is not None:
            axes.plot(
                row.people, [height, height], color=colour, linewidth=9, alpha=0.22, label=words.pop("people", None)
            )
        if row.half_width is not None:
            ends = [row.mean - row.half_width, row.mean + row.half_width]
            axes.plot(ends, [height, height], color=colour, linewidth=1.7, label=words.pop("seeds", None))
        if len(row.by_seed) > 1:
            dots = {"color": SERIES[0], "markersize": 3.6, "markeredgewidth": 0, "zorder": 3}
            axes.plot(row.by_seed, [height] * len(row.by_seed), "o", label=words.pop("dot", None), **dots)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(heights, [_wrapped(row.name) for row in rows])
    axes.tick_params(axis="y", labelcolor=INK)


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    """Limits that hold every mean, seed and 0; of intervals only what is not far away, as that of two seeds is."""
    points = np.array([0.0, *(value for row in rows for value in (row.mean, *row.by_seed, *(row.people or ())))])
    low, high = points.min(), points.max()
    reach = 0.4 * max(high - low, 1e-9)
    ends = [row.mean + side * row.half_width for row in rows if row.half_width is not None for side in (-1, 1)]
    low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def reliability_figure(cells: Sequence[Reliability], *, columns: int = 5) -> Figure:
    """How often the grade is right against how sure the grader was: a small panel each, in rows."""
    rows = -(-len(cells) // columns)
    with rc_context(_SMALL):
        figure, axes = canvas(rows=rows, columns=columns, height=0.4 + 2.25 * rows)
        for place, cell in zip(axes, cells):
            _draw_reliability(place, cell)
            place.set_title(_wrapped(cell[0], 28), loc="left")
        for place in axes[len(cells) :]:
            place.remove()
        _label_reliability(figure, axes[: len(cells)], columns)
        return figure


def reliability_matrix(groups: Mapping[str, Sequence[Reliability]]) -> Figure:
    """The same, a row of panels for each backbone and a column for each arm."""
    names = list(dict.fromkeys(name for cells in groups.values() for name, _, _ in cells))
    with rc_context({**_SMALL, "font.size": 6.5, "axes.titlesize": 6.5}):
        columns = len(names)
        figure, axes = canvas(rows=len(groups), columns=columns, height=1.1 + len(groups) * (0.25 + 8.2 / columns))
        for row, (group, cells) in enumerate(groups.items()):
            by_name = {cell[0]: cell for cell in cells}
            for column, name in enumerate(names):
                place = axes[row * columns + column]
                if row == 0:
                    place.set_title(_wrapped(name, 14), loc="left")
                if column == 0:
                    place.set_ylabel(_wrapped(group.replace("_", " "), 16).replace("\\ ", "_"), color=INK)
                if name in by_name:
                    _draw_reliability(place, by_name[name])
                else:
                    place.axis("off")
        _label_reliability(figure, axes, columns)
        return figure


def _draw_reliability(axes: Axes, cell: Reliability) -> None:
    _, bins, note = cell
    confidence, right, share = np.array(bins).reshape(-1, 3).T
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    axes.vlines(confidence, confidence, right, color=SERIES[1], linewidth=1.1, alpha=0.8)
    axes.plot(confidence, right, color=SERIES[0], linewidth=1)
    axes.scatter(confidence, right, s=3 + 60 * share, color=SERIES[0], linewidths=0)
    axes.annotate(note, (1.02, -0.01), color=MUTED, ha="right", va="bottom")
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def _label_reliability(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Numbers at the left and at the bottom only."""
    for index, place in enumerate(axes):
        if not place.axison:
            continue
        place.set_xticklabels(("0", "", "1") if index + columns >= len(axes) else ())
        place.set_yticklabels(("0", "", "1") if index % columns == 0 else ())
    figure.supxlabel("how sure the grader was", color=MUTED, fontsize=8.5)
    figure.supylabel("share of right grades", color=MUTED, fontsize=8.5)


def grader_figure(curves: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Training curves of all graders ({name: metrics.csv}) against epochs; None where none has any."""
    panels = (
        ("Training loss", "train/loss"),
        ("Validation loss", "val/loss"),
        ("Validation balanced accuracy", "val/balanced_accuracy"),
    )
    panels = [panel for panel in panels if any(panel[1] in frame and "epoch" in frame for frame in curves.values())]
    if not panels:
        return None
    with rc_context(STYLE):
        figure, cells = canvas(rows=1, columns=len(panels), height=2.6)
        for axes, (title, column) in zip(cells, panels):
            _draw_curves(axes, curves, column)
            axes.set_title(title)
            axes.set_xlabel("epoch")
        legend_below(figure, cells[0], columns=min(4, len(curves)))
        return figure


def validation_figure(groups: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure | None:
    """Validation balanced accuracy against epochs: {backbone: {arm: metrics.csv}}, a panel each with a line each."""
    column = "val/balanced_accuracy"
    groups = {name: {arm: frame for arm, frame in arms.items() if column in frame} for name, arms in groups.items()}
    groups = {name: arms for name, arms in groups.items() if arms}
    if not groups:
        return None
    with rc_context(STYLE):
        across = min(4, len(groups))
        down = -(-len(groups) // across)
        names = list(dict.fromkeys(arm for arms in groups.values() for arm in arms))
        figure, cells = canvas(rows=down, columns=across, height=0.7 + 2.1 * down)
        for axes, (name, arms) in zip(cells, groups.items()):
            _draw_curves(axes, arms, column, order=names)
            axes.set_title(plain(name))
        for axes in cells[len(groups) :]:
            axes.remove()
        for axes in _lowest(cells, len(groups), across):
            axes.set_xlabel("epoch")
        fullest = max(range(len(groups)), key=lambda i: len(list(groups.values())[i]))
        legend_below(figure, cells[fullest], columns=3)
        return figure


def _draw_curves(
    axes: Axes, curves: Mapping[str, pd.DataFrame], column: str, *, order: Sequence[str] | None = None
) -> None:
    """One line a name; the same name has the same line in every panel that has the same `order`."""
    order = list(curves) if order is None else order
    for name, frame in curves.items():
        if column in frame and "epoch" in frame:
            index = order.index(name)
            known = frame[["epoch", column]].dropna()
            style = ("-", "--", ":")[index // len(SERIES) % 3]
            colour = SERIES[index % len(SERIES)]
            line = {"color": colour, "linestyle": style, "label": plain(name), **dot_if_single(known)}
            axes.plot(known["epoch"], known[column], **line)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if column == "val/balanced_accuracy":
        axes.set_ylim(-0.02, 1.02)


def _panels(panels: Mapping[str, Sequence[Row]], *, row: float) -> tuple[Figure, list[Axes]]:
    """A figure with a titled panel for each; several stand two abreast."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    longest = max(len(rows) for rows in panels.values())
    figure, cells = canvas(rows=lines, columns=columns, height=0.6 + lines * (0.4 + row * longest))
    for axes in cells[len(panels) :]:
        axes.remove()
    for axes, name in zip(cells, panels):
        axes.set_title(plain(name) if name else "")
    return figure, cells[: len(panels)]


def _lowest(cells: Sequence[Axes], number: int, columns: int = 2) -> Sequence[Axes]:
    """The last panel of every column."""
    return cells[max(0, number - columns) : number]


def _wrapped(name: str, width: int = LABEL_WIDTH) -> str:
    return "\n".join(textwrap.wrap(plain(name), width)) or "unnamed"
