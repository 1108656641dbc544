"""The training module: schedule, optimizers, labels, frozen layers, micro-batches, and what stops it."""

import math
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from acne_lab.data.module import GanData
from acne_lab.data.table import COLUMNS, ImageTable
from acne_lab.gan import Augment, Discriminator, Generator
from acne_lab.gan.flops import FlopCounter, training_flops
from acne_lab.gan.module import StyleGAN2, check_batch

CLASSES = ("mild", "moderate", "severe")
SMALL = {"img_resolution": 16, "channel_base": 64, "channel_max": 8}


def make_model(*, c_dim=0, seed=0, **kwargs):
    torch.manual_seed(seed)
    return StyleGAN2(
        G=Generator(**SMALL, z_dim=8, w_dim=8, num_mapping_layers=2, c_dim=c_dim),
        D=Discriminator(**SMALL, c_dim=c_dim, mbstd_group_size=2),
        augment=kwargs.pop("augment", Augment(p=0.0)),
        optimizer=partial(torch.optim.Adam, lr=0.002, betas=(0.0, 0.99), eps=1e-8),
        **kwargs,
    )


def make_data(batch_size=4, counts=(12, 6, 6)):
    rows = pd.DataFrame("", index=range(sum(counts)), columns=list(COLUMNS))
    rows["file_name"] = [f"{i}.png" for i in range(len(rows))]
    rows["severity"] = np.repeat(CLASSES, counts)
    rows = rows.assign(lesions=None, split="train", source="toy")
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), 16, 16, 3), dtype=np.uint8)
    table = ImageTable(root=".", rows=rows, classes=CLASSES)
    return GanData(table=table, pixels=pixels, batch_size=batch_size, seed=0, mirror=False)


def fit(model, *, num_iterations, batch_size=4, counts=(12, 6, 6), callbacks=()):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=num_iterations,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    pl.seed_everything(0, verbose=False)
    trainer.fit(model, make_data(batch_size, counts))
    return trainer


def state(network):
    return {name: tensor.clone() for name, tensor in network.named_parameters()}


def test_regularisation_comes_every_4th_and_16th_iteration_from_the_first_on():
    model, calls = make_model(), {"G": [], "D": []}

    def counted(original, name):
        def method(*args):
            calls[name].append(model.images_seen // 4)
            original(*args)

        return method

    model.regularize_generator = counted(model.regularize_generator, "G")
    model.regularize_discriminator = counted(model.regularize_discriminator, "D")
    fit(model, num_iterations=18)
    assert calls["G"] == [0, 4, 8, 12, 16]
    assert calls["D"] == [0, 16]
    assert (len(calls["G"]), len(calls["D"])) == (math.ceil(18 / 4), math.ceil(18 / 16))
    assert model.images_seen == 18 * 4


@pytest.mark.parametrize("microbatch", [None, 2])
def test_lazy_regularisation_weighs_as_much_as_if_it_came_every_iteration(monkeypatch, microbatch):
    """The gradients are those of the recorded losses times the iterations from one to the next."""
    model = make_model(microbatch=microbatch, r1_interval=5, path_length_interval=3)
    backward, seen, weighed = model.manual_backward, [], {}
    monkeypatch.setattr(model, "manual_backward", lambda loss: seen.append(float(loss.detach())) or backward(loss))

    def noted(name):
        regularize = getattr(model, name)

        def method(*args):
            seen.clear()
            regularize(*args)
            weighed[name] = sum(seen)

        return method

    for name in ("regularize_generator", "regularize_discriminator"):
        monkeypatch.setattr(model, name, noted(name))
    recorded = fit(model, num_iterations=1).callback_metrics
    assert weighed["regularize_generator"] == pytest.approx(3 * float(recorded["loss/path_length"]), rel=1e-5)
    assert weighed["regularize_discriminator"] == pytest.approx(5 * float(recorded["loss/r1"]), rel=1e-5)


@pytest.mark.parametrize(("r1_gamma", "used"), [(None, 0.0002 * 16**2 / 8), (3.0, 3.0)])
def test_gamma_follows_from_resolution_and_batch(monkeypatch, r1_gamma, used):
    seen = []
    monkeypatch.setattr(
        "acne_lab.gan.module.r1_penalty", lambda logits, images, gamma: seen.append(gamma) or logits.mean()
    )
    fit(make_model(r1_gamma=r1_gamma, microbatch=4), num_iterations=1, batch_size=8)
    assert seen == pytest.approx([used, used])


def test_no_path_length_without_weight():
    trainer = fit(make_model(path_length_weight=0), num_iterations=1)
    assert "loss/path_length" not in trainer.callback_metrics
    assert "loss/r1" in trainer.callback_metrics


def test_adam_is_corrected_for_the_extra_steps():
    """lr and betas to the power of k / (k + 1): G regularised every 4th iteration, D every 16th."""
    opt_g, opt_d = make_model().configure_optimizers()
    for optimizer, k in ((opt_g, 4), (opt_d, 16)):
        assert optimizer.defaults["lr"] == pytest.approx(0.002 * k / (k + 1))
        assert optimizer.defaults["betas"] == pytest.approx((0.0, 0.99 ** (k / (k + 1))))
    opt_g, _ = make_model(path_length_weight=0).configure_optimizers()
    assert opt_g.defaults["lr"] == 0.002


def test_freeze_d_counts_layers_from_the_image_down():
    model = make_model(freeze_d=5)
    names = [name for name, parameter in model.D.named_parameters() if parameter in model.frozen]
    layers = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))
    assert layers == ["b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0"]
    before = state(model.D)
    fit(model, num_iterations=2)
    for name, tensor in model.D.named_parameters():
        assert torch.equal(tensor, before[name]) == (name in names), name


@pytest.mark.parametrize(("argument", "frozen"), [("freeze_mapping", "mapping"), ("freeze_synthesis", "synthesis")])
def test_half_a_generator_can_be_frozen(argument, frozen):
    model = make_model(**{argument: True})
    before = state(model.G)
    fit(model, num_iterations=2)
    for name, tensor in model.G.named_parameters():
        if "noise_strength" not in name:  # in two iterations some have not moved yet
            assert torch.equal(tensor, before[name]) == name.startswith(frozen), name


@pytest.mark.parametrize("freeze_synthesis", [False, True])
def test_micro_batches_sum_to_the_gradient_of_the_batch(freeze_synthesis):
    """Plain SGD, so that weights after one iteration show gradients; p = 0, and the noise has no strength yet.

    Once G has learned a strength, the parts draw noise of their own: then D is compared with a frozen synthesis.
    """
    states = []
    for microbatch in (None, 4, 2):
        model = make_model(microbatch=microbatch, freeze_synthesis=freeze_synthesis, path_length_weight=0)
        model.optimizer = partial(torch.optim.SGD, lr=0.01)
        model.lazy_adam = lambda network, interval, model=model: model.optimizer(model.learning(network))
        fit(model, num_iterations=1, batch_size=8)
        states.append(state(model) | {"G.w_avg": model.G.mapping.w_avg})
    compared = [name for name in states[0] if name.startswith("D." if freeze_synthesis else "G.")]
    for other in states[1:]:
        for name in compared:
            if "noise_strength" not in name:
                torch.testing.assert_close(other[name], states[0][name], rtol=1e-4, atol=1e-5, msg=name)


def test_w_avg_and_path_lengths_move_once_a_phase(monkeypatch):
    """Whatever the number of parts: by 0.005 of the way to the mean w of the phase, 0.01 to the mean length."""
    monkeypatch.setattr(
        "acne_lab.gan.module.path_lengths", lambda images, ws, noise: ws.sum() * 0 + 3.0 + ws[:, 0, 0] * 0
    )
    means = []
    for microbatch in (None, 2):
        model = make_model(microbatch=microbatch, style_mixing=0)
        model.optimizer = partial(torch.optim.SGD, lr=0.0)
        model.lazy_adam = lambda network, interval, model=model: model.optimizer(model.learning(network))
        fit(model, num_iterations=1)
        means.append(model.G.mapping.w_avg)
        assert float(model.path_length_mean) == pytest.approx(0.03)
    assert means[0].abs().max() > 0
    torch.testing.assert_close(means[0], means[1])


@pytest.mark.parametrize(("balanced", "shares"), [(False, (0.5, 0.25, 0.25, 0)), (True, (1 / 3, 1 / 3, 1 / 3, 0))])
def test_labels_of_generated_images(balanced, shares):
    """As often as in the data, or evenly; never a class that the data lacks."""
    model = make_model(c_dim=4, balanced_labels=balanced)
    fit(model, num_iterations=1)
    drawn = model.draw_labels(20_000).bincount(minlength=4) / 20_000
    torch.testing.assert_close(drawn, torch.tensor(shares), atol=4 * 0.5 / math.sqrt(20_000), rtol=0)


def test_half_life_follows_from_the_batch(monkeypatch):
    seen = []
    monkeypatch.setattr("acne_lab.gan.module.ema_beta", lambda *args: seen.append(args) or 0.5)
    fit(make_model(ema_kimg=None), num_iterations=1, batch_size=8)
    assert seen == [(8, 8, 8 * 10 / 32, 0.05)]


@pytest.mark.parametrize(("microbatch", "recorded"), [(1, False), (2, True)])
def test_one_image_alone_has_no_diversity(microbatch, recorded):
    model = make_model(microbatch=microbatch)
    model.D.b4.mbstd_group_size = 1
    assert ("diversity" in fit(model, num_iterations=1).callback_metrics) == recorded


def test_gradients_that_are_not_finite_are_replaced_counted_and_stop_the_run():
    model = make_model(max_nonfinite=3)
    with torch.no_grad():
        model.D.b4.out.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="last 3 iterations were not finite"):
        fit(model, num_iterations=3)
    assert model.num_nonfinite == 3
    assert all(tensor.isfinite().all() for tensor in model.G.parameters())
    model = make_model(max_nonfinite=3)
    fit(model, num_iterations=3)
    assert model.num_nonfinite == model.nonfinite_streak == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((6, 1, None, 4), "minibatch-std groups of 4"),
        ((8, 3, None, 4), "among 3 processes"),
        ((8, 1, 4, None), "set model.D.mbstd_group_size to a number that divides 4"),
        ((16, 2, 3, 1), "model.microbatch=3"),
        ((16, 1, 8, 3), "minibatch-std groups of 3"),
        ((16, 1, 2, 4), "2 images of one pass do not divide into minibatch-std groups of 4"),
        ((16, 8, None, 4), "2 images of one pass"),
        ((6, 2, None, 3), "on 3 images, which do not divide among 2 processes: choose a multiple of 4"),
        ((4, 4, None, 1), "on 2 images, which do not divide among 4 processes"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        check_batch(*args, path_length=True)


def test_batches_that_divide():
    check_batch(16, 2, 4, 4, path_length=True)
    check_batch(2, 1, None, 4, path_length=True)  # a group is at most the batch
    check_batch(3, 1, None, 3, path_length=True)  # alone it is half, rounded down
    check_batch(6, 2, None, 3, path_length=False)


@pytest.mark.parametrize(("weight", "refused"), [(2.0, True), (0.0, False)])
def test_path_lengths_of_several_processes_are_checked_before_training(weight, refused, monkeypatch):
    """Each process would round its half down: 2 images in all, where one process takes 3."""
    model = make_model(path_length_weight=weight)
    model.D.b4.mbstd_group_size = 3
    trainer = SimpleNamespace(datamodule=make_data(batch_size=6), world_size=2, global_rank=0)
    monkeypatch.setattr(type(model), "trainer", trainer)
    with pytest.raises(ValueError, match="do not divide among 2 processes") if refused else nullcontext():
        model.setup("fit")


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="nothing to learn"):
        make_model(freeze_mapping=True, freeze_synthesis=True)
    with pytest.raises(ValueError, match=r"model\.r1_interval=0, model\.microbatch=0 must be positive"):
        make_model(r1_interval=0, microbatch=0)
    for freeze_d in (-1, 8):
        with pytest.raises(ValueError, match=f"freeze_d={freeze_d} .* D's 7 layers"):
            make_model(freeze_d=freeze_d)


def test_an_iteration_does_the_operations_that_it_needs():
    """What runs is what `flops` counts."""
    model = make_model(style_mixing=0)
    needed = sum((flops for flops in training_flops(model.G.to("meta"), model.D.to("meta"), 4).values()), Counter())
    model = make_model(style_mixing=0)
    step, counter = model.training_step, FlopCounter()

    def counted(*args):
        with counter:
            step(*args)

    model.training_step = counted
    fit(model, num_iterations=1)
    assert counter.flops == needed


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow():
    """Over 1,000 iterations: less than 4 kB each would show."""
    held = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            held[index + 1] = resident_mb()

    fit(
        make_model(augment=Augment(p=0.5, **dict.fromkeys(("xflip", "rotate", "scale"), 1))),
        num_iterations=1000,
        callbacks=[Watch()],
    )
    assert held[1000] - held[200] < 3.2


@pytest.mark.parametrize("c_dim", [0, 3])
def test_one_pass_scores_both_batches_as_two_would(c_dim):
    model = make_model(c_dim=c_dim)
    fake, real = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    fake_c, real_c = (torch.eye(3)[torch.tensor(labels)] if c_dim else None for labels in ([0, 1, 2, 0], [2, 2, 1, 0]))
    both = model.score_both(fake, fake_c, real, real_c)
    torch.testing.assert_close(both, (model.score(fake, fake_c), model.score(real, real_c)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("microbatch", [None, 2])
def test_fakes_are_used_again(microbatch):
    """D learns from the images that G has just learnt from, and G draws no others."""
    model = make_model(reuse_fakes=True, microbatch=microbatch, path_length_weight=0)
    seen, drawn = [], []
    model.D.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model.G.synthesis.register_forward_hook(lambda module, args, out: drawn.append(out.detach()))
    fit(model, num_iterations=1)
    parts = 4 // (microbatch or 4)
    assert len(drawn) == parts
    for part in range(parts):
        assert torch.equal(seen[part], drawn[part])  # G learns
        assert torch.equal(seen[parts + part].chunk(2)[0], drawn[part])  # D learns


def test_fakes_are_new_by_default():
    model, drawn = make_model(path_length_weight=0), []
    model.G.synthesis.register_forward_hook(lambda module, args, out: drawn.append(out))
    fit(model, num_iterations=1)
    assert len(drawn) == 2
    assert not torch.equal(*drawn)


def test_other_operators_than_before_are_spoken_of():
    model, checkpoint = make_model(), {}
    model.on_save_checkpoint(checkpoint)
    now = checkpoint["gan"]["operators"]
    before = {"native": "reference", "reference": "native"}[now]
    model.on_load_checkpoint({"gan": {**checkpoint["gan"], "operators": before}})
    with pytest.warns(UserWarning, match=f"trained with {before} operators and goes on with {now} ones"):
        fit(model, num_iterations=1)
