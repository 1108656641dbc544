"""What happens around training: metrics.csv, sample grids, progress, checkpoints that are whole or absent.

Of several processes the first writes.
"""

import os
import random
import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from tqdm import tqdm

from acne_lab.metrics.distances import kernel_distance

DISTANCE = "distance/efficientnet_lite0"  # of the tick's images from the training images


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it: a crash or a full disk leaves the previous one intact."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options: object = None) -> None:
        aside = f"{path}.{os.getpid()}.tmp"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, aside)  # Lightning would write it to the system's temporary folder first
            os.replace(aside, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the second where a disk is full
            raise OSError(
                f"{path} could not be written ({error}): the checkpoint before it is intact. Make room and repeat the "
                "command, it goes on from there"
            ) from error
        finally:
            Path(aside).unlink(missing_ok=True)


class Checkpoint(ModelCheckpoint):
    """Saves at the end of an epoch, but not where a GAN is `in_doubt`: the last good tick stays until it is not."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not getattr(module, "in_doubt", False):
            super().on_train_epoch_end(trainer, module)


class Replicas(DDPStrategy):
    """Several processes that each hold the whole model, which averages its gradients itself.

    Lightning's DDP wraps the model and averages whatever a backward pass has reached. A GAN's iteration has four
    passes through two networks, some twice differentiated, of which that bookkeeping knows nothing.
    """

    def configure_ddp(self) -> None:
        """No wrapper: all processes build the same model from the same seed."""


class RandomState(pl.Callback):
    """Keeps the random number generators in the checkpoint, so that a resumed run draws what it would have drawn.

    Put it before callbacks that draw numbers, and the checkpoints behind all of them.

    Args:
        seed: where a fresh run starts, whatever has been drawn before.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.restored: dict | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.device = trainer.strategy.root_device

    def state_dict(self) -> dict:
        on_gpu = self.device.type == "cuda"
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,  # all processes draw alike
            "python": random.getstate(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.restored = state

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Not earlier: building the loaders draws numbers, and starting several processes seeds them again."""
        if self.restored is None:
            pl.seed_everything(self.seed, verbose=False)
            return
        torch.set_rng_state(self.restored["torch"])
        if self.restored["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.restored["cuda"], self.device)
        version, numbers, gauss = self.restored["python"]
        random.setstate((version, tuple(numbers), gauss))
        self.restored = None


class MetricsTable(pl.Callback):
    """Keeps what was logged, one row an epoch, and writes it as CSV. Its rows travel in the checkpoint.

    Args:
        path: the CSV file.
        x: name of the first column: "images_seen" (of the module) or "epoch".
    """

    def __init__(self, path: Path, *, x: str) -> None:
        self.path, self.x = path, x
        self.rows: list[dict] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.callback_metrics.clear()  # what is not logged in this epoch is to be missing, not stale
        self.started, self.images_at_start = time.perf_counter(), getattr(module, "images_seen", 0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        self.stopped = time.perf_counter()  # grids and evaluations are not training

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        row = {self.x: trainer.current_epoch + 1 if self.x == "epoch" else module.images_seen}
        row |= {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name not in row}
        if self.x == "images_seen":
            kimg = (module.images_seen - self.images_at_start) / 1000
            row["speed/s_per_kimg"] = (self.stopped - self.started) / kimg
        self.rows.append(row)
        if trainer.is_global_zero:
            aside = self.path.with_suffix(".tmp")
            pd.DataFrame(self.rows).to_csv(aside, index=False)
            aside.replace(self.path)
        if trainer.logger is not None:
            extra = {name: row[name] for name in (self.x, "speed/s_per_kimg") if name in row}
            trainer.logger.log_metrics(extra, step=trainer.global_step)

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]


class DivergenceGuard(pl.Callback):
    """Ends a GAN's training that has lost its way, before the checkpoint of that tick replaces the last good one.

    Args:
        max_score: limit on D's mean score of real or generated images over a tick.
        min_diversity: limit on the deviation among generated images (relative to that among real ones), as a
            share of the largest so far: a collapsed generator makes one image.
        patience: the diversity must stay below its limit for so many ticks in a row.
    """

    def __init__(self, *, max_score: float, min_diversity: float, patience: int) -> None:
        self.max_score, self.min_diversity, self.patience = max_score, min_diversity, patience
        self.best, self.num_poor = 0.0, 0

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for kind in ("real", "fake"):
            if not abs(metrics[f"score/{kind}"]) <= self.max_score:  # also where it is not a number
                self._stop(f"the discriminator's score of {kind} images has reached {metrics[f'score/{kind}']:.3g}")
        if "diversity" not in metrics:  # passes of one image each
            return
        is_good = metrics["diversity"] >= self.min_diversity * self.best
        self.best = max(self.best, metrics["diversity"]) if is_good else self.best
        self.num_poor = 0 if is_good else self.num_poor + 1
        if self.num_poor >= self.patience:
            self._stop(f"generated images have been nearly alike for {self.num_poor} ticks")

    @staticmethod
    def _stop(what: str) -> NoReturn:
        raise ValueError(
            f"training has diverged: {what}. Lower model.optimizer.lr, raise "
            "model.r1_gamma or, on few images, use augment=ada; callbacks.divergence_guard=null goes on regardless"
        )

    def state_dict(self) -> dict:
        return {"best": self.best, "num_poor": self.num_poor}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.num_poor = state["best"], state["num_poor"]


class Evaluation(pl.Callback):
    """Logs how far generated images are from the training images, as `DISTANCE`.

    Args:
        extractor: images [N, C, H, W] in [-1, 1] -> features [N, F].
        every_ticks: ticks between evaluations.
        num_images: generated ones, the same latents every time, and at most so many training images.
    """

    BATCH = 50

    def __init__(self, extractor: nn.Module, *, every_ticks: int, num_images: int) -> None:
        self.extractor, self.every_ticks, self.num_images = extractor, every_ticks, num_images
        self.real: Tensor | None = None

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_ticks:
            return
        self.extractor.to(module.device)
        if self.real is None:
            pixels = trainer.datamodule.pixels
            chosen = np.linspace(0, len(pixels) - 1, min(self.num_images, len(pixels))).astype(int)
            reals = torch.from_numpy(np.stack([pixels[i] for i in chosen])).permute(0, 3, 1, 2)
            self.real = torch.cat(
                [self.extractor(part.to(module.device) / 127.5 - 1) for part in reals.split(self.BATCH)]
            )
        z = torch.randn(self.num_images, module.G_ema.z_dim, generator=torch.Generator().manual_seed(1))
        labels = torch.from_numpy(trainer.datamodule.labels)  # as often as in the data
        labels = labels[torch.linspace(0, len(labels) - 1, self.num_images).long()]
        fake = []
        for part, classes in zip(z.split(self.BATCH), labels.split(self.BATCH), strict=True):
            c = module.one_hot(classes.to(module.device))
            fake.append(self.extractor(module.G_ema(part.to(module.device), c, noise_mode="const").clamp(-1, 1)))
        module.log(DISTANCE, kernel_distance(torch.cat(fake), self.real))


class StopWhenNoBetter(EarlyStopping):
    """Ends training once so many measurements in a row were no better than the best before them.

    Lightning's callback keeps its count in the checkpoint, but leaves it to the trainer that it has called a stop:
    killed between the last epoch's checkpoint and its end, a run would train on when it is repeated.

    Args:
        monitor: the metric; epochs without it are passed over.
        mode: "min" or "max", which is better.
        patience: that many measurements.
    """

    def __init__(self, monitor: str, *, mode: str, patience: int) -> None:
        super().__init__(
            monitor, patience=patience, mode=mode, strict=False, check_finite=False, check_on_train_epoch_end=True
        )

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The checkpoint has been read by now, and the first epoch has not begun."""
        trainer.should_stop = self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED


class SampleGrid(pl.Callback):
    """A grid of the averaged generator's images for the same latents after every tick, and one of real images.

    Args:
        folder: tick_0001.png, tick_0002.png, ... and reals.png go here.
        num_images: images in a grid.
        columns: images in a row.
        psi: truncation.
    """

    def __init__(self, folder: Path, *, num_images: int = 32, columns: int = 8, psi: float = 1.0) -> None:
        self.folder, self.num_images, self.columns, self.psi = folder, num_images, columns, psi

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        pixels = trainer.datamodule.pixels
        chosen = np.linspace(0, len(pixels) - 1, min(self.num_images, len(pixels))).astype(int)
        reals = torch.from_numpy(np.stack([pixels[i] for i in chosen])).permute(0, 3, 1, 2)
        self._save(trainer, reals, "reals")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        G = module.G_ema
        rng = torch.Generator().manual_seed(0)
        z = torch.randn(self.num_images, G.z_dim, generator=rng).to(module.device)
        labels = torch.arange(self.num_images, device=module.device) % max(G.c_dim, 1)
        with torch.no_grad():
            images = G(z, module.one_hot(labels), truncation_psi=self.psi, noise_mode="const")
        self._save(trainer, to_uint8(images), f"tick_{trainer.current_epoch + 1:04d}")

    def _save(self, trainer: pl.Trainer, images: Tensor, name: str) -> None:
        picture = grid(images.cpu(), columns=self.columns)
        path = self.folder / f"{name}.png"
        picture.save(path.with_suffix(".tmp"), format="PNG")
        path.with_suffix(".tmp").replace(path)
        if trainer.logger is not None:
            generated = name != "reals"
            shown_as = "samples" if generated else name
            trainer.logger.log_picture(shown_as, picture, generated=generated, step=trainer.global_step)


class RefinedGrid(pl.Callback):
    """Exercises of the refiner after every tick, the same every time, a row each: photograph, overlaid, refined.

    Args:
        folder: tick_0001.png, tick_0002.png, ... go here.
        num_images: exercises.
    """

    def __init__(self, folder: Path, *, num_images: int) -> None:
        self.folder, self.num_images = folder, num_images

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        photo, overlaid, mask = batch = trainer.datamodule.shown(self.num_images)
        shape = (255 * mask.to(torch.uint8)).expand_as(photo)
        rows = torch.stack([photo, shape, overlaid, module.refined(batch).cpu()], dim=1)
        picture = grid(rows.flatten(0, 1), columns=rows.shape[1])
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"tick_{trainer.current_epoch + 1:04d}.png"
        picture.save(path.with_suffix(".tmp"), format="PNG")
        path.with_suffix(".tmp").replace(path)
        if trainer.logger is not None:
            trainer.logger.log_picture("refined", picture, generated=False, step=trainer.global_step)


class Progress(pl.Callback):
    """A progress bar on standard error, with the latest of the metrics `show` behind it.

    Args:
        unit: what is counted.
        per_batch: how many of them a batch is.
        show: metrics to print, under their last name.
    """

    def __init__(self, *, unit: str, per_batch: int, show: tuple[str, ...] = ()) -> None:
        self.unit, self.per_batch, self.show = unit, per_batch, show
        self.shown: dict[str, float] = {}  # of the last epoch: within one, their means are not known yet

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        per_epoch = int(trainer.num_training_batches) * self.per_batch
        self.bar = tqdm(
            total=trainer.max_epochs * per_epoch,
            initial=trainer.current_epoch * per_epoch,
            unit=self.unit,
            unit_scale=True,
            desc="train",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        values = self.shown
        if self.unit == "img" and (rate := self.bar.format_dict.get("rate")):
            values = {"s/kimg": 1000 / rate} | values
        self.bar.set_postfix(values, refresh=False)
        self.bar.update(self.per_batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.shown = {name.rsplit("/", 1)[1]: float(metrics[name]) for name in self.show if name in metrics}

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded and clipped: [N, C, H, W] -> uint8 of the same shape."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def as_pictures(images: Tensor) -> list[Image.Image]:
    """uint8 [N, C, H, W] -> N pictures: gray for one channel, RGB for three, RGBA for four."""
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]


def grid(images: Tensor, *, columns: int) -> Image.Image:
    """Tile uint8 [N, C, H, W] row by row; missing tiles at the end are black, or transparent if images can be."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    tiles = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    tiles[:n] = images
    picture = tiles.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(1, c, rows * h, columns * w)
    return as_pictures(picture)[0]
