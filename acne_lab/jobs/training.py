"""What training a GAN and training a grader share: pixels, seeds, checkpoints, and Lightning's trainer."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from acne_lab.build import build, run_logger
from acne_lab.callbacks import AtomicCheckpointIO, Checkpoint, Replicas
from acne_lab.data.pack import pack
from acne_lab.data.table import ImageTable
from acne_lab.runs import Run
from acne_lab.tracking import finish


def start_job(config: dict) -> None:
    """Threads, random numbers, and a Lightning that speaks up only when something is wrong."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore",
        module="pytorch_lightning.*",
        message=".*(not have many workers|eval mode|LeafSpec|is not empty|logging interval|Early stopping cond).*",
    )
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    pl.seed_everything(config["seed"], verbose=False)


def checkpoint(run: Run, name: str, **when: object) -> Checkpoint:
    """Write checkpoints/NAME.ckpt after every epoch, or after those that `when` (ModelCheckpoint's words) asks for."""
    return Checkpoint(
        run.path / "checkpoints", name, enable_version_counter=False, save_on_train_epoch_end=True, **when
    )


def packed(table: ImageTable, config: dict) -> np.memmap:
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
    only_drawn: bool = False,
    close: bool = True,
) -> tuple[object, pl.Trainer]:
    """Train from the run's last checkpoint, or from the start; return the logger (see `run_logger`) and the trainer."""
    logger = run_logger(config, run, x=x, only_drawn=only_drawn)
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
    except BaseException:
        finish(logger)
        raise
    if close:
        finish(logger)
    return logger, trainer
