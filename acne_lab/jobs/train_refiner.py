"""Train the refiner of edits: it learns to make drawn lesions look like those of the training photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from acne_lab.build import build
from acne_lab.callbacks import MetricsTable, Progress, RandomState, RefinedGrid
from acne_lab.data.lineage import MADE, Lineage, check_table, require_held_out
from acne_lab.data.table import ImageTable
from acne_lab.edit.exercises import Exercises, as_batch
from acne_lab.edit.face import Analyser
from acne_lab.edit.module import PatchData, RefinerTraining
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.patches import Patches, cut_patches
from acne_lab.edit.weights import REFINER_FILE, save_refiner
from acne_lab.grade.backbone import PACKAGED, build_backbone, data_config
from acne_lab.jobs.patches import features_of
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import checkpoint, fit, start_job
from acne_lab.metrics.features import StageFeatures
from acne_lab.metrics.realism import lesion_patch
from acne_lab.metrics.two_sample import MIN_SUBJECTS, Sample, classifier_auc, kernel_distance
from acne_lab.runs import Run, open_run

MAX_COMPARED = 256  # held-out patches
CROP_SIDE, CROP_CONTEXT = 64, 1.5  # px, and widths of what was painted: about three widths of the lesion in it


def train_refiner(config: dict) -> Run:
    """Train the refiner on the training rows of a table that has lesion boxes; compare it on the validation rows."""
    table = table_of(config)
    check_table(table)
    table = table.only(~table.rows["source"].isin(MADE))  # drawn and generated lesions are what it is to improve
    rows, held_out = table.select(split="train"), table.select(split="val")
    if len(rows) == 0:
        raise ValueError(f"{table.root} has no training photographs")
    check_config(config)
    lineage = Lineage.of(rows)
    require_held_out(lineage, table, what="this refiner")
    finder = Analyser(landmarks=config["patches"]["landmarks"]).finder  # other detectors see other slopes of the skin
    with open_run(config, job="train", inputs=[table.key, finder.fingerprint if finder else ""]) as run:
        lineage.write(run.path)
        if run.done:
            return run
        start_job(config)
        stage = config["stage"]
        features = packaged_features() if config["model"]["perceptual"] else None
        # A partial: Hydra would copy the network, which it is given as an argument, into its config.
        model = build({**config["model"], "_partial_": True})(features=features)
        data = PatchData(
            exercises=Exercises(patches_of(rows, config), overlay=Overlay(least_change=0), blank=model.G.conditioned),
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
        if len(held_out) and len(held_out.boxes) and len((patches := patches_of(held_out, config)).boxes):
            subjects = np.repeat(held_out.rows["subject"].to_numpy(), config["patches"]["per_photo"])
            metrics["val"] = compare(model, patches, subjects)
        run.write_metrics(metrics)
    return run


def check_config(config: dict) -> None:
    """Raise a ValueError if patches do not fit the networks, or the config asks for what is not done here."""
    if config["init_from"]:
        raise ValueError("a refiner starts from random weights: leave init_from out")
    if "strategy" in config["trainer"]:
        raise ValueError("a refiner trains on one device: leave trainer=ddp out")
    side, model = config["patches"]["side"], config["model"]
    step = 2 ** max(model["G"]["num_down"], model["D"]["num_down"])
    if side % step or side < 4 * step:
        raise ValueError(f"patches.side={side} must be a multiple of {step}, and at least {4 * step}")
    if config["patches"]["per_photo"] < 1:
        raise ValueError("patches.per_photo must be at least 1")


def patches_of(rows: ImageTable, config: dict) -> Patches:
    data = config["data"]
    return cut_patches(rows, cache_dir=Path(data["cache_dir"]), num_workers=data["num_workers"], **config["patches"])


def packaged_features() -> StageFeatures:
    backbone = build_backbone(PACKAGED, pretrained="package")
    about = data_config(backbone)
    return StageFeatures(backbone, mean=about["mean"], std=about["std"])


@torch.no_grad()
def compare(model: RefinerTraining, patches: Patches, subjects: np.ndarray) -> dict:
    """Are refined lesions nearer to the photographed ones than overlaid ones, of people that the refiner has not seen?

    Args:
        model: trained.
        patches: of these people.
        subjects: whose each patch is.

    Returns:
        `num_patches` with lesions, `num_subjects`; `l1_overlaid` and `l1_refined`, the mean absolute difference of
        masked pixels from the photograph, in 0..255, which is smallest for what blurs; `l1_untouched`, what the refiner
        changes where nothing was drawn; `auc_overlaid` and `auc_refined`, of a classifier that tells these lesions from
        the photographed ones at the same places (0.5: it cannot), `kd_overlaid` and `kd_refined`, the kernel distances
        of the two sets, both as `acne-lab evaluate` computes them; without these of less than MIN_SUBJECTS people.
    """
    exercises = Exercises(patches, overlay=Overlay(least_change=0), blank=False)
    with_lesions = np.nonzero(np.diff(patches.first))[0]
    chosen = with_lesions[np.linspace(0, len(with_lesions) - 1, min(len(with_lesions), MAX_COMPARED)).astype(int)]
    sums = dict.fromkeys(("l1_overlaid", "l1_refined", "l1_untouched"), 0.0)
    crops, people = [], []
    for i in chosen:
        batch = as_batch([exercises(int(i), np.random.default_rng(int(i)))])
        photo, overlaid, mask = (part.to(model.device) for part in batch)
        refined = model.refined(batch)
        sums["l1_overlaid"] += difference(overlaid, photo, mask)
        sums["l1_refined"] += difference(refined, photo, mask)
        sums["l1_untouched"] += difference(model.refined((photo, photo, mask)), photo, mask)
        images = [image[0].permute(1, 2, 0).cpu().numpy() for image in (photo, overlaid, refined)]
        found = spot_crops(images, mask[0, 0].cpu().numpy())
        crops += found
        people += [subjects[i]] * len(found)
    figures = {"num_patches": len(chosen), "num_subjects": len(set(people))}
    figures |= {name: total / len(chosen) for name, total in sums.items()}
    if figures["num_subjects"] >= MIN_SUBJECTS:
        content, texture = features_of(np.concatenate(list(zip(*crops))))
        both = np.split(np.hstack([content, texture]), 3)
        contents = np.split(content, 3)
        for number, image in enumerate(("overlaid", "refined"), start=1):
            auc, _ = classifier_auc(Sample(both[0], people), Sample(both[number], people))
            figures[f"auc_{image}"] = auc.value
            figures[f"kd_{image}"] = kernel_distance(
                Sample(contents[0], people), Sample(contents[number], people)
            ).value
    return figures


def spot_crops(images: Sequence[np.ndarray], mask: np.ndarray) -> list[list[np.ndarray]]:
    """Around each connected part of a mask bool [S, S] the same square of each image uint8 [S, S, 3]."""
    parts, _ = ndimage.label(mask)
    crops = []
    for rows, columns in ndimage.find_objects(parts):
        box = np.array([columns.start, rows.start, columns.stop, rows.stop])
        found = [lesion_patch(image, box, side=CROP_SIDE, context=CROP_CONTEXT) for image in images]
        if found[0] is not None:
            crops.append(found)
    return crops


def difference(image: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Mean absolute difference of masked pixels; images uint8 [B, 3, S, S], mask bool [B, 1, S, S]."""
    return float((image.float() - photo.float()).abs().mean(dim=1, keepdim=True)[mask].mean())
