"""The page of `acne-lab explain`: does a grader look at lesions, in figures with their controls, then in pictures.

Everything comes as plain numbers and pixels. The page does not know whether the grader needs what it looks at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from acne_lab.data.table import replace_text
from acne_lab.report import names, plots
from acne_lab.report.attribution import heat_picture, rates_figure
from acne_lab.report.parts import Drawing, Picture, as_drawing, counted, html_templates, slug

SIDE = 400  # px of a picture: twice what the page shows, for sharp screens
TITLES = ("photograph", "what raises the grade", "what speaks for its answer", "random weights: raises")
MAPS = ("severity", "prediction", "random")  # of the last three
OUTCOMES = {True: "graded right", False: "graded wrong"}

Figure = Mapping[str, float | None]  # value, low, high


@dataclass(frozen=True, eq=False)
class Shown:
    """One photograph of the page.

    Args:
        row: file_name, severity, predicted, confidence, right, and where lesions are located severity_inside,
            severity_pointed and area, see `acne_lab.metrics.attribution.Hits`.
        pixels: uint8 [S, S, 3], what the backbone sees.
        maps: by name of `MAPS`, float [H, W] >= 0.
        boxes: float [M, 4], the lesions in sides of the square; None: nobody has located them.
    """

    row: Mapping
    pixels: np.ndarray
    maps: Mapping[str, np.ndarray]
    boxes: np.ndarray | None

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """Those of `TITLES`."""
        boxes = np.empty((0, 4)) if self.boxes is None else self.boxes
        plain = heat_picture(self.pixels, None, boxes[:0], side=SIDE)
        return [plain, *(heat_picture(self.pixels, self.maps[name], boxes, side=SIDE) for name in MAPS)]


def write_explanation(folder: Path, metrics: dict, shown: Sequence[Shown]) -> Path:
    """Write `report.html` and `samples/*.png` into `folder` and return the page's path.

    Args:
        folder: of the run.
        metrics: its metrics.json, see `acne_lab.jobs.explain`.
        shown: the photographs of the page, in its order.
    """
    (folder / "samples").mkdir(exist_ok=True)
    blocks = []
    for severity in metrics["classes"]:
        for right, outcome in OUTCOMES.items():
            here = [each for each in shown if each.row["severity"] == severity and bool(each.row["right"]) == right]
            if not here:
                continue
            sheet = plots.contact_sheet(
                [each.pictures for each in here],
                side=SIDE,
                captions=[TITLES],
                title=f"{severity}, {outcome}",
            )
            sheet.save(folder / "samples" / f"{slug(severity)}_{'right' if right else 'wrong'}.png")
            blocks.append((severity, outcome, [(label(each.row), on_page(each)) for each in here]))
    facts = {
        "grader": metrics["grader"],
        "summary": summary(metrics),
        "tables": tables(metrics),
        "drawing": drawing(metrics),
        "slices": slice_rows(metrics["slices"]),
        "reading": reading(metrics),
        "blocks": blocks,
        "titles": TITLES,
        "classes": metrics["classes"],
        **plots.look(len(metrics["classes"])),
    }
    replace_text(folder / "report.html", html_templates().get_template("explain.html.j2").render(facts))
    return folder / "report.html"


def chosen_rows(rows: pd.DataFrame, num: int) -> list[int]:
    """Positions of the photographs on the page: of each severity `num` graded right and `num` not, evenly spread."""
    chosen = []
    for _, group in rows.groupby(["severity", "right"]):
        chosen += group.index[np.linspace(0, len(group) - 1, min(num, len(group))).round().astype(int)].tolist()
    return chosen


def on_page(each: Shown) -> list[Picture]:
    titles = (f"{each.row['file_name']}: {title}" for title in TITLES)
    return [Picture(picture, title) for picture, title in zip(each.pictures, titles)]


def label(row: Mapping) -> list[str]:
    """What stands beside a row of pictures."""
    lines = [f"{row['predicted']}, {row['confidence']:.2f}"]
    if not pd.isna(row["lesions"]):
        lines.append(counted(int(row["lesions"]), "lesion"))
    inside, area = row.get("severity_inside"), row.get("area")
    if inside is not None and not np.isnan(inside):
        lines += [
            f"hit rate {inside / area:.1f}",
            "cross on a lesion" if row["severity_pointed"] else "cross beside them",
        ]
    elif row.get("severity_inside") is not None and area is not None and not np.isnan(area):
        lines.append("nothing raises it")
    return lines


# ---- words and figures ------------------------------------------------------------------------------------------


def summary(metrics: dict) -> list[str]:
    """At most three lines: what was looked at, and the figures that matter most."""
    lines = [
        f"{metrics['grader']} ({metrics['backbone']}): {counted(metrics['num_images'], 'photograph')} of "
        f"{counted(metrics['num_subjects'], 'subject')} of the {metrics['split']} split, "
        f"{100 * metrics['num_right'] / metrics['num_images']:.0f} % graded right"
    ]
    if not metrics["explain"]:
        return [*lines, "nobody has located the lesions of these photographs: there are pictures, and no figures"]
    found = metrics["explain"]["severity"]["all"]
    if "hit_rate" in found:
        rates = {"": "hit_rate", "lesions of other people ": "hit_rate_elsewhere", "random weights ": "hit_rate_random"}
        told = [f"{words}{said(found[name])}" for words, name in rates.items() if name in found]
        lines.append(f"what raises the grade lies on lesions, in times of chance: {'; '.join(told)}")
        pointing = [f"{100 * found['pointing']['value']:.0f} % of photographs"]
        pointing += [f"by chance {100 * found['area']:.0f} %"]
        lines.append(f"its strongest place is on a lesion on {'; '.join(pointing)}")
    return lines


HEADS = ("photographs", "hit rate", "lesions of<br>other people", "beyond<br>these", "random<br>weights")
COLUMNS = ("hit_rate", "hit_rate_elsewhere", "beyond_elsewhere", "hit_rate_random")
POINTING_HEADS = ("strongest place<br>on a lesion", "of other<br>people", "random<br>weights", "chance")
POINTING = ("pointing", "pointing_elsewhere", "pointing_random")
QUESTIONS = {
    "severity": "What raises the grade",
    "prediction": "What speaks for the answer that it gives",
}


def tables(metrics: dict) -> list[dict]:
    """For each question a table with a row a group of photographs: (value, interval) of each figure."""
    found = []
    for score, title in QUESTIONS.items():
        groups = metrics["explain"].get(score, {})
        rows = []
        for group, figures in groups.items():
            cells = [(f"{figures['num_images']:,}", people(figures))]
            cells += [with_interval(figures.get(name), "{:.2f}") for name in COLUMNS]
            cells += [with_interval(figures.get(name), "{:.0%}") for name in POINTING]
            rows.append({"name": group_name(group), "cells": [*cells, (f"{figures['area']:.0%}", "")]})
        if rows:
            found.append({"title": title, "heads": HEADS + POINTING_HEADS, "rows": rows})
    return found


def slice_rows(slices: Sequence[Mapping]) -> list[dict]:
    """A row for each value of each slice: names, numbers, and (value, interval) of balanced accuracy."""
    rows = []
    for each in slices:
        figure = {"value": each["balanced_accuracy"]}
        figure |= {end: each[f"balanced_accuracy_{end}"] for end in ("low", "high")}
        name = names.SLICES[each["slice"]]
        rows.append(
            {
                "name": "" if rows and rows[-1]["slice"] == name else name,
                "slice": name,
                "value": each["value"],
                "photographs": (f"{each['num_images']:,}", counted(each["num_subjects"], "subject")),
                "classes": ", ".join(each["classes"]),
                "balanced_accuracy": with_interval(figure, "{:.2f}"),
                "accuracy": f"{each['accuracy']:.2f}",
                "mae_grade": f"{each['mae_grade']:.2f}",
            }
        )
    return rows


def people(figures: Mapping) -> str:
    silent = figures["num_silent"]
    return counted(figures["num_subjects"], "subject") + (f", {silent} without" if silent else "")


def group_name(group: str) -> str:
    return {"right": "graded right", "wrong": "graded wrong"}.get(group, group)


def with_interval(figure: Figure | None, form: str) -> tuple[str, str]:
    if figure is None:
        return "", ""
    if figure["low"] is None:
        return form.format(figure["value"]), "no interval"
    return form.format(figure["value"]), f"{form.format(figure['low'])} to {form.format(figure['high'])}"


def said(figure: Figure) -> str:
    value, interval = with_interval(figure, "{:.2f}")
    return f"{value} ({interval})"


def drawing(metrics: dict) -> Drawing | None:
    """Hit and pointing rates of what raises the grade, by group, beside their controls."""
    groups = metrics["explain"].get("severity", {})
    known = {group_name(name): each for name, each in groups.items() if "hit_rate" in each}
    if not known:
        return None
    words = "; ".join(f"{name}: hit rate {said(each['hit_rate'])}" for name, each in known.items())
    return as_drawing(rates_figure(known), "attribution", words)


def reading(metrics: dict) -> list[str]:
    """What the figures say in plain words, and what they cannot say."""
    told = []
    found = metrics["explain"].get("severity", {}).get("all", {})
    if "hit_rate" in found:
        told.append(verdict(found))
    if metrics["explain"]:
        told += [
            "A hit rate is the share of the heat on lesions (their boxes and a rim of a quarter of their width), over "
            "the share of the picture that they cover: 1 is chance. Intervals are over people, 95 %.",
            "“Lesions of other people”: the same heat, beside the lesions of others of the same severity. Whoever "
            "looks at cheeks and foreheads hits some. “Beyond these” is the hit rate in times of that one: what the "
            "grader owes to this very photograph's lesions. “Random weights”: the same network, untrained, mean of "
            f"{counted(metrics['num_random'], 'network')}; a method that shows as much there shows the edges in a "
            "picture, and not what was learned.",
            "For a mild face the answer may well rest on clear skin: heat beside the lesions is no error there. The "
            "first question, what raises the grade, has lesions for an answer at every severity.",
        ]
    cell = metrics["input_side"] / metrics["map_side"]
    size = f"; the median lesion is {metrics['lesion_px']:.1f} px wide" if metrics["lesion_px"] is not None else ""
    told.append(
        f"The maps are of stage {metrics['stage']} of {metrics['num_stages']}, {metrics['map_side']} x "
        f"{metrics['map_side']} places of {cell:.0f} px each{size}. A later stage is nearer to the decision and "
        "coarser (backbone_stage=-1 is the last), an earlier one finer and further from it."
    )
    told.append(
        "A map shows where evidence for more lies, and none of the evidence against. It is no proof of what the grader "
        "needs: it may look at a lesion and count redness."
    )
    split = {
        "test": "These are test photographs: a grader that is changed after a look at them was chosen on them.",
        "train": "These are training photographs: a grader may look right on those that it knows by heart.",
    }
    told += [split[metrics["split"]]] if metrics["split"] in split else []
    told.append(
        "The faces are drawn by code: the page shows that the measurement works, and says nothing about acne."
        if metrics["only_drawn"]
        else "The page shows photographs of people. Treat it as you treat them."
    )
    return told


def verdict(found: Mapping[str, Figure]) -> str:
    """Whether the heat lies on these lesions, on where lesions usually are, or where chance has it."""
    rate, beyond = found["hit_rate"], found.get("beyond_elsewhere")
    if rate["low"] is None:
        return f"{counted(found['num_subjects'], 'subject')} cannot say how far the figures may be off: no verdict."
    if rate["high"] < 1:
        return f"The heat lies on lesions less than by chance: hit rate {said(rate)}. Something else raises the grade."
    if rate["low"] <= 1:
        return f"The heat is not told apart from chance: hit rate {said(rate)}."
    start = f"The heat lies on lesions more than by chance: hit rate {said(rate)}."
    if beyond is None or beyond["low"] is None:
        return f"{start} Nobody else has this severity: how much looking at faces alone is worth cannot be said."
    if beyond["low"] > 1:
        return (
            f"{start} It follows the lesions of each photograph, and not only where lesions usually are: "
            f"{said(beyond)} times as much as the lesions of other people."
        )
    return (
        f"{start} But the lesions of other people are hit as well: beside these it is {said(beyond)} times as much. "
        "The grader looks where lesions usually are; that it sees them is not shown."
    )
