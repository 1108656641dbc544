"""Training the refiner: one iteration, and what it leaves alone."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from acne_lab.edit.module import RefinerTraining
from acne_lab.edit.networks import Inpainter, PatchDiscriminator


class Same(IterableDataset):
    """One batch over and over: gray skin, and darker where a lesion is drawn; the target is darker still."""

    def __iter__(self):
        mask = torch.zeros(4, 1, 16, 16, dtype=torch.bool)
        mask[..., 4:12, 4:12] = True
        skin = torch.full((4, 3, 16, 16), 180, dtype=torch.uint8)
        while True:
            yield torch.where(mask, 90, skin), torch.where(mask, 140, skin), mask


def trained(num, **arguments):
    pl.seed_everything(0, verbose=False)
    model = RefinerTraining(
        G=Inpainter(width=4, num_down=1, num_blocks=1),
        D=PatchDiscriminator(width=4, num_down=1),
        optimizer=partial(torch.optim.Adam, lr=0.01, betas=(0.5, 0.99)),
        **arguments,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=num,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(Same(), batch_size=None))
    return model, trainer


def test_it_learns_what_is_to_be_painted():
    """The pixel loss alone: the average comes nearer to the target, and the first iteration is not the last."""
    model, trainer = trained(60, adversarial=0.0, matching=0.0, ema=0.9)
    assert model.images_seen == 240
    photo, _, mask = batch = next(iter(Same()))
    refined = model.refined(batch)
    assert abs(refined[mask.expand_as(photo)].float().mean() - 90) < 15
    assert torch.equal(refined[~mask.expand_as(photo)], photo[~mask.expand_as(photo)])
    for name in ("loss/adversarial", "loss/matching", "loss/pixel", "loss/D", "loss/r1", "score/real", "score/fake"):
        assert trainer.callback_metrics[name].isfinite()


def test_both_networks_learn_and_the_average_follows():
    model, _ = trained(3, ema=0.5)
    fresh, _ = trained(1, ema=0.5)
    for name in ("G", "D"):
        one, other = (dict(getattr(m, name).named_parameters()) for m in (model, fresh))
        assert all(not torch.equal(one[key], other[key]) for key in one)
    moving = dict(model.G.named_parameters())
    assert any(not torch.equal(value, moving[name]) for name, value in model.G_ema.named_parameters())
    assert all(value.requires_grad is False for value in model.G_ema.parameters())


def test_the_perceptual_loss_uses_given_features_which_are_in_no_checkpoint():
    class Features(torch.nn.Conv2d):
        def forward(self, images):
            return [super().forward(images)]

    features = Features(3, 2, 3)
    before = features.weight.clone()
    model, trainer = trained(2, perceptual=1.0, features=features)
    assert trainer.callback_metrics["loss/perceptual"] > 0
    assert torch.equal(features.weight, before)
    assert not any("features" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matching": -1.0}, r"model\.matching=-1\.0 must not be negative"),
        ({"perceptual": 1.0}, "needs features"),
        ({"r1_interval": 0}, "r1_interval=0 must be at least 1"),
        ({"ema": 1.0}, "must be at least 0 and below 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        trained(1, **arguments)
