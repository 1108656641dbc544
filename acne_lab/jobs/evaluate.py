"""`acne-lab evaluate table=<balance run>`: how real are its edits, and by what do they give themselves away?

Lesions of edits are compared with lesions of authentic photographs of the same severities, matched by size. By default
those are photographs of the validation people: an editor's bank of lesions, its refiner and its GANs come from training
photographs, so training lesions may be the very ones that were pasted, and the test split is opened once, by a grader.
Authentic photographs are compressed as the edits are before they are looked at. Figures have two controls beside them,
see comparison.py: two halves of the authentic people, and the lesions that the edited photographs had before.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from acne_lab.build import run_logger
from acne_lab.data.lineage import Lineage, require_unseen
from acne_lab.data.table import SPLITS, ImageTable, first_lines
from acne_lab.jobs.comparison import compare, exponential
from acne_lab.jobs.patches import LesionPatches, boxes_of, edited_photos, spread, unedited
from acne_lab.metrics.two_sample import Measured, mean_by_subject
from acne_lab.report.realism import before_and_after, write_realism_report
from acne_lab.runs import Run, file_key, find_table, open_run
from acne_lab.tracking import log_and_finish

UNLISTED = (
    "Nobody has listed which photographs the edits have learned from (allow_unknown_parents=true): the real lesions "
    "may be among them."
)
MIN_SIDE = 32  # px of a patch: the network halves it five times


def evaluate(config: dict) -> Run:
    """Measure the edited rows of `config["table"]`; the run holds metrics.json, patches.csv, samples/, report.html."""
    for name, least in (("num_photos", 1), ("num_patches", 1), ("num_shown", 1), ("patch_side", MIN_SIDE)):
        if config[name] < least:
            raise ValueError(f"{name} must be at least {least}, not {config[name]}")
    edited, source = tables_of(config)
    rows = spread(edited.rows[edited.rows["source"] == "edited"], config["num_photos"], seed=config["seed"])
    authentic = reference_rows(source, rows, config)
    lineage = Lineage.read(edited.root)
    check_lineage(lineage, edited, source, authentic, config)
    about = {name: value for name, value in config.items() if name != "source"}
    about["table"] = str(edited.root.resolve())  # not in the key: the table's content is
    inputs = [edited.key, file_key(edited.root / "metadata.csv"), source.key]
    inputs += [] if lineage.known else ["unlisted photographs"]  # allowed, and the page says so
    with open_run(about, job="evaluate", inputs=inputs) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        real, made, own = (
            LesionPatches(
                side=config["patch_side"], per_photo=max(8, 4 * config["num_patches"] // len(of)), seed=config["seed"]
            )
            for of in (authentic, rows, rows)
        )
        photos, shown = look_at_edits(edited, source, rows, made, own, num_shown=config["num_shown"])
        for row in tqdm(authentic.to_dict("records"), desc="authentic photographs", unit="img"):
            photo = unedited(source.root / row["file_name"])
            real.add(photo, boxes_of(source, row["file_name"]), row)
        figures = figures_of_photos(photos, seed=config["seed"])
        comparison, notes = compare(real, made, own, num_pairs=config["num_patches"], seed=config["seed"])
        if comparison is not None:
            figures |= comparison.figures
            comparison.patches.to_csv(run.path / "patches.csv", index=False)
        photos.to_csv(run.path / "photos.csv", index=False)
        metrics = {
            "edits": sorted(set(rows["edit"])) if "edit" in rows else [],
            "classes": list(edited.classes),
            "num_images": len(rows),
            "num_subjects": int(rows["subject"].nunique()),
            "num_authentic": len(authentic),
            "num_authentic_subjects": int(authentic["subject"].nunique()),
            "num_patches": 0 if comparison is None else len(comparison.patches) // 2,
            "reference": config["reference"],
            "features": "efficientnet_lite0",
            "lists_lesions": bool(photos["lists_lesions"].all()),
            "only_drawn": source.is_drawn,
            "notes": [*notes, *([] if lineage.known else [UNLISTED])],
            "realism": {name: asdict(figure) for name, figure in figures.items()},
        }
        run.write_metrics(metrics)
        write_realism_report(
            run.path,
            metrics,
            shown,
            patches=None if comparison is None else comparison.patches,
            pixels=None if comparison is None else comparison.pixels,
        )
        log_and_finish(run_logger(config, run), {f"realism/{name}": figure.value for name, figure in figures.items()})
    return run


def tables_of(config: dict) -> tuple[ImageTable, ImageTable]:
    """The edited table and the one with its parents.

    Raises:
        ValueError: the first has no edited rows, or their parents are not in the second.
    """
    folder = Path(find_table(config["table"], config["runs_dir"]))
    edited = ImageTable.read(folder)
    rows = edited.rows[edited.rows["source"] == "edited"]
    if rows.empty or "mask" not in rows:
        what = ", ".join(f"{n} {source}" for source, n in edited.rows["source"].value_counts().items()) or "no"
        raise ValueError(
            f"{folder} has {what} rows and none that was edited: give a run of acne-lab balance whose kind is edit"
        )
    run = next((Run(path) for path in (folder, edited.root.parent) if (path / "config.yaml").is_file()), None)
    reference = config["source"] or (run.config.get("table") if run else None)
    if not reference:
        raise ValueError(f"nothing says which table {folder} was edited from: give source=<that table or its run>")
    source = ImageTable.read(find_table(reference, config["runs_dir"]))
    missing = sorted(set(rows["parent"]) - set(source.rows["file_name"]))
    if missing:
        raise ValueError(
            f"{len(missing)} parents of {folder} are not in {source.root}, {missing[0]} for one: give "
            "source=<the table that was edited>"
        )
    return edited, source


def reference_rows(source: ImageTable, edited: pd.DataFrame, config: dict) -> pd.DataFrame:
    """Authentic photographs of the reference part that have one of the severities of the edits."""
    if config["reference"] not in SPLITS:
        raise ValueError(f"reference must be {', '.join(SPLITS)}, not {config['reference']}")
    rows = source.rows
    rows = rows[(rows["split"] == config["reference"]) & rows["severity"].isin(set(edited["severity"]))]
    rows = rows[rows["source"].isin(("real", "toy"))]
    if rows.empty:
        raise ValueError(
            f"{source.root} has no {config['reference']} photograph of {', '.join(sorted(set(edited['severity'])))}: "
            "choose another part, reference=train or val"
        )
    return spread(rows, config["num_photos"], seed=config["seed"])


def check_lineage(
    lineage: Lineage, edited: ImageTable, source: ImageTable, authentic: pd.DataFrame, config: dict
) -> None:
    """Whether `source` has the very photographs that were edited, and the edits have not seen the authentic people.

    With reference=train they have, and the page says so.

    Raises:
        ValueError: names the rows and says what to do.
    """
    parents = source.rows[source.rows["file_name"].isin(edited.rows["parent"]) & (source.rows["sha256"] != "")]
    other = parents.loc[~parents["sha256"].isin(lineage.rows["sha256"]), "file_name"].tolist()
    if other and lineage.known:
        raise ValueError(
            f"{len(other)} photographs of {source.root} have the names of those that {edited.root} was edited from, "
            f"and other content:\n{first_lines(other)}\nFix: source=<the table that was edited>"
        )
    if config["reference"] != "train":
        require_unseen(
            source.only(source.rows["file_name"].isin(authentic["file_name"])),
            lineage,
            table=source,
            allow_unknown_parents=config["allow_unknown_parents"],
            what=f"the editor of {edited.root}",
        )


def look_at_edits(
    edited: ImageTable,
    source: ImageTable,
    rows: pd.DataFrame,
    made: LesionPatches,
    own: LesionPatches,
    *,
    num_shown: int,
) -> tuple[pd.DataFrame, dict[str, list]]:
    """A row of figures for each edit, and for each severity `num_shown` triples of pictures: before, after, difference.

    Patches around the lesions that were added go to `made`, around those that a parent has to `own`: once, however many
    edits it has.
    """
    severity_of = source.rows.set_index("file_name")["severity"]
    figures, shown, parents = [], {}, set()
    wanted = {
        name
        for _, group in rows.groupby("severity", sort=False)
        for name in group["file_name"].iloc[np.linspace(0, len(group) - 1, min(num_shown, len(group))).astype(int)]
    }
    for photo in edited_photos(edited, source, rows):
        row = photo.row
        made.add(photo.after, photo.boxes, row)
        parent = {"file_name": row["parent"], "subject": row["subject"], "severity": severity_of[row["parent"]]}
        if row["parent"] not in parents:
            own.add(photo.before, photo.own, parent)
        parents.add(row["parent"])
        seam, shift = photo.seam, photo.colour_shift
        if seam is None or shift is None:
            raise ValueError(f"the mask of {row['file_name']} is empty or covers all of it: it was not edited locally")
        about = {name: row[name] for name in ("file_name", "parent", "subject", "severity")}
        found = {"lists_lesions": photo.lists_lesions, "num_added": len(photo.boxes)}
        figures.append({**about, **found, "seam": seam.ratio, **asdict(shift)})
        if row["file_name"] in wanted:
            shown.setdefault(row["severity"], []).append(before_and_after(photo.before, photo.after, photo.mask))
    return pd.DataFrame(figures), {name: shown[name] for name in edited.classes if name in shown}


def figures_of_photos(photos: pd.DataFrame, *, seed: int) -> dict[str, Measured]:
    """Seams (geometric mean of the ratios) and colours, with intervals over subjects."""
    people = photos["subject"].tolist()
    seam = mean_by_subject(np.log(photos["seam"]), people, seed=seed)
    names = ("delta_e", "a_star", "delta_e_ring", "changed_outside")
    return {"seam": exponential(seam)} | {name: mean_by_subject(photos[name], people, seed=seed) for name in names}
