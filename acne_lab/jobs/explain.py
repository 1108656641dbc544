"""`acne-lab explain run=GRADER`: where a grader looks, in heat maps and in figures.

Whether attribution lies on lesions is counted beside three things: their area (chance), the lesions of other people of
the same severity (what looking at faces is worth), and the same network with random weights (what the method shows of
a network that has learned nothing). The validation photographs are shown by default: the test split is opened once.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from acne_lab.build import run_logger
from acne_lab.data.slices import slice_columns
from acne_lab.data.table import ImageTable
from acne_lab.grade.explain import SCORES, attributions, randomised, seen_by_backbone, stage_of
from acne_lab.grade.module import Grader
from acne_lab.jobs.graders import load_grader, require_classes
from acne_lab.jobs.photographs import Photographs, normalisation, photographs_of, prepared_photographs
from acne_lab.metrics.attribution import enlarged, figures, where_located
from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.predictions import Predictions, prediction_frame
from acne_lab.metrics.slices import figures_of_slice, slices_of
from acne_lab.report.explain import Shown, chosen_rows, write_explanation
from acne_lab.runs import Run, file_key, open_run
from acne_lab.tracking import log_and_finish

STATISTICS = 32  # photographs from which random networks take those of their batch normalisation


def explain(config: dict) -> Run:
    """Explain the grader `config["run"]`; the run holds metrics.json, attributions.csv, samples/, report.html."""
    for name, least in (("num_images", 1), ("num_random", 1), ("num_shown", 0), ("batch_size", 1)):
        if config[name] < least:
            raise ValueError(f"{name} must be at least {least}, not {config[name]}")
    grader, of, _ = load_grader(config["run"], config["runs_dir"])
    table = photographs_of(of, config)
    require_classes(grader, table)
    about = {name: value for name, value in config.items() if name != "table"}  # its content is in the key
    inputs = [of.key, table.key, file_key(table.root / "metadata.csv")]
    with open_run(about, job="explain", inputs=inputs) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        grader.to("cuda" if torch.cuda.is_available() else "cpu")
        photos = prepared_photographs(grader, table, of, config)
        side = seen_by_backbone(grader, photos.batch(slice(1), grader)).shape[-1]
        stage = stage_of(grader.backbone, side) if config["backbone_stage"] is None else config["backbone_stage"]
        decision = Decision(**of.metrics["decision"])
        about = {"stage": stage, "batch_size": config["batch_size"], "decision": decision}
        probabilities, maps = explained(grader, photos, **about, what="grader")
        random = []
        for number in range(config["num_random"]):
            network = randomised(grader, photos.batch(slice(STATISTICS), grader), seed=config["seed"] + number)
            random.append(explained(network, photos, **about, what=f"random weights {number + 1}")[1]["severity"])
        rows = graded_rows(photos.table, probabilities, decision)
        found, of_each = figures(photos.boxes, rows, maps, random, classes=table.classes, seed=config["seed"])
        rows = pd.concat([rows, of_each], axis=1)
        slices = slice_columns(photos.table)
        rows.merge(slices, on="file_name").to_csv(run.path / "attributions.csv", index=False)
        metrics = {
            "grader": of.path.name,
            "backbone": of.config["model"]["backbone"],
            "split": config["split"],
            "classes": list(table.classes),
            "num_images": len(rows),
            "num_subjects": int(rows["subject"].nunique()),
            "num_located": int(where_located(photos.boxes).sum()),
            "num_right": int(rows["right"].sum()),
            "stage": stage,
            "num_stages": len(grader.backbone.feature_info),
            "input_side": side,
            "map_side": maps["severity"].shape[1],
            "lesion_px": photos.median_lesion(side),
            "num_random": len(random),
            "only_drawn": photos.table.is_drawn,
            "explain": found,
            "slices": figures_of_slices(photos.table, slices, probabilities, decision, seed=config["seed"]),
        }
        run.write_metrics(metrics)
        chosen = chosen_rows(rows, config["num_shown"])
        write_explanation(run.path, metrics, shown(grader, photos, rows, maps, random[0], chosen))
        log_and_finish(run_logger(config, run), logged(found))
    return run


def explained(
    grader: Grader, photos: Photographs, *, stage: int, batch_size: int, decision: Decision, what: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`attributions` of all photographs."""
    probabilities, maps = [], {name: [] for name in SCORES}
    with tqdm(total=len(photos.pixels), desc=f"explain, {what}", unit="img") as bar:
        for start in range(0, len(photos.pixels), batch_size):
            images = photos.batch(slice(start, start + batch_size), grader)
            p, found = attributions(grader, images, stage=stage, decision=decision)
            probabilities.append(p)
            for name in SCORES:
                maps[name].append(found[name])
            bar.update(len(images))
    return np.concatenate(probabilities), {name: np.concatenate(parts) for name, parts in maps.items()}


def graded_rows(table: ImageTable, probabilities: np.ndarray, decision: Decision) -> pd.DataFrame:
    """file_name, subject, severity, lesions, predicted, confidence (its probability) and whether it is right."""
    grades = decision.predicted(probabilities)
    rows = table.rows[["file_name", "subject", "severity", "lesions"]].reset_index(drop=True)
    predicted = np.asarray(table.classes, dtype=object)[grades]
    return rows.assign(
        predicted=predicted,
        confidence=decision.calibrated(probabilities)[np.arange(len(rows)), grades],
        right=predicted == rows["severity"].to_numpy(),
    )


def figures_of_slices(
    table: ImageTable, slices: pd.DataFrame, probabilities: np.ndarray, decision: Decision, *, seed: int
) -> list[dict]:
    """`figures_of_slice` of each slice of these photographs."""
    columns = ["file_name", "subject", "split", "severity", "source", "lesions"]
    rows = table.rows[columns].reset_index(drop=True)
    rows = pd.concat([rows, slices.drop(columns=["file_name", "source"])], axis=1)
    frame = prediction_frame(rows, probabilities, None, classes=table.classes, decision=decision)
    graded = Predictions(frame, table.classes, decision)
    return [
        {"slice": part.name, "value": part.value, **figures_of_slice([graded], part, seed=seed)}
        for part in slices_of(graded)
    ]


def shown(
    grader: Grader,
    photos: Photographs,
    rows: pd.DataFrame,
    maps: Mapping[str, np.ndarray],
    random: np.ndarray,
    chosen: list[int],
) -> list[Shown]:
    """The chosen photographs for the page, as the backbone sees them."""
    mean, std = normalisation(grader)
    found = []
    for i in chosen:
        seen = seen_by_backbone(grader, photos.batch(slice(i, i + 1), grader))[0].cpu()
        pixels = ((seen * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        heat = {**{name: maps[name][i] for name in SCORES}, "random": random[i]}
        large = {name: enlarged(each[None])[0] for name, each in heat.items()}
        found.append(Shown(rows.iloc[i].to_dict(), pixels, large, photos.boxes[i]))
    return found


def logged(found: Mapping[str, Mapping]) -> dict[str, float]:
    """Numbers for the logger; pictures of photographs stay here."""
    names = ("hit_rate", "hit_rate_elsewhere", "hit_rate_random", "pointing", "area")
    return {
        f"explain/{score}/{name}": value["value"] if isinstance(value, dict) else value
        for score, groups in found.items()
        for name in names
        if (value := groups["all"].get(name)) is not None
    }
