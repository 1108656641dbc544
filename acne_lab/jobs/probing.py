"""Training many heads on a frozen backbone in place of one grader: what `experiment=probe` does.

The images go through the backbone once and never again; the rest is `grade.probe`. What comes out is a grader like any
other, with the best head on top: `best.ckpt`, from which the test is opened and later jobs load it.
"""

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from acne_lab.build import build, run_logger
from acne_lab.callbacks import AtomicCheckpointIO
from acne_lab.data.module import GraderData, Part, epoch_order, seeded, truth_of
from acne_lab.data.pack import pack_key
from acne_lab.grade.features import kept_features
from acne_lab.grade.module import Grader
from acne_lab.grade.probe import Features, Probe, probe
from acne_lab.runs import Run, write_text
from acne_lab.tracking import finish

NOT_OF_HEADS = ("random_crop", "mixup_alpha", "layer_decay", "ema_decay")  # settings of the model


class SeenData:
    """A `GraderData` whose batches hold features in place of images; they are computed when they are first asked for.

    Args:
        data: the images.
        grader: in evaluation.
        config: of the job.
        device: to compute on.
    """

    def __init__(self, data: GraderData, grader: Grader, config: dict, *, device: torch.device) -> None:
        self.train, self.val, self.test, self.classes = data.train, data.val, data.test, data.classes
        self.grader, self.config, self.device = grader, config, device

    def features(self, *parts: Part) -> Features:
        """Of all images of tables, one behind the other."""
        return Features(torch.cat([self._of(part) for part in parts]), *truth_of(parts))

    def val_dataloader(self) -> DataLoader:
        return self._in_row_order(self.val)

    def test_dataloader(self) -> DataLoader:
        return self._in_row_order(self.test)

    def _of(self, part: Part) -> Tensor:
        data = self.config["data"]
        key = pack_key(part[0], resolution=data["resolution"], fit=data["fit"])
        cache_dir = Path(self.config["runs_dir"]) / "features"
        return kept_features(self.grader.to(self.device), part, pixels_key=key, cache_dir=cache_dir)

    def _in_row_order(self, part: Part) -> DataLoader:
        return DataLoader(TensorDataset(*self.features(part)), batch_size=1024)


def fit_heads(grader: Grader, data: GraderData, config: dict, run: Run) -> tuple[object, pl.Trainer, SeenData]:
    """Train the heads that `config["probe"]` describes and leave the grader with the best one as the run's best.ckpt.

    Returns:
        the logger (see `run_logger`), a trainer, and the data to predict for.
    """
    grader.check(data)
    grader.learn_from(data)
    logger = run_logger(config, run, x="epoch")
    try:
        trainer = build(
            config["trainer"], logger=logger or False, enable_checkpointing=False, default_root_dir=run.path
        )
        seen = SeenData(data, grader.eval(), config, device=trainer.strategy.root_device)
        found = best_head(grader, seen, config)
        write_probe(found, grader, run)
        for row in found.curve.to_dict("records") if logger else ():
            logger.log_metrics(row, step=int(row["epoch"]))
    except BaseException:
        finish(logger)
        raise
    return logger, trainer, seen


def check_recipe(config: dict) -> None:
    """Raise a ValueError where the config asks for what no head can have, or for no head at all."""
    if config["protocol"] != "subject":
        raise ValueError(
            f"experiment=probe with protocol={config['protocol']}: that is the recipe of a whole training, its "
            "augmentation, epochs and layers, of which heads on frozen features take nothing. Leave protocol out, or "
            "train with experiment=grader"
        )
    for name in ("lrs", "weight_decays"):
        if not config["probe"][name]:
            raise ValueError(
                f"probe.{name} is empty, so there is no head to train: give one or more, as probe.{name}=[0.01]"
            )
    if config["probe"]["num_seeds"] < 1:
        raise ValueError(f"probe.num_seeds must be at least 1, not {config['probe']['num_seeds']}")
    if config["patience"] is not None:
        raise ValueError("experiment=probe takes the best of all epochs of each head: patience=null")
    if config["model"]["freeze"] != "all":
        raise ValueError("experiment=probe learns nothing but heads: model.freeze=all, or experiment=grader")
    if asked := [name for name in NOT_OF_HEADS if config["model"][name]]:
        raise ValueError(
            f"experiment=probe trains heads on features that do not change, without {', '.join(asked)}: "
            + " ".join(f"model.{name}=null" if "decay" in name else f"model.{name}=0" for name in asked)
        )


def best_head(grader: Grader, seen: SeenData, config: dict) -> Probe:
    """The heads of the grid, trained on the features; see `probe` for how one is chosen."""
    grid, loader, num_epochs = config["probe"], config["loader"], config["trainer"]["max_epochs"]
    train, val = seen.features(*seen.train), seen.features(seen.val)
    epoch_size, batch_size = loader["epoch_size"] or len(train.labels), loader["batch_size"]
    steps = epoch_size // batch_size

    def order(seed: int, epoch: int) -> Tensor:
        """As a grader with this seed would see the images."""
        generator = seeded(seed, epoch)
        rows = epoch_order(train.labels, epoch_size, balanced=loader["balanced"], generator=generator)
        return rows[: steps * batch_size].view(steps, batch_size)

    return probe(
        partial(build(config["model"]["head"]), num_features=train.features.shape[1], num_classes=len(seen.classes)),
        train,
        val,
        lrs=grid["lrs"],
        weight_decays=grid["weight_decays"],
        seeds=[config["seed"] + i for i in range(grid["num_seeds"])],
        order=order,
        num_epochs=num_epochs,
        optimizer=grader.optimizer,
        factor=grader.schedule(num_steps=steps * num_epochs, steps_per_epoch=steps),
        class_weights=grader.class_weights.cpu(),
        drop_rate=grader.dropout.p,
    )


def write_probe(found: Probe, grader: Grader, run: Run) -> None:
    """Put the best head on the grader; write metrics.csv (its epochs), heads.csv (all heads) and best.ckpt."""
    grader.head.load_state_dict(found.weights)
    write_text(run.path / "heads.csv", found.heads.to_csv(index=False))
    write_text(run.path / "metrics.csv", found.curve.to_csv(index=False))
    best = {
        "state_dict": grader.cpu().state_dict(),
        "hyper_parameters": dict(grader.hparams),
        "epoch": found.chosen["epoch"] - 1,  # counted from 0, as Lightning does
        "pytorch-lightning_version": pl.__version__,
    }
    AtomicCheckpointIO().save_checkpoint(best, str(run.path / "checkpoints" / "best.ckpt"))
