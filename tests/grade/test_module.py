import functools

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from acne_lab.data.augment import ClassicalAugment
from acne_lab.data.module import GraderData
from acne_lab.data.table import ImageTable
from acne_lab.grade.heads import SoftmaxHead
from acne_lab.grade.module import Grader

CLASSES = ("mild", "moderate", "severe", "very_severe")


def dotted_faces(num, seed=0):
    """A table of grey images with 1, 4, 9 or 16 red dots: a severity that a tiny network can count."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 4
    pixels = np.full((num, 32, 32, 3), 128, np.uint8)
    for image, label in zip(pixels, labels):
        places = rng.choice(64, (label + 1) ** 2, replace=False)
        for row, column in zip(4 * (places // 8), 4 * (places % 8)):
            image[row : row + 3, column : column + 3] = (255, 60, 60)
    rows = {
        "file_name": [f"images/{seed}/{i}.png" for i in range(num)],
        "severity": [CLASSES[label] for label in labels],
        "lesions": (labels + 1) ** 2,
        "subject": [str(i) for i in range(num)],
        "split": "train",
        "source": "toy",
        "parent": "",
        "sha256": [f"{i:064x}" for i in range(num)],
    }
    return ImageTable(root="nowhere", rows=pd.DataFrame(rows), classes=CLASSES), pixels


def make_data(**arguments):
    defaults = {
        "train": [dotted_faces(32)],
        "val": dotted_faces(8, seed=1),
        "test": dotted_faces(12, seed=2),
        "batch_size": 16,
        "balanced": True,
        "augment": None,
        "seed": 0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return GraderData(**{**defaults, **arguments})


def make_grader(lr=4e-3, **arguments):
    defaults = {
        "backbone": "test_resnet",
        "head": functools.partial(SoftmaxHead),
        "classes": CLASSES,
        "optimizer": functools.partial(torch.optim.AdamW, lr=lr),
        "input_size": 64,
    }
    return Grader(**{**defaults, **arguments})


def quiet_trainer(**arguments):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )


def train_and_predict(seed):
    pl.seed_everything(seed, verbose=False)
    grader, data = (
        make_grader(drop_rate=0.2),
        make_data(seed=seed, augment=ClassicalAugment(blur=0.5, brightness=0.2)),
    )
    trainer = quiet_trainer(max_epochs=2, deterministic=True)
    trainer.fit(grader, data)
    return predict(trainer, grader, data)


def predict(trainer, grader, data):
    """Probabilities [N, C] of the test images."""
    return torch.cat([probabilities for probabilities, _ in trainer.predict(grader, data.test_dataloader())])


def test_overfits_a_few_images_and_logs_what_the_run_needs():
    pl.seed_everything(0, verbose=False)
    few = dotted_faces(16)
    data, grader = make_data(train=[few], val=few), make_grader()
    trainer = quiet_trainer(max_epochs=60)
    trainer.fit(grader, data)
    logged = trainer.callback_metrics
    assert {"train/loss", "val/loss", "val/accuracy", "val/balanced_accuracy"} <= set(logged)
    assert logged["val/balanced_accuracy"] == 1
    assert logged["train/loss"] < 0.1


def test_same_seed_same_predictions_to_the_bit():
    first = train_and_predict(0)
    assert first.shape == (12, 4)
    assert torch.allclose(first.sum(dim=1), torch.ones(12))
    assert torch.equal(first, train_and_predict(0))
    assert not torch.equal(first, train_and_predict(1))


class StopAfter(pl.Callback):
    """Ends a run before its max_epochs, on which the schedule hangs."""

    def __init__(self, num_epochs):
        self.num_epochs = num_epochs

    def on_train_epoch_end(self, trainer, grader):
        trainer.should_stop = trainer.current_epoch + 1 == self.num_epochs


def test_a_resumed_run_ends_in_the_same_weights(tmp_path):
    def run(num_epochs, ckpt_path=None):
        pl.seed_everything(0, verbose=False)
        grader, data = make_grader(), make_data(augment=ClassicalAugment(brightness=0.2))
        trainer = quiet_trainer(max_epochs=4, callbacks=[StopAfter(num_epochs)])
        trainer.fit(grader, data, ckpt_path=ckpt_path)
        return grader, trainer

    whole, _ = run(4)
    run(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(4, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_is_plain_and_rebuilds_the_grader(tmp_path):
    grader = make_grader(backbone="resnet18", backbone_kwargs={"channels": [8, 16, 24, 32]}, class_weighted=True)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(grader, make_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]["classes"] == list(CLASSES)
    loaded = Grader.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu")
    data = make_data()
    before, after = (predict(quiet_trainer(), g, data) for g in (grader, loaded))
    assert torch.equal(before, after)


def test_class_weights_come_from_the_training_set():
    table, pixels = dotted_faces(32)
    keep = np.flatnonzero((table.labels != 3) | (np.arange(32) < 8))  # 8 of each, 2 of very severe
    part = ImageTable(root="nowhere", rows=table.rows.iloc[keep], classes=CLASSES), pixels[keep]
    grader = make_grader(class_weighted=True)
    quiet_trainer(max_epochs=1).fit(grader, make_data(train=[part], balanced=False))
    weights = grader.class_weights
    assert torch.allclose(weights / weights[0], torch.tensor([1.0, 1.0, 1.0, 4.0]))


def test_divergence_is_an_error_that_names_the_learning_rate():
    with pytest.raises(ValueError, match="lower the learning rate"):
        quiet_trainer(max_epochs=5).fit(make_grader(lr=1e30, warmup=0), make_data())


def test_other_classes_than_the_data_are_refused():
    with pytest.raises(ValueError, match="prepare the data with the grader's classes"):
        quiet_trainer(max_epochs=1).fit(make_grader(classes=CLASSES[:3]), make_data())
