"""Train the refiner of edits: it learns to make drawn lesions look like those of the training photographs."""

from pathlib import Path

import numpy as np
import torch

from acne_lab.build import build
from acne_lab.callbacks import MetricsTable, Progress, RandomState, RefinedGrid
from acne_lab.data.lineage import MADE, Lineage, check_table
from acne_lab.data.table import ImageTable
from acne_lab.edit.exercises import Exercises, as_batch
from acne_lab.edit.module import PatchData, RefinerTraining
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.patches import cut_patches
from acne_lab.edit.weights import REFINER_FILE, save_refiner
from acne_lab.grade.backbone import PACKAGED, build_backbone, data_config
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import checkpoint, fit, start_job
from acne_lab.metrics.features import StageFeatures, feature_distance
from acne_lab.runs import Run, open_run

MAX_COMPARED = 512  # held-out exercises


def train_refiner(config: dict) -> Run:
    """Train the refiner on the training rows of a table that has lesion boxes; compare it on the validation rows."""
    table = table_of(config)
    check_table(table)
    table = table.only(~table.rows["source"].isin(MADE))  # drawn and generated lesions are what it is to improve
    rows, held_out = table.select(split="train"), table.select(split="val")
    if len(rows) == 0:
        raise ValueError(f"{table.root} has no training photographs")
    check_sizes(config)
    with open_run(config, job="train", inputs=[table.key]) as run:
        Lineage.of(rows).write(run.path)
        if run.done:
            return run
        start_job(config)
        stage = config["stage"]
        features = packaged_features()
        model = build(config["model"], features=features if config["model"]["perceptual"] else None)
        data = PatchData(
            exercises=exercises_of(rows, config, model),
            batch_size=stage["batch_size"],
            seed=config["seed"],
            mirror=stage["mirror"],
        )
        callbacks = [RandomState(config["seed"])]
        if config["callbacks"]["sample_grid"]:
            callbacks.append(RefinedGrid(run.path / "samples", **config["callbacks"]["sample_grid"]))
        callbacks += [
            MetricsTable(run.path / "metrics.csv", x="images_seen"),
            Progress(unit="img", per_batch=stage["batch_size"], show=("loss/pixel", "loss/adversarial", "loss/D")),
            checkpoint(run, "last"),
        ]
        fit(model, data, config, run, callbacks, x="images_seen", only_drawn=rows.is_drawn)
        save_refiner(run.path / REFINER_FILE, model.G_ema, window=config["patches"]["side"])
        metrics = {"images_seen": model.images_seen, "num_training_images": len(rows)}
        metrics |= {"conditioned": model.G.conditioned, "only_drawn": rows.is_drawn, "table": table.key}
        if len(held_out) and len(held_out.boxes):
            metrics["val"] = compare(model, exercises_of(held_out, config, model), features)
        run.write_metrics(metrics)
    return run


def check_sizes(config: dict) -> None:
    """Raise a ValueError if patches do not fit the networks."""
    side, model = config["patches"]["side"], config["model"]
    step = 2 ** max(model["G"]["num_down"], model["D"]["num_down"])
    if side % step or side < 4 * step:
        raise ValueError(f"patches.side={side} must be a multiple of {step}, and at least {4 * step}")
    if config["patches"]["per_photo"] < 1:
        raise ValueError("patches.per_photo must be at least 1")


def exercises_of(rows: ImageTable, config: dict, model: RefinerTraining) -> Exercises:
    patches = cut_patches(
        rows,
        cache_dir=Path(config["data"]["cache_dir"]),
        num_workers=config["data"]["num_workers"],
        **config["patches"],
    )
    return Exercises(patches, overlay=Overlay(), blank=model.G.conditioned)


def packaged_features() -> StageFeatures:
    backbone = build_backbone(PACKAGED, pretrained="package")
    about = data_config(backbone)
    return StageFeatures(backbone, mean=about["mean"], std=about["std"])


@torch.no_grad()
def compare(model: RefinerTraining, exercises: Exercises, features: StageFeatures) -> dict:
    """How far overlaid and refined patches are from the photographs, on people that the refiner has not seen.

    `l1` is the mean absolute difference of masked pixels, in 0..255; `features` the distance in the packaged network's
    features, of whole patches. Half of the exercises' masks hold nothing to change, so both start low.
    """
    sums = dict.fromkeys(("l1_overlaid", "l1_refined", "features_overlaid", "features_refined"), 0.0)
    num = min(len(exercises.patches), MAX_COMPARED)
    chosen = np.linspace(0, len(exercises.patches) - 1, num).astype(int)
    features.to(model.device)
    for i in chosen:
        batch = as_batch([exercises(int(i), np.random.default_rng(int(i)))])
        photo, overlaid, mask = (part.to(model.device) for part in batch)
        target = features(photo.float() / 127.5 - 1)
        for name, image in (("overlaid", overlaid), ("refined", model.refined(batch))):
            error = (image.float() - photo.float()).abs().mean(dim=1, keepdim=True)
            sums[f"l1_{name}"] += float(error[mask].mean())
            sums[f"features_{name}"] += float(feature_distance(features(image.float() / 127.5 - 1), target))
    return {"num_patches": num} | {name: total / num for name, total in sums.items()}
