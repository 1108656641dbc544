"""StyleGAN2 training as a LightningModule: four phases by hand, one clock (`images_seen`).

It does not know where images come from: a batch is (uint8 images [B, C, R, R], class indices [B]).

With several processes each holds whole networks and every W-th image of the total batch. All draw the random
numbers of the total batch and take their own (`Share`), so their generators stay alike, one checkpoint serves any
number of processes, and the result differs from that of one process by the rounding of sums alone.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from acne_lab.gan.augment import Augment
from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.ema import ema_beta, update_ema
from acne_lab.gan.generator import Generator, fast_layout
from acne_lab.gan.layers import ALONE, Share
from acne_lab.gan.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from acne_lab.ops.extension import native

SAFE_P = 0.8  # below it, augmentations are unlikely to leak into generated images (Karras et al. 2020, section 2.2)
PATH_LENGTH_DECAY = 0.01  # of the running mean of path lengths, once a phase ...
W_AVG_DECAY = 0.005  # ... and of w, towards whose mean truncation goes
PATH_LENGTH_COST = 2  # memory that an image takes there, in images of the other phases (tests/jobs/test_memory.py)


class Latents(NamedTuple):
    """What generated images are made from: z and other [N, z_dim], the first layer of `other`, labels [N, c_dim]."""

    z: Tensor
    other: Tensor
    cutoff: int
    c: Tensor | None


class StyleGAN2(pl.LightningModule):
    """Generator and discriminator, their losses, lazy regularisation, ADA and the generator's average.

    Args:
        G: generator; `G_ema` starts as its copy.
        D: discriminator of the same resolution and channels.
        augment: what D sees is augmented by this pipe.
        optimizer: partial of a torch Adam: lr and betas before the correction for lazy regularisation.
        r1_gamma: weight of the R1 penalty; None is 0.0002 * resolution^2 / total batch.
        r1_interval: D is regularised every so many iterations.
        path_length_weight: weight of the path length penalty; 0 leaves it out.
        path_length_interval: G is regularised every so many iterations.
        style_mixing: probability that a second latent takes over at a random layer.
        microbatch: images of one forward and backward pass; a process's batch is worked off in parts of this size
            and their gradients summed, which needs less memory. None is the whole batch. Path lengths, whose images
            need twice as much, are in parts of half this size.
        reuse_fakes: D learns from the generated images that G has just learnt from, which were made before G's step,
            in place of new ones: faster, and another training than the published one.
        balanced_labels: draw the labels of generated images evenly from the classes, not as often as in the data.
        freeze_d: that many of D's layers, from the image down, keep their weights (Freeze-D, Mo et al. 2020).
        freeze_mapping: the mapping network keeps its weights.
        freeze_synthesis: the synthesis network keeps its weights: only the mapping learns.
        ema_kimg: half-life of the generator's average, in thousands of images; None is total batch * 10 / 32.
        ema_rampup: the half-life is at most this share of the images seen; None does not limit it.
        ada_target: value of r_t = E[sign D(real)] that ADA steers to; None keeps p fixed.
        ada_kimg: thousands of images in which p can go from 0 to 1.
        ada_interval: p is updated every so many iterations.
        max_nonfinite: training ends with an error at the end of a tick whose last iterations, so many in a row,
            had a gradient that was not finite; None never ends it.
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
        microbatch: int | None = None,
        reuse_fakes: bool = False,
        balanced_labels: bool = False,
        freeze_d: int = 0,
        freeze_mapping: bool = False,
        freeze_synthesis: bool = False,
        ema_kimg: float | None = 10.0,
        ema_rampup: float | None = 0.05,
        ada_target: float | None = 0.6,
        ada_kimg: float = 500.0,
        ada_interval: int = 4,
        max_nonfinite: int | None = 50,
    ) -> None:
        super().__init__()
        if (G.img_resolution, G.img_channels, G.c_dim) != (D.img_resolution, D.img_channels, D.c_dim):
            raise ValueError("G and D must agree in img_resolution, img_channels and c_dim")
        if freeze_mapping and freeze_synthesis:
            raise ValueError("freeze_mapping and freeze_synthesis together leave G nothing to learn")
        positive = {"r1_interval": r1_interval, "path_length_interval": path_length_interval, "ada_kimg": ada_kimg}
        positive |= {"ada_interval": ada_interval, "microbatch": 1 if microbatch is None else microbatch}
        if wrong := [f"model.{name}={value}" for name, value in positive.items() if value <= 0]:
            raise ValueError(f"{', '.join(wrong)} must be positive")
        if not 0 <= freeze_d <= len(D.layers()):
            raise ValueError(f"freeze_d={freeze_d} is not a number of D's {len(D.layers())} layers above 4 x 4")
        self.automatic_optimization = False
        self.G, self.D, self.augment = G, D, augment
        self.G_ema = deepcopy(G).eval().requires_grad_(False)
        frozen = [*D.layers()[:freeze_d], *[G.mapping] * freeze_mapping, *[G.synthesis] * freeze_synthesis]
        self.frozen = {parameter for module in frozen for parameter in module.parameters()}
        self.optimizer = optimizer
        self.r1_gamma, self.r1_interval = r1_gamma, r1_interval
        self.path_length_weight, self.path_length_interval = path_length_weight, path_length_interval
        self.style_mixing, self.microbatch, self.balanced_labels = style_mixing, microbatch, balanced_labels
        self.reuse_fakes = reuse_fakes
        self.ema_kimg, self.ema_rampup = ema_kimg, ema_rampup
        self.ada_target, self.ada_kimg, self.ada_interval = ada_target, ada_kimg, ada_interval
        self.max_nonfinite = max_nonfinite
        self.images_seen = 0
        self.operators_before: str | None = None  # of a checkpoint that was loaded
        self.share = ALONE
        self.images_above_safe_p = 0  # shown without a break while p was above SAFE_P
        self.register_buffer("path_length_mean", torch.zeros([]))
        self.register_buffer("sign_sum", torch.zeros([]))  # of D's real logits since ADA's last update
        self.register_buffer("sign_count", torch.zeros([]))
        # Iterations with a gradient that held a NaN or an infinity: so far, and without a good one since.
        self.register_buffer("num_nonfinite", torch.zeros([], dtype=torch.long))
        self.register_buffer("nonfinite_streak", torch.zeros([], dtype=torch.long))
        self.register_buffer("is_finite", torch.tensor(True), persistent=False)  # this iteration, so far

    # ---- one iteration -------------------------------------------------------------------------

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        real, c = images.float() / 127.5 - 1, self.one_hot(labels)
        total = len(real) * self.share.world_size
        iteration = self.images_seen // total
        opt_g, opt_d = self.optimizers()

        with self.trainer.profiler.profile("G main"), self.phase(self.G, opt_g):
            fakes = []
            for latents in self.draw_latents(len(real)):
                fake = self.fake(latents)
                if self.reuse_fakes:
                    fakes.append((fake.detach(), latents.c))
                loss = generator_loss(self.score(fake, latents.c))
                self.manual_backward(loss * (len(latents.z) / len(real)))
                self.record("loss/G", loss)

        if self.path_length_weight and iteration % self.path_length_interval == 0:
            with self.trainer.profiler.profile("G path length"), self.phase(self.G, opt_g):
                self.regularize_generator(max(1, len(real) // 2))  # check_batch: half of the total batch, in all

        with self.trainer.profiler.profile("D main"), self.phase(self.D, opt_d):
            for part, (fake, fake_c) in zip(self.parts(len(real)), fakes or self.new_fakes(len(real)), strict=True):
                fake_logits, real_logits = self.score_both(fake, fake_c, real[part], None if c is None else c[part])
                loss = discriminator_loss(real_logits, fake_logits)
                self.manual_backward(loss * (len(real_logits) / len(real)))
                self.record("loss/D", loss)
                self.record("score/fake", fake_logits.mean())
                self.record("score/real", real_logits.mean())
                if len(fake) > 1:
                    self.record("diversity", fake.std(dim=0).mean() / real[part].std(dim=0).mean())
                self.sign_sum += real_logits.detach().sign().sum()
                self.sign_count += len(real_logits)

        if iteration % self.r1_interval == 0:
            with self.trainer.profiler.profile("D R1"), self.phase(self.D, opt_d):
                self.regularize_discriminator(real, c, total)

        self.images_seen += total
        ema_kimg = total * 10 / 32 if self.ema_kimg is None else self.ema_kimg
        update_ema(self.G_ema, self.G, ema_beta(total, self.images_seen, ema_kimg, self.ema_rampup))
        if self.ada_target is not None and not self.augment.is_identity and (iteration + 1) % self.ada_interval == 0:
            self.update_ada(total)
        self.watch_leak(total)
        self.record("ada/p", torch.tensor(self.augment.p))
        self.log("images_seen", float(self.images_seen), on_step=False, on_epoch=True, reduce_fx="max", batch_size=1)
        self.num_nonfinite += ~self.is_finite
        self.nonfinite_streak.add_(1).mul_(~self.is_finite)
        self.is_finite.fill_(True)

    def regularize_generator(self, n: int) -> None:
        """Path length penalty on n images, weighted by its interval (Karras et al. 2019, section 3.2)."""
        total = torch.zeros_like(self.path_length_mean)
        for latents in self.draw_latents(n, cost=PATH_LENGTH_COST):
            ws = self.ws(latents)
            if not ws.requires_grad:  # a frozen mapping
                ws.requires_grad_()
            images = self.G.synthesis(ws, force_fp32=True)
            noise = self.share.of(torch.randn, *images.shape, device=self.device)
            lengths = path_lengths(images, ws, noise)
            total += lengths.detach().sum()
            mean = self.path_length_mean.lerp(self.over_processes(lengths.detach().mean()), PATH_LENGTH_DECAY)
            loss = path_length_penalty(lengths, mean, self.path_length_weight)
            self.manual_backward(loss * self.path_length_interval * (len(ws) / n))
            self.record("loss/path_length", loss)
        self.path_length_mean.lerp_(self.over_processes(total / n), PATH_LENGTH_DECAY)

    def regularize_discriminator(self, real: Tensor, c: Tensor | None, total: int) -> None:
        """R1 on the images before augmentation, weighted by its interval."""
        gamma = 0.0002 * self.G.img_resolution**2 / total if self.r1_gamma is None else self.r1_gamma
        for part in self.parts(len(real)):
            images = real[part].detach().requires_grad_()
            penalty = r1_penalty(self.score(images, None if c is None else c[part], force_fp32=True), images, gamma)
            self.manual_backward(penalty * self.r1_interval * (len(images) / len(real)))
            self.record("loss/r1", penalty)

    def update_ada(self, batch_size: int) -> None:
        """Move p up when D's real logits are too often positive, down when too rarely; within [0, 1]."""
        r_t = self.over_processes(self.sign_sum) / self.over_processes(self.sign_count)
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

    def parts(self, n: int, cost: int = 1) -> list[slice]:
        """Which of n images each forward and backward pass takes: every k-th, as minibatch-std groups do.

        `cost` is the memory of one of them in images of a microbatch.
        """
        k = min(n, -(-n * cost // (self.microbatch or n * cost)))
        return [slice(i, None, k) for i in range(k)]

    def draw_latents(self, n: int, cost: int = 1) -> list[Latents]:
        """What n generated images are made from, in parts as `parts` cuts them."""
        z, other = (self.share.of(torch.randn, n, self.G.z_dim, device=self.device) for _ in range(2))
        c = self.one_hot(self.share.of(self.draw_labels, n)) if self.G.c_dim else None
        mixes = random.random() < self.style_mixing
        cutoff = random.randrange(1, self.G.num_ws) if mixes else self.G.num_ws
        return [Latents(z[p], other[p], cutoff, None if c is None else c[p]) for p in self.parts(n, cost)]

    def draw_labels(self, n: int) -> Tensor:
        """Classes of n generated images, int64 [n]: as often as in the data, or evenly among those that occur."""
        weights = (self.label_counts > 0).float() if self.balanced_labels else self.label_counts.float()
        return torch.multinomial(weights.to(self.device), n, replacement=True)

    def one_hot(self, labels: Tensor) -> Tensor | None:
        return F.one_hot(labels, self.G.c_dim).float() if self.G.c_dim else None

    def ws(self, latents: Latents) -> Tensor:
        """ws [N, num_ws, w_dim]; from layer `cutoff` on they are the second latent's (style mixing)."""
        ws = self.G.mapping(latents.z, latents.c)
        self.w_sum += ws[:, 0].detach().sum(dim=0)
        self.w_count += len(ws)
        if latents.cutoff == self.G.num_ws:
            return ws
        return torch.cat(
            [ws[:, : latents.cutoff], self.G.mapping(latents.other, latents.c)[:, latents.cutoff :]], dim=1
        )

    def fake(self, latents: Latents) -> Tensor:
        return self.G.synthesis(self.ws(latents))

    def new_fakes(self, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """n generated images and their labels, without gradients, in parts."""
        for latents in self.draw_latents(n):
            with torch.no_grad():
                fake = self.fake(latents)
            yield fake, latents.c

    def score(self, images: Tensor, c: Tensor | None, force_fp32: bool = False) -> Tensor:
        return self.D(self.augment(images), c, force_fp32=force_fp32)

    def score_both(
        self, fake: Tensor, fake_c: Tensor | None, real: Tensor, real_c: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The scores of as many generated images as authentic ones, in one pass: it reads D's weights once."""
        c = None if fake_c is None else torch.cat([fake_c, real_c])
        return self.D(self.augment(torch.cat([fake, real])), c, num_batches=2).chunk(2)

    @contextmanager
    def phase(self, network: nn.Module, optimizer: LightningOptimizer) -> Iterator[None]:
        """Gradients for `network` alone inside, one step of its optimizer at the end.

        A gradient that is not finite is replaced (NaN by 0, infinity by 1e5) and counted. The mean of the w drawn
        inside moves w_avg.
        """
        for parameter in (*self.G.parameters(), *self.D.parameters()):
            parameter.requires_grad_(False)
        for parameter in self.learning(network):
            parameter.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        self.w_sum, self.w_count = torch.zeros_like(self.G.mapping.w_avg), 0
        yield
        if self.w_count:
            self.G.mapping.w_avg.lerp_(self.over_processes(self.w_sum / self.w_count), W_AVG_DECAY)
        gradients = [p.grad for p in self.learning(network) if p.grad is not None]
        if self.share.world_size > 1:
            flat = self.over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        # without a look at the result here, which would make a GPU wait
        self.is_finite &= torch.stack(torch._foreach_norm(gradients)).isfinite().all()
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=1e5, neginf=-1e5)
        optimizer.step()

    def learning(self, network: nn.Module) -> list[nn.Parameter]:
        """The parameters of a network that are not frozen."""
        return [parameter for parameter in network.parameters() if parameter not in self.frozen]

    def over_processes(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.trainer.strategy.reduce(value, reduce_op="mean") if self.share.world_size > 1 else value

    def record(self, name: str, value: Tensor) -> None:
        """Log the mean of `value` over the tick."""
        with self.trainer.profiler.profile("log"):
            self.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # ---- Lightning -----------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        data, world_size = self.trainer.datamodule, self.trainer.world_size
        check_images(data.pixels.shape, self.G)
        check_batch(
            data.batch_size,
            world_size,
            self.microbatch,
            self.D.b4.mbstd_group_size,
            path_length=self.path_length_weight > 0,
        )
        self.share = Share(self.trainer.global_rank, world_size)
        for module in (*self.G.modules(), self.augment):
            if hasattr(module, "share"):
                module.share = self.share
        if self.G.c_dim:
            self.label_counts = torch.bincount(torch.as_tensor(data.labels), minlength=self.G.c_dim)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self.lazy_adam(self.G, self.path_length_interval if self.path_length_weight else 0),
            self.lazy_adam(self.D, self.r1_interval),
        ]

    def lazy_adam(self, network: nn.Module, interval: int) -> torch.optim.Optimizer:
        """Adam corrected for the extra steps of lazy regularisation (Karras et al. 2019, appendix B)."""
        ratio = interval / (interval + 1) if interval else 1.0
        lr = self.optimizer.keywords["lr"] * ratio
        betas = tuple(float(beta) ** ratio for beta in self.optimizer.keywords["betas"])
        return self.optimizer(self.learning(network), lr=lr, betas=betas)

    def on_fit_start(self) -> None:
        fast_layout(self)
        if self.operators_before not in (None, self.operators):
            rank_zero_warn(
                f"this run was trained with {self.operators_before} operators and goes on with {self.operators} ones "
                "(`acne-lab ops info` says why): the training is the same up to rounding, not to the bit"
            )

    @property
    def operators(self) -> str:
        """Which operators train here: "native" or "reference"."""
        return "native" if native(self.device) else "reference"

    @property
    def in_doubt(self) -> bool:
        """Whether the last gradient was not finite, and training may end by those that follow."""
        return self.max_nonfinite is not None and bool(self.nonfinite_streak)

    def on_train_epoch_end(self) -> None:
        """Runs before the tick's checkpoint is written: the last good one stays."""
        self.sign_sum.copy_(self.over_processes(self.sign_sum))  # one checkpoint serves any number of processes
        self.sign_count.copy_(self.over_processes(self.sign_count))
        if self.max_nonfinite is not None and self.nonfinite_streak >= self.max_nonfinite:
            raise ValueError(
                f"the gradients of the last {int(self.nonfinite_streak)} iterations were not finite: lower "
                "model.optimizer.lr, raise model.r1_gamma or set model.G.num_half_res=0"
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["gan"] = {
            "images_seen": self.images_seen,
            "images_above_safe_p": self.images_above_safe_p,
            "operators": self.operators,
            "num_half_res": {name: getattr(self, name).init_kwargs["num_half_res"] for name in ("G", "D")},
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["gan"]
        self.images_seen, self.images_above_safe_p = state["images_seen"], state["images_above_safe_p"]
        self.operators_before = state.get("operators")


def check_images(shape: tuple[int, int, int, int], G: Generator) -> None:
    """Raise a ValueError unless pixels of the shape [N, R, R, C] are what G makes."""
    _, side, _, channels = shape
    if side != G.img_resolution:
        raise ValueError(
            f"the training images are of {side} px, the networks of {G.img_resolution} px: set data.resolution, and "
            "leave model.G.img_resolution and model.D.img_resolution to follow it"
        )
    if channels != G.img_channels:
        raise ValueError(
            f"the training images have {channels} channels (every photograph is read as RGB), the networks have "
            f"{G.img_channels}: leave model.G.img_channels={G.img_channels} and model.D.img_channels out. Networks of "
            "gray and RGBA images can be converted and sampled, not trained"
        )


def check_batch(
    batch_size: int,
    world_size: int,
    microbatch: int | None,
    group_size: int | None,
    *,
    path_length: bool,
) -> None:
    """Raise a ValueError unless the batch divides among processes, and each of its parts into minibatch-std groups.

    Path lengths are those of half the batch: this must divide among processes as well.
    """
    if batch_size % world_size:
        raise ValueError(f"a batch of {batch_size} does not divide among {world_size} processes: stage.batch_size=...")
    if path_length and world_size > 1 and (batch_size // 2) % world_size:
        raise ValueError(
            f"the path length is regularised on {batch_size // 2} images, which do not divide among {world_size} "
            f"processes: choose a multiple of {2 * world_size} for stage.batch_size, or model.path_length_weight=0"
        )
    part = batch_size // world_size if microbatch is None else microbatch
    if (batch_size // world_size) % part:
        raise ValueError(
            f"the {batch_size // world_size} images of a process do not divide into parts of model.microbatch={part}"
        )
    if group_size is None:
        raise ValueError(
            "the minibatch-std groups of a whole pass change with the number of processes and of parts: set "
            f"model.D.mbstd_group_size to a number that divides {part}"
        )
    if part % min(group_size, batch_size):
        raise ValueError(
            f"{part} images of one pass do not divide into minibatch-std groups of {group_size}: choose a multiple "
            "for stage.batch_size (model.microbatch), or another model.D.mbstd_group_size"
        )
