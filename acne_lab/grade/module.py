"""Training a grader with Lightning: photograph in, probability of each severity out.

It knows neither files nor configs: the data module hands it normalised batches, the job reads the
probabilities back from `trainer.predict`. It does not choose its checkpoint either: a ModelCheckpoint on
`val/balanced_accuracy` does.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from acne_lab.data.module import GraderData
from acne_lab.grade import finetune
from acne_lab.grade.backbone import build_backbone, data_config
from acne_lab.grade.counts import require_counts
from acne_lab.grade.heads import built, plain
from acne_lab.grade.losses import inverse_frequency
from acne_lab.grade.mixup import mixup
from acne_lab.grade.preprocess import Preprocess
from acne_lab.grade.schedules import Schedule
from acne_lab.metrics.grading import grading_report

Batch = tuple[Tensor, Tensor, Tensor]  # images [B, 3, H, W], labels int64 [B], lesion counts float [B] (NaN unknown)


def check_ranges(*, batch_norm: str, layer_decay: float | None, ema_decay: float | None, mixup_alpha: float) -> None:
    """Raise a ValueError for what no `Grader` takes; head, schedule and backbone look at their own arguments."""
    if batch_norm not in finetune.BATCH_NORM:
        raise ValueError(f"model.batch_norm must be one of {', '.join(finetune.BATCH_NORM)}, not {batch_norm}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"model.layer_decay must be above 0 and at most 1, or null, not {layer_decay}")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(f"model.ema_decay must be between 0 and 1, or null, not {ema_decay}")
    if mixup_alpha < 0:
        raise ValueError(f"model.mixup_alpha must be at least 0, not {mixup_alpha}")


class Grader(pl.LightningModule):
    """A timm backbone and a head.

    Logs train/loss, val/loss, val/accuracy and val/balanced_accuracy once an epoch, and val/mae_count where the head
    estimates lesion counts and some are known.

    Args:
        backbone: a timm model name, see `build_backbone`.
        head: num_features, num_classes -> head: a partial of a class of `heads`, or what `heads.plain` says of one.
        classes: severity names, mild first; they must be those of the data.
        pretrained: False, True (hub), `package` or a weights file, see `build_backbone`.
        backbone_kwargs: more arguments of timm's constructor; None for none.
        input_size: side in px of what the backbone sees of a square image; None: its own. Small lesions survive a
            backbone's first strides only if they are large enough.
        crop_pct: share of the image's side that it sees, in (0, 1]; None: its own.
        interpolation: "bilinear" or "bicubic", to get there; None: its own.
        random_crop: while training it sees that share anywhere in the image, in evaluation the middle.
        drop_rate: of the features before the head, in [0, 1).
        class_weighted: weigh the loss by inverse class frequency in the training set. Use this or a balanced
            sampler: both together count the rare classes twice.
        mixup_alpha: train on means of two images, see `mixup`; 0: do not. Not for heads that learn from counts.
        freeze: the first part of the backbone stays as it is: "all", {"stages": n} or {"layers": n}, see
            `finetune.freeze`; None: everything is trained.
        batch_norm: "train", "frozen_stages" or "eval", see `finetune.hold_statistics`.
        optimizer: parameters -> optimizer, e.g. a partial of torch.optim.AdamW. None: for prediction only.
        layer_decay: in (0, 1], the learning rate of each layer as a share of that of the next one, without weight
            decay of biases and norms, see `finetune.parameter_groups`; None: one rate and one weight decay for all.
        ema_decay: in (0, 1), the most that is kept at a step of the averaged weights, which are those that validate
            and predict; it rises there, min(ema_decay, 1 - step^(-2/3)). None: the latest weights do.
        schedule, warmup, milestones, decay: of the learning rate, see `Schedule`.
    """

    def __init__(
        self,
        *,
        backbone: str,
        head: partial | dict,
        classes: Iterable[str],
        pretrained: bool | str = False,
        backbone_kwargs: dict | None = None,
        input_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        random_crop: bool = False,
        drop_rate: float = 0.0,
        class_weighted: bool = False,
        mixup_alpha: float = 0.0,
        freeze: str | dict[str, int] | None = None,
        batch_norm: str = "frozen_stages",
        optimizer: Callable[[Iterable], torch.optim.Optimizer] | None = None,
        layer_decay: float | None = None,
        ema_decay: float | None = None,
        schedule: str = "cosine",
        warmup: float = 0.1,
        milestones: Sequence[int] | None = None,
        decay: float = 0.5,
    ):
        super().__init__()
        check_ranges(batch_norm=batch_norm, layer_decay=layer_decay, ema_decay=ema_decay, mixup_alpha=mixup_alpha)
        classes = list(classes)
        head = built(head) if isinstance(head, dict) else head
        # What it takes to build the same network again: plain values, and no other weights.
        self.save_hyperparameters(
            {
                "backbone": backbone,
                "head": plain(head),
                "classes": classes,
                "pretrained": False,
                "backbone_kwargs": backbone_kwargs,
                "input_size": input_size,
                "crop_pct": crop_pct,
                "interpolation": interpolation,
                "drop_rate": drop_rate,
                "ema_decay": ema_decay,
            },
            logger=False,
        )
        self.classes = classes
        self.backbone = build_backbone(backbone, pretrained=pretrained, kwargs=backbone_kwargs, input_size=input_size)
        self.backbone.to(memory_format=torch.channels_last)  # 25-35 % faster on a CPU
        if freeze is not None:
            finetune.freeze(self.backbone, freeze)
        own = self.data_config
        self.preprocess = Preprocess(
            input_size=input_size or own["input_size"][-1],
            crop_pct=own["crop_pct"] if crop_pct is None else crop_pct,
            interpolation=interpolation or own["interpolation"],
            mean=own["mean"],
            std=own["std"],
            random_crop=random_crop,
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = head(num_features=self.backbone.head_hidden_size, num_classes=len(classes))
        if mixup_alpha and self.head.uses_counts:
            raise ValueError("this head learns from lesion counts, which have no mean of two images: mixup_alpha=0")
        self.ema = ModelEmaV3(self.latest, decay=ema_decay, use_warmup=True) if ema_decay else None
        self.class_weighted = class_weighted
        self.mixup_alpha = mixup_alpha
        self.batch_norm = batch_norm
        self.optimizer = optimizer
        self.layer_decay = layer_decay
        self.schedule = Schedule(schedule, warmup=warmup, milestones=milestones, decay=decay)
        self.register_buffer("class_weights", torch.ones(len(classes)))
        self._val_outputs: list[tuple[Tensor, ...]] = []

    @property
    def data_config(self) -> dict:
        """What the backbone's weights expect of images: mean, std and more, see `data_config`."""
        return data_config(self.backbone)

    @property
    def latest(self) -> nn.ModuleDict:
        """The networks that are trained, by name: what is averaged."""
        return nn.ModuleDict({"backbone": self.backbone, "head": self.head})

    def use_average(self) -> None:
        """Let the averaged weights, if there are any, be the backbone's and the head's own: training is over."""
        if self.ema is not None:
            self.latest.load_state_dict(self.ema.module.state_dict())
            self.ema = None

    def _used(self, name: str) -> nn.Module:
        """The backbone or the head: the latest while training, the averaged, if there are any, in evaluation."""
        return getattr(self, name) if self.training or self.ema is None else self.ema.module[name]

    def features(self, images: Tensor) -> Tensor:
        """Square images [B, 3, R, R], normalised -> what the backbone sees in them [B, F]."""
        return self._features(self.preprocess(images))

    def forward(self, images: Tensor) -> Tensor:
        """Square images [B, 3, R, R], normalised -> the head's outputs [B, K]; `head.graded` says what they mean.

        Instead of images it takes their features [B, F], if these have been kept.
        """
        return self._outputs(self.features(images) if images.ndim == 4 else images)

    def _features(self, preprocessed: Tensor) -> Tensor:
        return self._used("backbone")(preprocessed.contiguous(memory_format=torch.channels_last))

    def _outputs(self, features: Tensor) -> Tensor:
        return self._used("head")(self.dropout(features))

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule
        if data is None:  # the job predicts with a loader of its own
            return
        self.check(data)
        if stage == "fit":
            self.learn_from(data)

    def check(self, data: GraderData) -> None:
        """Raise a ValueError unless the data has this grader's classes."""
        if list(data.classes) != self.classes:
            raise ValueError(
                f"the grader has the classes {self.classes}, the data has {list(data.classes)}: "
                "train a grader on this data, or prepare the data with the grader's classes"
            )

    def learn_from(self, data: GraderData) -> None:
        """Take from the training images what the loss needs to know before it sees one.

        Raises:
            ValueError: the head learns from lesion counts, and cannot from these.
        """
        if self.head.uses_counts:
            require_counts(data.labels, data.counts)
        if self.class_weighted:
            self.class_weights.copy_(inverse_frequency(data.class_counts))

    def on_train_epoch_start(self) -> None:
        finetune.hold_statistics(self.backbone, batch_norm=self.batch_norm)

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.latest, step=self.trainer.global_step + 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, counts = batch
        weights = self.class_weights
        if self.mixup_alpha:
            images, partners, share = mixup(images, alpha=self.mixup_alpha)
            outputs = self._training_outputs(images)
            loss = share * self.head.loss(outputs, labels, counts, class_weights=weights)
            loss += (1 - share) * self.head.loss(outputs, labels[partners], counts, class_weights=weights)
        else:
            loss = self.head.loss(self._training_outputs(images), labels, counts, class_weights=weights)
        if not loss.isfinite():
            raise ValueError(f"the training loss became {loss.item()}: lower the learning rate")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def _training_outputs(self, images: Tensor) -> Tensor:
        """The forward pass, of which `acne-lab bench` times the first part by itself."""
        with self.trainer.profiler.profile("preprocess"):
            images = self.preprocess(images)
        return self._outputs(self._features(images))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels, counts = batch
        self._val_outputs.append((*self._grade(images), labels, counts))

    def on_validation_epoch_end(self) -> None:
        probabilities, counts, labels, true_counts = (torch.cat(column).cpu() for column in zip(*self._val_outputs))
        self._val_outputs.clear()
        report = grading_report(probabilities, labels, self.classes)
        # The plain cross-entropy of the probabilities, whatever the training loss: comparable between recipes.
        least = torch.finfo(probabilities.dtype).tiny
        self.log("val/loss", F.nll_loss(probabilities.clamp(min=least).log(), labels))
        self.log("val/accuracy", report["accuracy"])
        self.log("val/balanced_accuracy", report["balanced_accuracy"], prog_bar=True)
        errors = (counts - true_counts).abs()
        if not errors.isnan().all():
            self.log("val/mae_count", errors.nanmean())

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Probabilities [B, C] and lesion counts [B] (NaN: the head says nothing of them), in float32.

        The rows come in the loader's order.
        """
        return self._grade(batch[0])

    def _grade(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self(images)
        if num_bad := int((~outputs.isfinite()).any(dim=1).sum()):
            raise ValueError(
                f"the outputs for {num_bad} of {len(outputs)} images are not finite: lower the learning rate"
            )
        probabilities, counts = self._used("head").graded(outputs)
        return probabilities, probabilities.new_full((len(outputs),), torch.nan) if counts is None else counts

    def configure_optimizers(self) -> dict:
        assert self.optimizer is not None, "this grader was built for prediction only: give it an optimizer"
        optimizer = finetune.build_optimizer(self.optimizer, self.backbone, self.head, layer_decay=self.layer_decay)
        num_steps = int(self.trainer.estimated_stepping_batches)
        factor = self.schedule(num_steps=num_steps, steps_per_epoch=self.trainer.num_training_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
