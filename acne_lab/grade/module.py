"""Training a grader with Lightning: photograph in, probability of each severity out.

It knows neither files nor configs: the data module hands it normalised batches, the job reads the
probabilities back from `trainer.predict`. It does not choose its checkpoint either: a ModelCheckpoint on
`val/balanced_accuracy` does.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from acne_lab.grade.backbone import build_backbone, data_config
from acne_lab.grade.heads import LinearHead
from acne_lab.grade.losses import cross_entropy, focal_loss, inverse_frequency
from acne_lab.metrics.grading import grading_report


def warmup_cosine(step: int, *, num_warmup: int, num_steps: int) -> float:
    """Factor on the learning rate at step `step` (from 0): a straight rise, then half a cosine down to 0."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    if step >= num_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


class Grader(pl.LightningModule):
    """A timm backbone and a linear softmax head.

    Logs train/loss, val/loss, val/accuracy and val/balanced_accuracy once an epoch.

    Args:
        backbone: a timm model name, see `build_backbone`.
        classes: severity names, mild first; they must be those of the data.
        pretrained: False, True (hub), `package` or a weights file, see `build_backbone`.
        backbone_kwargs: more arguments of timm's constructor; None for none.
        input_size: side in px to which square images are resized (bilinear) before the backbone; None: as
            they come. Small lesions survive a backbone's first strides only if they are large enough.
        drop_rate: of the features before the linear layer.
        loss: "cross_entropy" or "focal".
        label_smoothing: share of the target that is spread over all classes, in [0, 1); of cross-entropy only.
        class_weighted: weigh the loss by inverse class frequency in the training set. Use this or a balanced
            sampler: both together count the rare classes twice.
        optimizer: parameters -> optimizer, e.g. a partial of torch.optim.AdamW. None: for prediction only.
        warmup: share of all steps in which the learning rate rises, in [0, 1); then it follows a cosine to 0.
    """

    def __init__(
        self,
        *,
        backbone: str,
        classes: Iterable[str],
        pretrained: bool | str = False,
        backbone_kwargs: dict | None = None,
        input_size: int | None = None,
        drop_rate: float = 0.0,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weighted: bool = False,
        optimizer: Callable[[Iterable], torch.optim.Optimizer] | None = None,
        warmup: float = 0.1,
    ):
        super().__init__()
        if loss not in ("cross_entropy", "focal"):
            raise ValueError(f"model.loss must be cross_entropy or focal, not {loss}")
        if loss == "focal" and label_smoothing:
            raise ValueError("the focal loss knows no label smoothing: model.label_smoothing=0")
        classes = list(classes)
        # What load_from_checkpoint needs to build the same network again: plain values, and no other weights.
        self.save_hyperparameters(
            {
                "backbone": backbone,
                "classes": classes,
                "pretrained": False,
                "backbone_kwargs": backbone_kwargs,
                "input_size": input_size,
                "drop_rate": drop_rate,
                "loss": loss,
                "label_smoothing": label_smoothing,
                "class_weighted": class_weighted,
                "warmup": warmup,
            },
            logger=False,
        )
        self.classes = classes
        self.backbone = build_backbone(backbone, pretrained=pretrained, kwargs=backbone_kwargs)
        self.backbone.to(memory_format=torch.channels_last)  # 25-35 % faster on a CPU
        self.head = LinearHead(
            num_features=self.backbone.head_hidden_size, num_classes=len(classes), drop_rate=drop_rate
        )
        self.input_size = input_size
        self.loss = focal_loss if loss == "focal" else partial(cross_entropy, label_smoothing=label_smoothing)
        self.class_weighted = class_weighted
        self.optimizer = optimizer
        self.warmup = warmup
        self.register_buffer("class_weights", torch.ones(len(classes)))
        self._val_outputs: list[tuple[Tensor, Tensor]] = []

    @property
    def data_config(self) -> dict:
        """mean, std and input_size that the backbone's weights expect."""
        return data_config(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], normalised -> logits [B, C]."""
        if self.input_size is not None and images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        return self.head(self.backbone(images.contiguous(memory_format=torch.channels_last)))

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule
        if data is None:  # the job predicts with a loader of its own
            return
        if list(data.classes) != self.classes:
            raise ValueError(
                f"the grader has the classes {self.classes}, the data has {list(data.classes)}: "
                "train a grader on this data, or prepare the data with the grader's classes"
            )
        if stage == "fit" and self.class_weighted:
            self.class_weights.copy_(inverse_frequency(data.class_counts))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = self.loss(self(images), labels, class_weights=self.class_weights)
        if not loss.isfinite():
            raise ValueError(f"the training loss became {loss.item()}: lower the learning rate")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self._val_outputs.append((self(images), labels))

    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(column).float().cpu() for column in zip(*self._val_outputs))
        self._val_outputs.clear()
        labels = labels.long()
        report = grading_report(logits.softmax(dim=1), labels, self.classes)
        # Plain cross-entropy, whatever the training loss: comparable between recipes.
        self.log("val/loss", cross_entropy(logits, labels))
        self.log("val/accuracy", report["accuracy"])
        self.log("val/balanced_accuracy", report["balanced_accuracy"], prog_bar=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Probabilities [B, C] in float32; the rows come in the loader's order."""
        images, _ = batch
        return self(images).float().softmax(dim=1)

    def configure_optimizers(self) -> dict:
        assert self.optimizer is not None, "this grader was built for prediction only: give it an optimizer"
        optimizer = self.optimizer(self.parameters())
        num_steps = int(self.trainer.estimated_stepping_batches)
        num_warmup = round(self.warmup * num_steps)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, num_warmup=num_warmup, num_steps=num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
