"""Training the refiner as a LightningModule: two phases by hand, one clock (`images_seen`).

It does not know where exercises come from: a batch is (photographs uint8 [B, 3, S, S], overlaid ones likewise, masks
bool [B, 1, S, S]).
"""

from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from acne_lab.data.module import loader
from acne_lab.edit.exercises import EndlessExercises, Exercises, as_batch
from acne_lab.edit.losses import (
    discriminator_loss,
    feature_matching,
    generator_loss,
    masked_cells,
    pixel_loss,
    r1_penalty,
)
from acne_lab.edit.networks import Inpainter, PatchDiscriminator
from acne_lab.metrics.features import feature_distance

Batch = tuple[Tensor, Tensor, Tensor]


class RefinerTraining(pl.LightningModule):
    """Generator and discriminator of the refiner, their losses, and the generator's average.

    Args:
        G: paints the masked part.
        D: scores patches of the inpainted image.
        optimizer: partial of a torch optimizer, for both.
        adversarial: weight of the non-saturating loss.
        matching: weight of the distance of D's features.
        inside: weight of the error of masked pixels; large ones blur.
        outside: weight of that of the others, which the result does not hold: it ties a G without condition to the
            mask's surroundings. With one, G starts without an error there, and would be kept from learning anything.
        perceptual: weight of the distance of pretrained features; needs `features`.
        r1_gamma: weight of the R1 penalty, per cell of D.
        r1_interval: D is regularised every so many iterations, and so many times as strongly.
        ema: decay of the generator's average at each iteration; 0 keeps none.
        features: network, images [N, 3, H, W] in [-1, 1] -> feature maps; it is not trained, nor in checkpoints.
    """

    def __init__(
        self,
        *,
        G: Inpainter,
        D: PatchDiscriminator,
        optimizer: partial,
        adversarial: float = 1.0,
        matching: float = 10.0,
        inside: float = 30.0,
        outside: float = 0.0,
        perceptual: float = 0.0,
        r1_gamma: float = 0.1,
        r1_interval: int = 4,
        ema: float = 0.995,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        weights = {"adversarial": adversarial, "matching": matching, "inside": inside, "outside": outside}
        weights |= {"perceptual": perceptual, "r1_gamma": r1_gamma}
        if wrong := [f"model.{name}={value}" for name, value in weights.items() if value < 0]:
            raise ValueError(f"{', '.join(wrong)} must not be negative")
        if r1_interval < 1:
            raise ValueError(f"model.r1_interval={r1_interval} must be at least 1")
        if perceptual and features is None:
            raise ValueError("the perceptual loss needs features")
        if not 0 <= ema < 1:
            raise ValueError(f"model.ema={ema} must be at least 0 and below 1")
        self.automatic_optimization = False
        self.G, self.D = G, D
        self.average = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        self.average.requires_grad_(False)
        self.optimizer, self.weights = optimizer, weights
        self.r1_interval = r1_interval
        self._features = (features,)  # in a tuple, where neither checkpoints nor optimizers look
        self.images_seen = 0

    @property
    def G_ema(self) -> Inpainter:
        return self.average.module

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        photo, overlaid, mask = floats(batch)
        iteration = self.images_seen // len(photo)
        opt_g, opt_d = self.optimizers()
        noise = torch.randn_like(mask)

        self.D.requires_grad_(False)
        opt_g.zero_grad(set_to_none=True)
        painted = self.G.paint(photo, overlaid, mask, noise)
        fake = torch.where(mask.bool(), painted, photo)
        fake_logits, fake_features = self.D(fake)
        with torch.no_grad():
            _, real_features = self.D(photo)
        cells = masked_cells(mask, fake_logits.shape[-2:])
        losses = {
            "adversarial": generator_loss(fake_logits, cells),
            "matching": feature_matching(fake_features, real_features),
            "pixel": pixel_loss(painted, photo, mask, inside=self.weights["inside"], outside=self.weights["outside"]),
        }
        if self.weights["perceptual"]:
            [features] = self._features
            losses["perceptual"] = feature_distance(features(fake), features(photo)).mean()
        self.step(opt_g, sum(self.weights.get(name, 1.0) * loss for name, loss in losses.items()))
        for name, loss in losses.items():
            self.record(f"loss/{name}", loss)
        self.D.requires_grad_(True)

        opt_d.zero_grad(set_to_none=True)
        regularize = self.weights["r1_gamma"] and iteration % self.r1_interval == 0
        real = photo.requires_grad_(bool(regularize))
        real_logits, _ = self.D(real)
        fake_logits, _ = self.D(fake.detach())
        loss = discriminator_loss(real_logits, fake_logits, cells)
        self.record("loss/D", loss)
        self.record("score/real", (real_logits * cells).sum() / cells.sum().clamp(min=1))
        self.record("score/fake", (fake_logits * cells).sum() / cells.sum().clamp(min=1))
        if regularize:
            penalty = r1_penalty(real_logits, real, self.weights["r1_gamma"])
            self.record("loss/r1", penalty)
            loss = loss + penalty * self.r1_interval
        self.step(opt_d, loss)

        self.images_seen += len(photo)
        self.average.update_parameters(self.G)
        self.log("images_seen", float(self.images_seen), on_step=False, on_epoch=True, reduce_fx="max", batch_size=1)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        if not loss.isfinite():
            raise ValueError(f"a loss became {loss.item()}: lower model.optimizer.lr or raise model.r1_gamma")
        self.manual_backward(loss)
        optimizer.step()

    def record(self, name: str, value: Tensor) -> None:
        """Log the mean of `value` over the tick."""
        self.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=1)

    @torch.no_grad()
    def refined(self, batch: Batch, *, seed: int = 0) -> Tensor:
        """What the averaged generator makes of a batch: uint8 [B, 3, S, S]."""
        photo, overlaid, mask = floats([part.to(self.device) for part in batch])
        noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        images = self.G_ema.eval()(photo, overlaid, mask, noise)
        return (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer(network.parameters()) for network in (self.G, self.D)]

    def on_fit_start(self) -> None:
        if self.weights["perceptual"]:
            self._features[0].to(self.device)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["refiner"] = {"images_seen": self.images_seen}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.images_seen = checkpoint["refiner"]["images_seen"]


def floats(batch: Batch) -> Batch:
    """uint8 images -> [-1, 1], bool masks -> 0 and 1."""
    photo, overlaid, mask = batch
    return photo.float() / 127.5 - 1, overlaid.float() / 127.5 - 1, mask.float()


class PatchData(pl.LightningDataModule):
    """The endless stream of exercises; the module that trains on it must have `images_seen`, where it goes on.

    Args:
        exercises: of training patches.
        batch_size: exercises a step.
        seed: of their order, flips and lesions.
        mirror: flip half of them left to right.
    """

    def __init__(self, *, exercises: Exercises, batch_size: int, seed: int, mirror: bool) -> None:
        super().__init__()
        self.exercises, self.batch_size, self.seed, self.mirror = exercises, batch_size, seed, mirror

    def train_dataloader(self) -> DataLoader:
        batches = EndlessExercises(
            self.exercises,
            batch_size=self.batch_size,
            seed=self.seed,
            mirror=self.mirror,
            start=lambda: int(self.trainer.lightning_module.images_seen),
        )
        return loader(batches)

    def shown(self, num: int) -> Batch:
        """The exercises that sample grids show, the same every time: of patches with lesions, evenly spaced."""
        patches = self.exercises.patches
        with_lesions = np.nonzero(np.diff(patches.first))[0] if len(patches.boxes) else np.arange(len(patches))
        chosen = with_lesions[np.linspace(0, len(with_lesions) - 1, num).astype(int)]
        return as_batch([self.exercises(int(i), np.random.default_rng(number)) for number, i in enumerate(chosen)])
