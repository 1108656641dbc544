"""`acne-lab train experiment=...`: train a GAN, or train a grader and test it; the run holds what was learned.

Kill it at any moment and repeat the command: it goes on from the last tick (GAN) or epoch (grader).
"""

import logging
import os
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from acne_lab.build import build, run_logger
from acne_lab.callbacks import (
    AtomicCheckpointIO,
    DivergenceGuard,
    MetricsTable,
    Progress,
    RandomState,
    Replicas,
    SampleGrid,
)
from acne_lab.data.module import GanData, GraderData
from acne_lab.data.pack import pack
from acne_lab.data.table import ImageTable
from acne_lab.gan.transfer import ROW_HEADER, transfer
from acne_lab.gan.weights import NETWORKS_FILE, read_networks, save_networks
from acne_lab.grade.module import Grader
from acne_lab.jobs.gans import weights_file
from acne_lab.jobs.prepare import table_of
from acne_lab.metrics.grading import grading_report
from acne_lab.runs import Run, file_key, find_table, open_run, rank, write_text
from acne_lab.tracking import finish, log_grading


def train(config: dict) -> Run:
    """Train what `config["task"]` says: "gan" or "grader"."""
    if config["task"] is None:
        raise ValueError("choose what to train: experiment=gan_base, experiment=gan_severity or experiment=grader")
    refuse_processes_in_a_sweep(config)
    return {"gan": train_gan, "grader": train_grader}[config["task"]](config)


def refuse_processes_in_a_sweep(config: dict) -> None:
    """Lightning starts the other processes by repeating this command, which must then mean this one training."""
    if "strategy" not in config["trainer"] or "TORCHELASTIC_RUN_ID" in os.environ or not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN or hydra.job.config_name != "train":
        raise ValueError(
            "several processes train one run at a time: start each `acne-lab train ... trainer=ddp` by itself, without "
            "-m and not as a stage of a study (a study then finds it done), or use torchrun"
        )


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
    weights = weights_file(config["init_from"], config["runs_dir"]) if config["init_from"] else None
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
            RandomState(config["seed"]),
            MetricsTable(run.path / "metrics.csv", x="images_seen"),
            Progress(unit="img", per_batch=stage["batch_size"], show=show),
            checkpoint(run, "last"),
            *gan_callbacks(config["callbacks"], run),
        ]
        fit(model, data, config, run, callbacks, x="images_seen")
        if rank() > 0:  # of several processes the first writes
            return run
        save_networks(run.path / NETWORKS_FILE, G_ema=model.G_ema, D=model.D)
        run.write_metrics(
            {
                "images_seen": model.images_seen,
                "num_training_images": len(rows),
                "num_nonfinite": int(model.num_nonfinite),
                "ada_p": float(model.augment.p),
                "severity": severity,
                "classes": list(table.classes),
                "table": table.key,
            }
        )
    return run


def gan_callbacks(config: dict, run: Run) -> list[pl.Callback]:
    """What conf/callbacks asks for."""
    callbacks = []
    if config["sample_grid"]:
        callbacks.append(SampleGrid(run.path / "samples", **config["sample_grid"]))
    if config["divergence_guard"]:
        callbacks.append(DivergenceGuard(**config["divergence_guard"]))
    if snapshots := config["snapshots"]:
        every, keep = snapshots["every_ticks"], snapshots["keep_last"]
        callbacks.append(
            checkpoint(
                run, "{images_seen:.0f}", monitor="images_seen", mode="max", save_top_k=keep, every_n_epochs=every
            )
        )
    return callbacks


def start_from(model: pl.LightningModule, weights: Path, run: Run) -> None:
    """Load G, G_ema and D from a file; say what fitted, and record it tensor by tensor."""
    networks = read_networks(weights)
    if "D" not in networks:
        raise ValueError(f"{weights} holds no discriminator: fine-tuning goes on with both networks")
    networks.setdefault("G", networks["G_ema"])
    table, summary = [], [f"init_from {weights.name}"]
    for name in ("G", "G_ema", "D"):
        done = transfer(getattr(model, name), networks[name].state_dict())
        summary.append(f"  {name}: {done}")
        if name != "G_ema":  # the same as G
            summary += [f"    {row}" for row in done.rows if row.fate != "loaded"]
        table += [f"{name}: {done}", ROW_HEADER, *map(str, done.rows), ""]
    if rank() == 0:
        print(*summary, sep="\n", file=sys.stderr)
        write_text(run.path / "init_from.txt", "\n".join(table))


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
            model,
            data,
            config,
            run,
            [RandomState(config["seed"]), table_callback, bar, best, last],
            x="epoch",
            close=False,
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


def checkpoint(run: Run, name: str, **when: object) -> ModelCheckpoint:
    """Write checkpoints/NAME.ckpt after every epoch, or after those that `when` (ModelCheckpoint's words) asks for."""
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
        if trainer.world_size > 1 and not isinstance(trainer.strategy, Replicas):
            raise ValueError("several devices train a GAN with trainer=ddp, and nothing else: trainer.devices=1")
        for half_written in (run.path / "checkpoints").glob("*.tmp"):  # of a process that was killed meanwhile
            half_written.unlink(missing_ok=True)
        trainer.fit(model, data, ckpt_path=run.last_checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        finish(logger)
        raise ValueError(out_of_memory(config)) from error
    except BaseException:
        finish(logger)
        raise
    if close:
        finish(logger)
    return logger, trainer


def out_of_memory(config: dict) -> str:
    """Which settings need less memory, and how much less."""
    head = "the GPU's memory is too small for this training; activations take most of it. What helps:"
    if config["task"] == "grader":
        return f"{head}\n  loader.batch_size={max(1, config['loader']['batch_size'] // 2)}: half the activations"
    model = config["model"]
    part = max(1, (model["microbatch"] or config["stage"]["batch_size"]) // 2)
    return "\n".join(
        (
            head,
            f"  model.microbatch={part}: half the activations, the same training (keep it a multiple of the",
            f"      minibatch-std group, {model['D']['mbstd_group_size']})",
            "  model.G.num_half_res=4: nearly half the activations (16 bit at the four largest resolutions)",
            f"  model.G.channel_base={model['G']['channel_base'] // 2}: half the activations, a quarter of the weights",
            f"  data.resolution={config['data']['resolution'] // 2}: a quarter of the activations",
        )
    )
