"""Training a grader with Lightning: photograph in, probability of each severity out.

It knows neither files nor configs: the data module hands it normalised batches, the job reads the
probabilities back from `trainer.predict`. It does not choose its checkpoint either: a ModelCheckpoint on
`val/balanced_accuracy` does.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from acne_lab.grade.backbone import build_backbone, data_config
from acne_lab.grade.heads import built, plain
from acne_lab.grade.losses import inverse_frequency
from acne_lab.grade.schedules import check_schedule, warmup_cosine, warmup_step
from acne_lab.metrics.grading import grading_report

Batch = tuple[Tensor, Tensor, Tensor]  # images [B, 3, H, W], labels int64 [B], lesion counts float [B] (NaN unknown)


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
        input_size: side in px to which square images are resized (bilinear) before the backbone; None: as
            they come. Small lesions survive a backbone's first strides only if they are large enough.
        drop_rate: of the features before the head, in [0, 1).
        class_weighted: weigh the loss by inverse class frequency in the training set. Use this or a balanced
            sampler: both together count the rare classes twice.
        optimizer: parameters -> optimizer, e.g. a partial of torch.optim.AdamW. None: for prediction only.
        schedule: of the learning rate after the warm-up: "cosine", to 0 at the end, or "step", times `decay` at
            each of `milestones`.
        warmup: share of all steps in which the learning rate rises, in [0, 1).
        milestones: epochs after which the learning rate falls, of schedule "step"; None for "cosine".
        decay: factor on the learning rate at each milestone, in (0, 1].
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
        drop_rate: float = 0.0,
        class_weighted: bool = False,
        optimizer: Callable[[Iterable], torch.optim.Optimizer] | None = None,
        schedule: str = "cosine",
        warmup: float = 0.1,
        milestones: Sequence[int] | None = None,
        decay: float = 0.5,
    ):
        super().__init__()
        check_schedule(schedule, warmup=warmup, milestones=milestones, decay=decay)
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
                "drop_rate": drop_rate,
            },
            logger=False,
        )
        self.classes = classes
        self.backbone = build_backbone(backbone, pretrained=pretrained, kwargs=backbone_kwargs)
        self.backbone.to(memory_format=torch.channels_last)  # 25-35 % faster on a CPU
        self.dropout = nn.Dropout(drop_rate)
        self.head = head(num_features=self.backbone.head_hidden_size, num_classes=len(classes))
        self.input_size = input_size
        self.class_weighted = class_weighted
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.milestones = milestones
        self.decay = decay
        self.register_buffer("class_weights", torch.ones(len(classes)))
        self._val_outputs: list[tuple[Tensor, ...]] = []

    @property
    def data_config(self) -> dict:
        """mean, std and input_size that the backbone's weights expect."""
        return data_config(self.backbone)

    def features(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], normalised -> what the backbone sees in them [B, F]."""
        if self.input_size is not None and images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        return self.backbone(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], normalised -> the head's outputs [B, K]; `head.graded` makes probabilities of them."""
        return self.head(self.dropout(self.features(images)))

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule
        if data is None:  # the job predicts with a loader of its own
            return
        if list(data.classes) != self.classes:
            raise ValueError(
                f"the grader has the classes {self.classes}, the data has {list(data.classes)}: "
                "train a grader on this data, or prepare the data with the grader's classes"
            )
        if stage == "fit" and self.head.uses_counts and not data.knows_counts:
            raise ValueError(
                "this head learns from lesion counts, and no training image has one: fill the column lesions of the "
                "table, or choose head=softmax, focal, coral or corn"
            )
        if stage == "fit" and self.class_weighted:
            self.class_weights.copy_(inverse_frequency(data.class_counts))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, counts = batch
        loss = self.head.loss(self(images), labels, counts, class_weights=self.class_weights)
        if not loss.isfinite():
            raise ValueError(f"the training loss became {loss.item()}: lower the learning rate")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

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
        probabilities, counts = self.head.graded(outputs)
        return probabilities, probabilities.new_full((len(outputs),), torch.nan) if counts is None else counts

    def configure_optimizers(self) -> dict:
        assert self.optimizer is not None, "this grader was built for prediction only: give it an optimizer"
        optimizer = self.optimizer(self.parameters())
        num_steps = int(self.trainer.estimated_stepping_batches)
        num_warmup = round(self.warmup * num_steps)
        if self.schedule == "cosine":
            factor = partial(warmup_cosine, num_warmup=num_warmup, num_steps=num_steps)
        else:
            milestones = [epoch * self.trainer.num_training_batches for epoch in self.milestones]
            factor = partial(warmup_step, num_warmup=num_warmup, milestones=milestones, decay=self.decay)
        schedule = LambdaLR(optimizer, lambda step: factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
