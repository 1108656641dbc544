"""The page of `acne-lab evaluate`: how real edits are, in figures with their controls, and in pictures to judge by eye.

Everything comes as plain numbers and pixels; the page decides nothing beyond saying what an interval covers. Real
lesions are of other people than the edits, so its verdict is no comparison with a coin: it compares edited lesions with
those that the same photographs had before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from acne_lab.data.table import replace_text
from acne_lab.report import plots
from acne_lab.report.parts import Picture, as_drawing, counted, html_templates

GAIN = 4  # of the difference pictures, around gray
SHEET_SIDE, PAGE_SIDE = 512, 320  # px of a picture on a sheet and on the page
MARGIN = 0.12  # around the mask, of its longer side
PAIRS_SHOWN, EXTREMES_SHOWN = 20, 10

TITLES = ("before", "after", f"difference x {GAIN}")

Figure = Mapping[str, float]  # value, low, high
Triple = tuple[Image.Image, Image.Image, Image.Image]

EXCESS = {"auc": "{:+.3f}", "kd": "{:+.3f}", "rim": "{:.2f}"}  # how figures that have an excess write it
NO_ROOM = 0.9  # AUC of the unedited lesions, from which on an edit has no room to be found as well

# name: what it is, how it is written, what it is at best, what it means
FIGURES = {
    "auc": (
        "AUC of a classifier, real vs edited lesions",
        "{:.3f}",
        "0.5",
        "Of a real and an edited lesion, how often it names the edited one. 0.5 is a coin, 1 is at a glance.",
    ),
    "kd": (
        "Kernel distance of lesion patches",
        "{:.3f}",
        "0",
        "How far apart the two sets lie for a pretrained network (as KID, with another network). 0 is one set.",
    ),
    "rim": (
        "Steepness of lesion rims, edited over real",
        "{:.2f}",
        "1",
        "Above 1, edited lesions have harder edges than real ones, as stickers do; below 1 they are blurred.",
    ),
    "seam": (
        "Step across the mask's border, after over before",
        "{:.2f}",
        "1",
        "Above 1, one sees where the edit ends.",
    ),
    "delta_e": (
        "Colour change inside of the mask, CIELAB ΔE",
        "{:.2f}",
        "",
        "How much the edit did where it was allowed to: about 1 is just visible.",
    ),
    "a_star": (
        "Redness added inside of the mask, Δa*",
        "{:+.2f}",
        "",
        "Signed mean of a*: acne adds redness.",
    ),
    "delta_e_ring": (
        "Colour change in a ring around the mask, ΔE",
        "{:.2f}",
        "0",
        "The edit must not tint what lies around it; in a JPEG the blocks that the mask cuts change a little.",
    ),
    "changed_outside": (
        "Pixels outside of the mask that changed",
        "{:.2%}",
        "0",
        "An edit is local: 0, but for the JPEG blocks that the mask cuts.",
    ),
}


def before_and_after(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> Triple:
    """Photograph, edit and their signed difference on gray, GAIN times as strong, cut to the square around the mask."""
    y, x = np.nonzero(mask)
    (top, bottom), (left, right) = ((int(k.min()), int(k.max()) + 1) for k in (y, x))
    half = (0.5 + MARGIN) * max(bottom - top, right - left, 32)
    half = min(half, min(mask.shape) / 2)
    middle = [np.clip((a + b) / 2, half, size - half) for a, b, size in zip((top, left), (bottom, right), mask.shape)]
    box = tuple(round(k) for k in (middle[1] - half, middle[0] - half, middle[1] + half, middle[0] + half))
    difference = np.clip(128 + GAIN * (after.astype(np.int16) - before), 0, 255).astype(np.uint8)
    cut = [Image.fromarray(picture).crop(box) for picture in (before, after, difference)]
    side = min(SHEET_SIDE, cut[0].width)
    return tuple(picture.resize((side, side), Image.Resampling.LANCZOS) for picture in cut)


def write_realism_report(
    folder: Path,
    metrics: dict,
    shown: Mapping[str, Sequence[Triple]],
    *,
    patches: pd.DataFrame | None,
    pixels: np.ndarray | None,
) -> Path:
    """Write `report.html` and `samples/*.png` into `folder` and return the page's path.

    Args:
        folder: of the run.
        metrics: its metrics.json, see `acne_lab.jobs.evaluate`.
        shown: pictures of `before_and_after`, some of each severity.
        patches: a row a patch, see `acne_lab.jobs.comparison.Comparison`; None where lesions were not compared.
        pixels: their pixels.
    """
    (folder / "samples").mkdir(exist_ok=True)
    for severity, triples in shown.items():
        side = max(256, triples[0][0].width)
        sheet = plots.contact_sheet(triples, side=side, captions=[TITLES], title=severity)
        sheet.save(folder / "samples" / f"edits_{_file_name(severity)}.png")
    strips = [] if patches is None else patch_strips(patches, pixels)
    if strips:
        rows = [[picture.image for picture in row] for _, _, rows in strips for row in rows]
        labels = [text for _, labels, rows in strips for text in labels]
        plots.contact_sheet(rows, side=96, row_labels=labels).save(folder / "samples" / "lesions.png")
    facts = {
        "edits": metrics["edits"],
        "summary": summary(metrics),
        "reading": reading(metrics),
        "figures": figure_rows(metrics["realism"]),
        "drawing": None if patches is None else _drawing(metrics["realism"], patches),
        "strips": strips,
        "shown": {name: [_on_page(triple) for triple in triples] for name, triples in shown.items()},
        "titles": TITLES,
        "classes": metrics["classes"],
        **plots.look(len(metrics["classes"])),
    }
    replace_text(folder / "report.html", html_templates().get_template("realism.html.j2").render(facts))
    return folder / "report.html"


def figure_rows(realism: Mapping[str, Figure]) -> list[dict]:
    """What the table says of each figure that was measured."""
    rows = []
    for name, (title, form, best, meaning) in FIGURES.items():
        if name in realism:
            found = {
                column: with_interval(realism[key], how) if (key := f"{name}_{column}") in realism else ("", "")
                for column, how in (("unedited", form), ("excess", EXCESS.get(name, form)), ("control", form))
            }
            rows.append(
                {"title": title, "found": with_interval(realism[name], form), **found, "best": best, "meaning": meaning}
            )
    return rows


CONTROLS = {"unedited": "unedited vs real", "control": "real vs real"}
SHORT = {
    "auc": "AUC",
    "kd": "kernel<br>distance",
    "rim": "rims",
    "seam": "seam",
    "delta_e": "ΔE<br>inside",
    "a_star": "Δa*<br>inside",
    "delta_e_ring": "ΔE<br>around",
}


def comparison_rows(stages: Mapping[str, Mapping[str, Figure]]) -> list[dict]:
    """A row for each edited table of a study: its name, and (value, interval) of the figures of `SHORT`.

    Behind the last come the controls of each figure that has them, from the first table that was compared.
    """
    rows = []
    for name, realism in stages.items():
        cells = [with_interval(realism[k], FIGURES[k][1]) if k in realism else ("-", "") for k in SHORT]
        rows.append({"name": name, "cells": cells})
    for kind, title in CONTROLS.items():
        controls = next((realism for realism in stages.values() if f"auc_{kind}" in realism), None)
        if controls is not None:
            cells = [
                with_interval(controls[key], FIGURES[k][1]) if (key := f"{k}_{kind}") in controls else ("", "")
                for k in SHORT
            ]
            rows.append({"name": title, "cells": cells})
    return rows


def with_interval(figure: Figure, form: str) -> tuple[str, str]:
    """The value, and its interval in brackets."""
    value, low, high = (form.format(figure[name] + 0.0) for name in ("value", "low", "high"))
    return value, f"{low} to {high}"


def summary(metrics: dict) -> list[str]:
    """At most three lines: what was looked at, and the figure that matters most."""
    lines = [
        f"{', '.join(metrics['edits']) or 'edits'}: {counted(metrics['num_images'], 'edit')} of "
        f"{counted(metrics['num_subjects'], 'subject')}, beside {counted(metrics['num_authentic'], 'photograph')} of "
        f"{counted(metrics['num_authentic_subjects'], 'subject')} of the {metrics['reference']} split"
    ]
    realism = metrics["realism"]
    if "auc" in realism:
        names = {"auc": "edited vs real"} | {f"auc_{kind}": title for kind, title in CONTROLS.items()}
        told = [f"{title} {_said(realism[name])}" for name, title in names.items() if name in realism]
        lines.append(f"AUC {'; '.join(told)}; 0.5 is a coin")
    return [*lines, f"seam ratio {_said(realism['seam'])}; 1 is none"]


def verdict(realism: Mapping[str, Figure]) -> str:
    """Whether edited lesions give themselves away more than those that the same photographs had before."""
    auc = realism["auc"]
    if "auc_excess" not in realism:
        chance = "holds" if auc["low"] <= 0.5 <= auc["high"] else "does not hold"
        return (
            f"Real and edited lesions: AUC {_said(auc)}; the interval {chance} 0.5. Without lesions that the "
            "edited photographs had before, nothing says how much of it is the edit, and how much the people, the "
            "cameras and the severities of the photographs."
        )
    before, excess = realism["auc_unedited"], realism["auc_excess"]
    against = (
        f"AUC against real lesions is {auc['value']:.2f} for the edited ones and {before['value']:.2f} for those that "
        f"the same photographs had before the edit; the difference is {excess['value']:+.2f} "
        f"({excess['low']:+.2f} to {excess['high']:+.2f})."
    )
    if excess["low"] > 0 and auc["low"] > 0.5:
        return f"The edits can be told apart, and by more than whose photographs they are. {against}"
    if excess["high"] < 0:
        return f"Edited lesions are nearer to the real ones than the photographs' own lesions were. {against}"
    if before["value"] >= NO_ROOM:
        return (
            f"Nothing can be said about the edit: the photographs differ so much before it that the classifier needs "
            f"no edit. {against}"
        )
    return (
        f"This classifier finds no more in the edits than in the same photographs without them. {against} With more "
        "lesions, or another network, it might."
    )


def reading(metrics: dict) -> list[str]:
    """What the figures say in plain words, and what they cannot say."""
    realism, said = metrics["realism"], list(metrics["notes"])
    if "auc" in realism:
        said.append(verdict(realism))
    if "auc_unedited" in realism:
        said.append(
            "“Before the edit” compares with the same real lesions those that the edited photographs had of their own. "
            "Nobody edited these: what tells them from the real ones is the people, the cameras and that their acne is "
            "of a lower grade. “Beyond that” is how much more the edited ones are told apart."
        )
    if "auc_control" in realism:
        said.append(
            "“Real vs real” compares two halves of the people of the real photographs, dealt out at random: they "
            "differ in nothing, so it says how far a figure strays from its best with so few people. It says nothing "
            "about how much the edited photographs differ from the real ones. Its brackets are means over eight ways "
            "to halve them and no 95 % interval."
        )
    if not metrics["lists_lesions"]:
        said.append(
            "The edit keeps no list of the lesions it adds: patches are taken where it has put red spots, so spots too "
            "faint to be found are not compared."
        )
    if metrics["reference"] == "train":
        said.append(
            "Authentic lesions are of training people: those that an editor has cut and pasted may be among them."
        )
    elif metrics["reference"] == "test":
        said.append("Authentic lesions are of test people: an editor chosen by this page has seen the test split.")
    said.append(
        "Authentic photographs and the pictures “before” are compressed as the edits were, or JPEG would tell. Patches "
        "are matched by size."
    )
    if metrics["only_drawn"]:
        said.append(
            "The faces are drawn by code: the page shows that the measurement works, and says nothing about acne."
        )
    else:
        said.append("The page shows photographs of people. Treat it as you treat them.")
    return said


def patch_strips(patches: pd.DataFrame, pixels: np.ndarray) -> list[tuple[str, list[str], list[list[Picture]]]]:
    """(heading, labels, rows of pictures): pairs of one size, and the edited lesions that are found most and least."""
    num = len(patches) // 2
    real, made = patches.iloc[:num].reset_index(), patches.iloc[num:].reset_index()
    order = np.argsort(made["size"].to_numpy(), kind="stable")
    pairs = order[np.linspace(0, num - 1, min(PAIRS_SHOWN, num)).astype(int)]
    pairs = [chunk for chunk in (pairs[: PAIRS_SHOWN // 2], pairs[PAIRS_SHOWN // 2 :]) if len(chunk)]
    by_score = np.argsort(made["score"].to_numpy(), kind="stable")

    def pictures(rows: pd.DataFrame, chosen: np.ndarray) -> list[Picture]:
        return [
            Picture(
                Image.fromarray(pixels[rows["index"][i]]),
                f"{rows['set'][i]}, {rows['file_name'][i]}, {rows['size'][i]:.0f} px, score {rows['score'][i]:+.2f}",
            )
            for i in chosen
        ]

    side_by_side = [pictures(rows, chunk) for chunk in pairs for rows in (real, made)]
    few = min(EXTREMES_SHOWN, num)
    extremes = [pictures(made, by_score[::-1][:few]), pictures(made, by_score[:few])]
    return [
        ("Real above, edited below; pairs of one size, small to large", ["real", "edited"] * len(pairs), side_by_side),
        ("Edited lesions that give themselves away most and least", ["most", "least"], extremes),
    ]


def _drawing(realism: Mapping[str, Figure], patches: pd.DataFrame):
    names = {"auc": "edited vs real"} | {f"auc_{kind}": title for kind, title in CONTROLS.items()}
    areas = {title: realism[name] for name, title in names.items() if name in realism}
    scores = {name: patches.loc[patches["set"] == name, "score"].to_numpy() for name in ("real", "edited")}
    said = "; ".join(f"{title}: AUC {_said(area)}" for title, area in areas.items())
    return as_drawing(plots.realism_figure(areas, scores), "told-apart", said)


def _on_page(triple: Triple) -> list[Picture]:
    return [Picture(plots.shrunk(picture, width=PAGE_SIDE), title) for picture, title in zip(triple, TITLES)]


def _said(figure: Figure) -> str:
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _file_name(severity: str) -> str:
    return "".join(k if k.isalnum() else "_" for k in severity)
