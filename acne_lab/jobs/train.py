"""`acne-lab train experiment=...`: train a GAN, or train a grader and test it; the run holds what was learned.

Kill it at any moment and repeat the command: it goes on from the last tick (GAN) or epoch (grader).
"""

import logging
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from acne_lab.build import build, run_logger
from acne_lab.callbacks import AtomicCheckpointIO, MetricsTable, Progress, RandomState, SampleGrid
from acne_lab.data.module import GanData, GraderData
from acne_lab.data.pack import pack
from acne_lab.data.table import ImageTable
from acne_lab.gan.weights import NETWORKS_FILE, load_networks, save_networks, shipped_weights, transfer
from acne_lab.grade.module import Grader
from acne_lab.jobs.prepare import table_of
from acne_lab.metrics.grading import grading_report
from acne_lab.runs import Run, file_key, find_run, find_table, open_run, write_text
from acne_lab.tracking import finish, log_grading


def train(config: dict) -> Run:
    """Train what `config["task"]` says: "gan" or "grader"."""
    if config["task"] is None:
        raise ValueError("choose what to train: experiment=gan_base, experiment=gan_severity or experiment=grader")
    return {"gan": train_gan, "grader": train_grader}[config["task"]](config)


# ---- the GAN -----------------------------------------------------------------------------------


def train_gan(config: dict) -> Run:
    """Train a StyleGAN2 on the training rows, all of them or those of `stage.severity`."""
    stage = config["stage"]
    table = table_of(config)
    severity = stage["severity"]
    if severity is not None and severity not in table.classes:
        raise ValueError(f"stage.severity={severity} is not one of the data's classes: {', '.join(table.classes)}")
    rows = table.select(split="train", severity=severity)
    if len(rows) == 0:
        raise ValueError(f"{table.root} has no training images" + (f" of severity {severity}" if severity else ""))
    if config["model"]["G"]["c_dim"] and (rows.labels < 0).any():
        raise ValueError(f"{table.root} has images without a severity: a conditional GAN needs them all labelled")
    weights = weights_file(config["init_from"], config["runs_dir"])
    inputs = [table.key] + ([file_key(weights)] if weights else [])

    with open_run(config, job="train", inputs=inputs) as run:
        if run.done:
            return run
        start_job(config)
        pixels = packed(rows, config)
        data = GanData(
            table=rows,
            pixels=pixels,
            batch_size=stage["batch_size"],
            seed=config["seed"],
            mirror=stage["mirror"],
        )
        model = build(config["model"])
        if weights and not run.last_checkpoint:
            start_from(model, weights, run)
        show = ("ada/p", "loss/G", "loss/D")
        callbacks = [
            RandomState(),
            MetricsTable(run.path / "metrics.csv", x="images_seen"),
            Progress(unit="img", per_batch=stage["batch_size"], show=show),
            checkpoint(run, "last"),
        ]
        if config["callbacks"]["sample_grid"]:
            callbacks.append(SampleGrid(run.path / "samples", **config["callbacks"]["sample_grid"]))
        fit(model, data, config, run, callbacks, x="images_seen")
        save_networks(run.path / NETWORKS_FILE, G_ema=model.G_ema, D=model.D)
        run.write_metrics(
            {
                "images_seen": model.images_seen,
                "num_training_images": len(rows),
                "num_nonfinite": model.num_nonfinite,
                "ada_p": float(model.augment.p),
                "severity": severity,
                "classes": list(table.classes),
                "table": table.key,
            }
        )
    return run


def weights_file(init_from: str | None, runs_dir: str) -> Path | None:
    """The networks that `init_from` names: shipped weights, a safetensors file or a finished run."""
    if init_from is None:
        return None
    path = shipped_weights(init_from) or Path(init_from)
    if path.suffix != ".safetensors":
        path = find_run(init_from, runs_dir).path / NETWORKS_FILE
    if not path.exists():
        raise ValueError(
            f"init_from={init_from}: there is no {path}; give a GAN's run, a .safetensors file or shipped weights"
        )
    return path


def start_from(model: pl.LightningModule, weights: Path, run: Run) -> None:
    """Load G, G_ema and D from a file; say and record what fitted."""
    networks = load_networks(weights)
    lines, summaries = [], []
    for network, state in (("G", "G_ema"), ("G_ema", "G_ema"), ("D", "D")):
        done = transfer(getattr(model, network), networks[state])
        summaries.append(f"{network} from {state}: {done}")
        lines.append(summaries[-1])
        lines += [f"  initialised: {key}" for key in done.initialised] + [f"  unused: {key}" for key in done.unused]
    print(f"init_from {weights.name}", *summaries, sep="\n  ", file=sys.stderr)
    write_text(run.path / "init_from.txt", "\n".join(lines) + "\n")


# ---- the grader --------------------------------------------------------------------------------


def train_grader(config: dict) -> Run:
    """Train a grader on the table's training rows; test it once on the test rows of `test` or of the table itself."""
    table = table_of(config)
    test_table = ImageTable.read(find_table(config["test"], config["runs_dir"])) if config["test"] else table
    train_rows, val_rows, test_rows = (
        table.select(split="train"),
        table.select(split="val"),
        test_table.select(split="test"),
    )
    for name, rows in (("train", train_rows), ("val", val_rows), ("test", test_rows)):
        if len(rows) == 0:
            hint = ": give test=<table or run> with authentic images" if name == "test" else ""
            raise ValueError(f"{rows.root} has no {name} images{hint}")
    if leaked := set(test_rows.rows["sha256"]) & set(pd.concat([train_rows.rows, val_rows.rows])["sha256"]):
        raise ValueError(f"{len(leaked)} test images are training images as well: a grader is tested on other images")

    with open_run(config, job="train", inputs=[table.key, test_table.key]) as run:
        if run.done:
            return run
        start_job(config)
        model = build(config["model"], classes=table.classes)
        data = GraderData(
            train=[(train_rows, packed(train_rows, config))],
            val=(val_rows, packed(val_rows, config)),
            test=(test_rows, packed(test_rows, config)),
            augment=build(config["grader_augment"]) if config["grader_augment"] else None,
            seed=config["seed"],
            mean=model.data_config["mean"],
            std=model.data_config["std"],
            **config["loader"],
        )
        best = checkpoint(run, "best", monitor="val/balanced_accuracy", mode="max")
        last = checkpoint(run, "last")
        table_callback = MetricsTable(run.path / "metrics.csv", x="epoch")
        bar = Progress(unit="batch", per_batch=1, show=("val/balanced_accuracy",))
        logger, trainer = fit(
            model, data, config, run, [RandomState(), table_callback, bar, best, last], x="epoch", close=False
        )
        try:
            weights = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
            model.load_state_dict(weights)
            report, predictions = test(model, trainer, data)
            predictions.to_csv(run.path / "predictions.csv", index=False)
            log_grading(logger, report["test"], predictions, report["classes"])
        finally:
            finish(logger)
        sources = train_rows.rows["source"].value_counts().to_dict()
        run.write_metrics({**report, "train": {"num_images": len(train_rows), "sources": sources}})
    return run


def test(model: Grader, trainer: pl.Trainer, data: GraderData) -> tuple[dict, pd.DataFrame]:
    """Grade validation and test images with the best epoch's weights: the figures, and every test prediction."""

    def probabilities(loader: object) -> Tensor:
        return torch.cat(trainer.predict(model, loader))

    classes = list(data.classes)
    val, tested = probabilities(data.val_dataloader()), probabilities(data.test_dataloader())
    rows = data.test[0].rows
    predictions = rows[["file_name", "subject", "severity"]].assign(
        predicted=[classes[i] for i in tested.argmax(dim=1)],
        **{f"p_{name}": tested[:, i].numpy() for i, name in enumerate(classes)},
    )
    report = {
        "test": grading_report(tested, torch.as_tensor(data.test[0].labels), classes),
        "val": grading_report(val, torch.as_tensor(data.val[0].labels), classes),
        "classes": classes,
    }
    return report, predictions


# ---- both --------------------------------------------------------------------------------------


def start_job(config: dict) -> None:
    """Threads, random numbers, and a Lightning that speaks up only when something is wrong."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore",
        module="pytorch_lightning.*",
        message=".*(not have many workers|eval mode|LeafSpec|is not empty|logging interval).*",
    )
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    pl.seed_everything(config["seed"], verbose=False)


def checkpoint(run: Run, name: str, **when: str) -> ModelCheckpoint:
    """Write checkpoints/NAME.ckpt after every epoch, or after those that `when` (monitor, mode) asks for."""
    return ModelCheckpoint(
        run.path / "checkpoints", name, enable_version_counter=False, save_on_train_epoch_end=True, **when
    )


def packed(table: ImageTable, config: dict):
    """The table's pixels, uint8 [N, R, R, 3], from the packed cache."""
    data = config["data"]
    return pack(
        table,
        resolution=data["resolution"],
        fit=data["fit"],
        cache_dir=Path(data["cache_dir"]),
        num_workers=data["num_workers"],
    )


def fit(
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    config: dict,
    run: Run,
    callbacks: list[pl.Callback],
    *,
    x: str,
    close: bool = True,
) -> tuple[object, pl.Trainer]:
    """Train from the run's last checkpoint, or from the start; return the logger and the trainer."""
    logger = run_logger(config, run, x=x)
    try:
        trainer = build(
            config["trainer"],
            callbacks=callbacks,
            logger=logger or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=run.path,
        )
        if trainer.world_size > 1:
            raise ValueError("training uses one device: trainer.devices=1")
        trainer.fit(model, data, ckpt_path=run.last_checkpoint, weights_only=True)
    except BaseException:
        finish(logger)
        raise
    if close:
        finish(logger)
    return logger, trainer
