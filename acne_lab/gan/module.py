"""StyleGAN2 training as a LightningModule: four phases by hand, one clock (`images_seen`).

It does not know where images come from: a batch is (uint8 images [B, C, R, R], class indices [B]). It does not
know Freeze-D, gradient accumulation or several devices yet; fakes take the labels of the batch's real images.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from acne_lab.gan.augment import Augment
from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.ema import ema_beta, update_ema
from acne_lab.gan.generator import Generator
from acne_lab.gan.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)

SAFE_P = 0.8  # below it, augmentations are unlikely to leak into generated images (Karras et al. 2020, section 2.2)


class StyleGAN2(pl.LightningModule):
    """Generator and discriminator, their losses, lazy regularisation, ADA and the generator's average.

    Args:
        G: generator; `G_ema` starts as its copy.
        D: discriminator of the same resolution and channels.
        augment: what D sees is augmented by this pipe.
        optimizer: partial of a torch Adam: lr and betas before the correction for lazy regularisation.
        r1_gamma: weight of the R1 penalty; None is 0.0002 * resolution^2 / batch.
        r1_interval: D is regularised every so many iterations.
        path_length_weight: weight of the path length penalty; 0 leaves it out.
        path_length_interval: G is regularised every so many iterations.
        style_mixing: probability that a second latent takes over at a random layer.
        ema_kimg: half-life of the generator's average, in thousands of images.
        ema_rampup: the half-life is at most this share of the images seen; None does not limit it.
        ada_target: value of r_t = E[sign D(real)] that ADA steers to; None keeps p fixed.
        ada_kimg: thousands of images in which p can go from 0 to 1.
        ada_interval: p is updated every so many iterations.
    """

    def __init__(
        self,
        *,
        G: Generator,
        D: Discriminator,
        augment: Augment,
        optimizer: partial,
        r1_gamma: float | None = None,
        r1_interval: int = 16,
        path_length_weight: float = 2.0,
        path_length_interval: int = 4,
        style_mixing: float = 0.9,
        ema_kimg: float = 10.0,
        ema_rampup: float | None = 0.05,
        ada_target: float | None = 0.6,
        ada_kimg: float = 500.0,
        ada_interval: int = 4,
    ) -> None:
        super().__init__()
        if (G.img_resolution, G.img_channels, G.c_dim) != (D.img_resolution, D.img_channels, D.c_dim):
            raise ValueError("G and D must agree in img_resolution, img_channels and c_dim")
        self.automatic_optimization = False
        self.G, self.D, self.augment = G, D, augment
        self.G_ema = deepcopy(G).eval().requires_grad_(False)
        self.optimizer = optimizer
        self.r1_gamma, self.r1_interval = r1_gamma, r1_interval
        self.path_length_weight, self.path_length_interval = path_length_weight, path_length_interval
        self.style_mixing = style_mixing
        self.ema_kimg, self.ema_rampup = ema_kimg, ema_rampup
        self.ada_target, self.ada_kimg, self.ada_interval = ada_target, ada_kimg, ada_interval
        self.images_seen = 0
        self.num_nonfinite = 0  # parameter gradients that held a NaN or an infinity so far
        self.images_above_safe_p = 0  # shown without a break while p was above SAFE_P
        self.register_buffer("path_length_mean", torch.zeros([]))
        self.register_buffer("sign_sum", torch.zeros([]))  # of D's real logits since ADA's last update
        self.register_buffer("sign_count", torch.zeros([]))

    # ---- one iteration -------------------------------------------------------------------------

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        real = images.float() / 127.5 - 1
        c = self.one_hot(labels)
        batch_size = len(real) * self.trainer.world_size
        iteration = self.images_seen // batch_size
        opt_g, opt_d = self.optimizers()

        with self.phase(self.G, opt_g):
            loss = generator_loss(self.score(self.fake(len(real), c), c))
            self.manual_backward(loss)
        self.record("loss/G", loss)

        if self.path_length_weight and iteration % self.path_length_interval == 0:
            with self.phase(self.G, opt_g):
                self.regularize_generator(max(1, len(real) // 2), c)

        with self.phase(self.D, opt_d):
            with torch.no_grad():
                fake = self.fake(len(real), c)
            fake_logits, real_logits = self.score(fake, c), self.score(real, c)
            loss = discriminator_loss(real_logits, fake_logits)
            self.manual_backward(loss)
        self.record("loss/D", loss)
        self.record("score/fake", fake_logits.mean())
        self.record("score/real", real_logits.mean())
        self.sign_sum += real_logits.detach().sign().sum()
        self.sign_count += len(real_logits)

        if iteration % self.r1_interval == 0:
            with self.phase(self.D, opt_d):
                self.regularize_discriminator(real, c)

        self.images_seen += batch_size
        update_ema(self.G_ema, self.G, ema_beta(batch_size, self.images_seen, self.ema_kimg, self.ema_rampup))
        if self.ada_target is not None and not self.augment.is_identity and (iteration + 1) % self.ada_interval == 0:
            self.update_ada(batch_size)
        self.watch_leak(batch_size)
        self.record("ada/p", torch.tensor(self.augment.p))
        self.record("num_nonfinite", torch.tensor(float(self.num_nonfinite)))

    def regularize_generator(self, n: int, c: Tensor | None) -> None:
        """Path length penalty on n images, weighted by its interval (Karras et al. 2019, section 3.2)."""
        ws = self.latents(n, None if c is None else c[:n])
        lengths = path_lengths(self.G.synthesis(ws, force_fp32=True), ws)
        loss, mean = path_length_penalty(lengths, self.path_length_mean, self.path_length_weight)
        self.path_length_mean.copy_(mean)
        self.manual_backward(loss * self.path_length_interval)
        self.record("loss/path_length", loss)

    def regularize_discriminator(self, real: Tensor, c: Tensor | None) -> None:
        """R1 on the images before augmentation, weighted by its interval."""
        real = real.detach().requires_grad_()
        gamma = self.r1_gamma
        if gamma is None:
            gamma = 0.0002 * self.G.img_resolution**2 / (len(real) * self.trainer.world_size)
        penalty = r1_penalty(self.score(real, c, force_fp32=True), real, gamma)
        self.manual_backward(penalty * self.r1_interval)
        self.record("loss/r1", penalty)

    def update_ada(self, batch_size: int) -> None:
        """Move p up when D's real logits are too often positive, down when too rarely; within [0, 1]."""
        r_t = self.sign_sum / self.sign_count
        step = batch_size * self.ada_interval / (self.ada_kimg * 1000)
        self.augment.p = min(max(self.augment.p + step * float((r_t - self.ada_target).sign()), 0.0), 1.0)
        self.record("ada/r_t", r_t)
        self.sign_sum.zero_()
        self.sign_count.zero_()

    def watch_leak(self, batch_size: int) -> None:
        """Warn when p has been above SAFE_P for as long as ADA takes from there to 1: it has not found its way back.

        `ada/leak` is 1 from then on, until p is back at SAFE_P or below.
        """
        limit = (1 - SAFE_P) * self.ada_kimg * 1000
        before = self.images_above_safe_p
        self.images_above_safe_p = before + batch_size if self.augment.p > SAFE_P else 0
        if before < limit <= self.images_above_safe_p:
            rank_zero_warn(
                f"ada/p has been above {SAFE_P} for {limit / 1000:g} kimg: look for augmentations in the generated "
                "images (turned faces, odd colours). A transform that leaks is switched off by e.g. "
                "model.augment.rotate=0; more images or a smaller D need less augmentation"
            )
        self.record("ada/leak", torch.tensor(float(self.images_above_safe_p >= limit)))

    # ---- its parts -----------------------------------------------------------------------------

    def one_hot(self, labels: Tensor) -> Tensor | None:
        return F.one_hot(labels, self.G.c_dim).float() if self.G.c_dim else None

    def latents(self, n: int, c: Tensor | None) -> Tensor:
        """ws [n, num_ws, w_dim] of new z, with style mixing."""
        z = torch.randn(n, self.G.z_dim, device=self.device)
        ws = self.G.mapping(z, c, update_w_avg=True)
        if self.style_mixing > 0 and random.random() < self.style_mixing:
            cutoff = random.randrange(1, self.G.num_ws)
            other = self.G.mapping(torch.randn_like(z), c)
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return ws

    def fake(self, n: int, c: Tensor | None) -> Tensor:
        return self.G.synthesis(self.latents(n, c))

    def score(self, images: Tensor, c: Tensor | None, force_fp32: bool = False) -> Tensor:
        return self.D(self.augment(images), c, force_fp32=force_fp32)

    @contextmanager
    def phase(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Gradients for `network` alone inside, one step of its optimizer at the end.

        A gradient that is not finite is replaced (NaN by 0, infinity by 1e5) and counted.
        """
        other = self.D if network is self.G else self.G
        network.requires_grad_(True)
        other.requires_grad_(False)
        optimizer.zero_grad(set_to_none=True)
        yield
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        if not norms.isfinite().all():
            self.num_nonfinite += int((~norms.isfinite()).sum())
            for gradient in gradients:
                gradient.nan_to_num_(nan=0.0, posinf=1e5, neginf=-1e5)
        optimizer.step()

    def record(self, name: str, value: Tensor) -> None:
        """Log the mean of `value` over the tick."""
        self.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # ---- Lightning -----------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self.lazy_adam(self.G, self.path_length_interval if self.path_length_weight else 0),
            self.lazy_adam(self.D, self.r1_interval),
        ]

    def lazy_adam(self, network: torch.nn.Module, interval: int) -> torch.optim.Optimizer:
        """Adam corrected for the extra steps of lazy regularisation (Karras et al. 2019, appendix B)."""
        ratio = interval / (interval + 1) if interval else 1.0
        lr = self.optimizer.keywords["lr"] * ratio
        betas = tuple(float(beta) ** ratio for beta in self.optimizer.keywords["betas"])
        return self.optimizer(network.parameters(), lr=lr, betas=betas)

    def on_fit_start(self) -> None:
        self.to(memory_format=torch.channels_last)  # the convolutions' fast layout

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["gan"] = {
            "images_seen": self.images_seen,
            "num_nonfinite": self.num_nonfinite,
            "images_above_safe_p": self.images_above_safe_p,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["gan"]
        self.images_seen, self.num_nonfinite = state["images_seen"], state["num_nonfinite"]
        self.images_above_safe_p = state["images_above_safe_p"]
