import functools

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from acne_lab.callbacks import RandomState
from acne_lab.data.augment import ClassicalAugment
from acne_lab.data.module import GraderData
from acne_lab.data.table import ImageTable
from acne_lab.grade.heads import HEADS, CountHead, LdlHead, SoftmaxHead
from acne_lab.grade.mixup import mixup
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
        "lesions": np.array([3, 12, 35, 58])[labels],  # a dot stands for some
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


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"head": functools.partial(CountHead), "schedule": "step", "milestones": [3]},
        {"ema_decay": 0.9, "mixup_alpha": 0.4, "layer_decay": 0.8, "freeze": {"stages": 1}, "random_crop": True},
    ],
)
def test_a_resumed_run_ends_in_the_same_weights(tmp_path, arguments):
    def run(num_epochs, ckpt_path=None):
        pl.seed_everything(0, verbose=False)
        grader, data = make_grader(**arguments), make_data(augment=ClassicalAugment(brightness=0.2))
        trainer = quiet_trainer(max_epochs=4, callbacks=[RandomState(0), StopAfter(num_epochs)])
        trainer.fit(grader, data, ckpt_path=ckpt_path)
        return grader, trainer

    whole, _ = run(4)
    run(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(4, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("head", [functools.partial(SoftmaxHead, label_smoothing=0.1), functools.partial(CountHead)])
def test_checkpoint_is_plain_and_rebuilds_the_grader(tmp_path, head):
    narrow = {"backbone": "resnet18", "backbone_kwargs": {"channels": [8, 16, 24, 32]}}
    grader = make_grader(**narrow, class_weighted=True, head=head)
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


@pytest.mark.parametrize("name", HEADS)
def test_every_head_trains_and_predicts(name):
    """On a table of which one image in four is counted; only heads that tell a count log its error."""
    pl.seed_everything(0, verbose=False)
    table, pixels = dotted_faces(32)
    rows = table.rows.assign(lesions=table.rows["lesions"].where(np.arange(32) // 4 % 4 == 0))
    part = ImageTable(root="nowhere", rows=rows, classes=CLASSES), pixels
    assert np.isnan(part[0].lesion_counts).sum() == 24
    grader, data = make_grader(head=functools.partial(HEADS[name]), class_weighted=True), make_data(train=[part])
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(grader, data)
    assert ("val/mae_count" in trainer.callback_metrics) == grader.head.uses_counts
    probabilities, counts = (torch.cat(column) for column in zip(*trainer.predict(grader, data.test_dataloader())))
    assert probabilities.shape == (12, 4)
    assert probabilities.dtype == counts.dtype == torch.float32
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(12), atol=1e-5)
    assert counts.isnan().all() if not grader.head.uses_counts else counts.isfinite().all()


def uncounted(part):
    table, pixels = part
    return ImageTable(root="nowhere", rows=table.rows.assign(lesions=None), classes=CLASSES), pixels


@pytest.mark.parametrize("head", [LdlHead, CountHead])
def test_heads_of_counts_refuse_a_table_without_counts(head):
    data = make_data(train=[uncounted(dotted_faces(32))])
    with pytest.raises(ValueError, match=r"no training image has one: .* or choose head=softmax, focal, coral or corn"):
        quiet_trainer(max_epochs=1).fit(make_grader(head=functools.partial(head)), data)


def test_validation_without_counts_has_no_error_of_counts():
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(make_grader(head=functools.partial(LdlHead)), make_data(val=uncounted(dotted_faces(8, seed=1))))
    assert "val/mae_count" not in trainer.callback_metrics


def test_the_error_of_counts_is_that_of_counted_images():
    table, pixels = dotted_faces(8, seed=1)
    val = ImageTable(root="nowhere", rows=table.rows.assign(lesions=[10, 2] + [None] * 6), classes=CLASSES), pixels
    grader = make_grader(head=functools.partial(CountHead))
    torch.nn.init.zeros_(grader.head.linear.weight)
    torch.nn.init.zeros_(grader.head.linear.bias)  # a root of 4, a count of 16
    trainer = quiet_trainer()
    trainer.validate(grader, make_data(val=val), verbose=False)
    assert trainer.callback_metrics["val/mae_count"] == (6 + 14) / 2


def test_a_grader_that_gives_one_answer_has_a_score():
    grader = make_grader()
    torch.nn.init.zeros_(grader.head.linear.weight)
    grader.head.linear.bias.data = torch.tensor([0.0, 1e3, 0.0, 0.0])
    trainer = quiet_trainer()
    trainer.validate(grader, make_data(), verbose=False)
    assert trainer.callback_metrics["val/balanced_accuracy"] == 0.25
    assert trainer.callback_metrics["val/loss"].isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_an_error(value):
    grader, data = make_grader(), make_data()
    torch.nn.init.constant_(grader.head.linear.bias, value)
    with pytest.raises(ValueError, match=r"outputs for 12 of 12 images are not finite: lower the learning rate"):
        quiet_trainer().predict(grader, data.test_dataloader())
    with pytest.raises(ValueError, match="lower the learning rate"):
        quiet_trainer().validate(grader, data, verbose=False)


def test_features_are_dropped_only_while_training():
    grader, images = make_grader(drop_rate=0.5).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(grader(images), grader.head(grader.features(images)))
        grader.dropout.train()
        assert not torch.equal(grader(images), grader.head(grader.features(images)))


def test_the_learning_rate_falls_after_the_milestones():
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    grader = make_grader(lr=0.01, schedule="step", milestones=[1, 3], decay=0.1, warmup=0.0)
    quiet_trainer(max_epochs=4, callbacks=[Rates()]).fit(grader, make_data())  # 2 steps an epoch
    assert rates == pytest.approx([0.01] * 2 + [0.001] * 4 + [0.0001] * 2)


def test_divergence_is_an_error_that_names_the_learning_rate():
    with pytest.raises(ValueError, match="lower the learning rate"):
        quiet_trainer(max_epochs=5).fit(make_grader(lr=1e30, warmup=0), make_data())


def test_other_classes_than_the_data_are_refused():
    with pytest.raises(ValueError, match="prepare the data with the grader's classes"):
        quiet_trainer(max_epochs=1).fit(make_grader(classes=CLASSES[:3]), make_data())


# --- fine-tuning


def test_what_is_frozen_stays_in_training():
    """Neither its weights nor its statistics move, and everything behind it does."""
    pl.seed_everything(0, verbose=False)
    grader = make_grader(freeze={"stages": 2})
    before = {name: value.clone() for name, value in grader.backbone.state_dict().items()}
    quiet_trainer(max_epochs=2).fit(grader, make_data())
    moved = {name for name, value in grader.backbone.state_dict().items() if not torch.equal(value, before[name])}
    frozen = ("conv1", "bn1", "layer1", "layer2")
    assert moved == {name for name in before if not name.startswith(frozen)}
    assert any("running_mean" in name for name in moved)


def test_a_frozen_backbone_leaves_the_head_to_learn():
    pl.seed_everything(0, verbose=False)
    grader = make_grader(freeze="all", lr=0.1)
    backbone = {name: value.clone() for name, value in grader.backbone.state_dict().items()}
    head = grader.head.linear.weight.clone()
    quiet_trainer(max_epochs=1).fit(grader, make_data())
    assert all(torch.equal(value, backbone[name]) for name, value in grader.backbone.state_dict().items())
    assert not torch.equal(grader.head.linear.weight, head)


def test_batch_norm_in_evaluation_keeps_its_statistics_and_learns_its_weights():
    grader = make_grader(batch_norm="eval")
    before = {name: value.clone() for name, value in grader.backbone.bn1.state_dict().items()}
    quiet_trainer(max_epochs=1).fit(grader, make_data())
    after = grader.backbone.bn1.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"weight", "bias"}


def test_layers_learn_at_their_own_rates_through_warmup_and_schedule():
    seen = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, grader, *args):
            groups = trainer.optimizers[0].param_groups
            rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
            seen.append((rates[id(grader.backbone.conv1[0].weight)], rates[id(grader.head.linear.weight)]))

    quiet_trainer(max_epochs=2, callbacks=[Rates()]).fit(make_grader(lr=0.01, layer_decay=0.5, warmup=0.5), make_data())
    assert [head for _, head in seen] == pytest.approx([0.005, 0.01, 0.01, 0.005])
    assert [stem / head for stem, head in seen] == pytest.approx([0.5**5] * 4)  # a stem and four blocks


def test_averaged_weights_are_those_of_a_plain_loop_and_they_predict():
    class Loop(pl.Callback):
        """min(decay, 1 - n^(-2/3)) of the average is kept at step n."""

        average = None

        def on_train_batch_end(self, trainer, grader, *args):
            n, new = trainer.global_step, grader.latest.state_dict()
            kept = min(0.6, 1 - n ** (-2 / 3))
            old = self.average or new
            self.average = {
                name: kept * old[name] + (1 - kept) * value if value.is_floating_point() else value.clone()
                for name, value in new.items()
            }

    pl.seed_everything(0, verbose=False)
    loop, grader, data = Loop(), make_grader(ema_decay=0.6), make_data()
    trainer = quiet_trainer(max_epochs=3, callbacks=[loop])
    trainer.fit(grader, data)
    averaged = grader.ema.module.state_dict()
    for name, value in loop.average.items():
        torch.testing.assert_close(averaged[name], value, msg=name)
    predicted = predict(trainer, grader, data)
    latest = make_grader()
    latest.latest.load_state_dict(grader.latest.state_dict())
    assert not torch.allclose(predict(trainer, latest, data), predicted)
    grader.use_average()
    assert grader.ema is None
    assert torch.equal(predict(trainer, grader, data), predicted)


def test_averaged_weights_survive_the_checkpoint(tmp_path):
    grader, data, trainer = make_grader(ema_decay=0.9), make_data(), quiet_trainer(max_epochs=1)
    trainer.fit(grader, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Grader.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu")
    assert torch.equal(predict(trainer, loaded, data), predict(trainer, grader, data))


def test_mixup_is_a_mean_of_losses():
    pl.seed_everything(0, verbose=False)
    grader, images, labels = make_grader(mixup_alpha=1.0), torch.rand(8, 3, 64, 64), torch.arange(8) % 4
    grader.log = lambda *args, **kwargs: None
    grader.trainer = quiet_trainer()
    torch.manual_seed(1)
    loss = grader.training_step((images, labels, torch.zeros(8)), 0)
    torch.manual_seed(1)
    mixed, partners, share = mixup(images, alpha=1.0)
    outputs = grader(mixed)
    expected = share * F.cross_entropy(outputs, labels) + (1 - share) * F.cross_entropy(outputs, labels[partners])
    assert 0.1 < share < 0.9
    torch.testing.assert_close(loss, expected)


def test_a_grader_sees_what_its_backbones_data_config_says():
    grader = make_grader(input_size=None).eval()
    preprocess = grader.preprocess
    assert (preprocess.input_size, preprocess.resized, preprocess.interpolation) == (160, 168, "bilinear")
    images = torch.rand(2, 3, 168, 168)
    with torch.no_grad():
        assert torch.equal(grader.features(images), grader.backbone(images[..., 4:164, 4:164]))
        whole = make_grader(input_size=64, crop_pct=1.0).eval()
        assert torch.equal(whole.features(images[..., :64, :64]), whole.backbone(images[..., :64, :64]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_norm": "frozen"}, "batch_norm must be one of train, frozen_stages, eval, not frozen"),
        ({"layer_decay": 0}, "layer_decay must be above 0 and at most 1, or null, not 0"),
        ({"ema_decay": 1}, "ema_decay must be between 0 and 1, or null, not 1"),
        ({"mixup_alpha": -1}, "mixup_alpha must be at least 0"),
        ({"mixup_alpha": 0.2, "head": functools.partial(CountHead)}, "mixup_alpha=0"),
        ({"freeze": {"stages": 9}}, "the backbone has 4 stages, give 0 to 4"),
        ({"backbone": "test_vit", "random_crop": True, "crop_pct": 1.0}, "nothing to choose"),
        ({"backbone": "test_resnett"}, "did you mean test_resnet"),
    ],
)
def test_settings_of_fine_tuning_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_grader(**arguments)
