"""Constructor arguments: of all nine released configurations, from what is recorded and from tensors alone."""

import pytest
import torch
from released_files import FACTS, RELEASED, discriminator_arguments, generator_arguments

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.arguments import from_released, from_tensors
from acne_lab.gan.weights import build_released


def recorded(name: str, kind: str) -> dict:
    """What a file of that configuration records, written out."""
    given = RELEASED[name]
    common = {"c_dim": given.get("c_dim", 0), "img_resolution": given["img_resolution"]}
    common["img_channels"] = given.get("img_channels", 3)
    width = {"channel_base": given.get("channel_base", 32768), "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}
    if kind == "G":
        mapping = {"num_layers": given.get("num_mapping_layers", 8)}
        return {**common, "z_dim": 512, "w_dim": 512, "mapping_kwargs": mapping, "synthesis_kwargs": width}
    architecture = {"architecture": "orig"} if name == "cifar_c10" else {}
    epilogue = {"mbstd_group_size": 4}
    return {**common, **width, **architecture, "block_kwargs": {}, "mapping_kwargs": {}, "epilogue_kwargs": epilogue}


@pytest.mark.parametrize("kind", ["G", "D"])
@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_build(name, kind):
    """Without memory for their tensors."""
    facts = FACTS[f"{name}.{kind}"]
    shapes = facts["params"] | facts["buffers"]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    network = build_released(kind, recorded(name, kind), state)
    assert sum(p.numel() for p in network.parameters()) == facts["n_params"]
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == shapes
    assert network.init_kwargs["num_half_res"] == 4
    with torch.device("meta"):
        again = (Generator if kind == "G" else Discriminator)(**from_tensors(kind, state))
    assert {key: list(tensor.shape) for key, tensor in again.state_dict().items()} == shapes


SMALL = {"img_resolution": 16, "channel_base": 128, "channel_max": 12}


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("img_channels", [1, 3])
def test_tensors_tell_the_arguments(architecture, c_dim, img_channels):
    given = {**SMALL, "architecture": architecture, "c_dim": c_dim, "img_channels": img_channels}
    of_g = {"z_dim": 8, "w_dim": 10, "num_mapping_layers": 3}
    inferred = from_tensors("G", Generator(**given, **of_g).state_dict())
    assert inferred == {**given, **of_g}
    inferred = from_tensors("D", Discriminator(**given, cmap_dim=6 if c_dim else None).state_dict())
    assert inferred == {**given, "cmap_dim": 6 if c_dim else None}


def test_other_networks_are_named():
    with pytest.raises(ValueError, match=r"other names .*style\.1\.weight \[4, 4\]"):
        from_tensors("G", {"style.1.weight": torch.ones(4, 4)})


@pytest.mark.parametrize("flat", [False, True])
def test_synthesis_arguments_stand_inside_or_outside(flat):
    ours = from_released("G", generator_arguments(flat=flat))
    assert ours["channel_base"] == 128
    assert ours["num_mapping_layers"] == 2
    assert ours["conv_clamp"] == 256


@pytest.mark.parametrize(
    ("kind", "more", "refused"),
    [
        ("G", {"mapping_kwargs": {"lr_multiplier": 0.1}}, r"mapping_kwargs\.lr_multiplier=0\.1"),
        ("G", {"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}, r"resample_filter=\[1, 2, 1\]"),
        ("G", {"synthesis_kwargs": {"magnitude_ema_beta": 0.99}}, "magnitude_ema_beta"),
        ("G", {"colour": "red", "size": 4}, "colour=red, size=4"),
        ("D", {"epilogue_kwargs": {"mbstd_num_channels": 2}}, "mbstd_num_channels=2"),
        ("D", {"mapping_kwargs": {"num_layers": 2}}, r"mapping_kwargs\.num_layers=2"),
        ("D", {"z_dim": 512}, "z_dim=512"),
    ],
)
def test_what_our_networks_do_not_do_is_named(kind, more, refused):
    arguments = generator_arguments() if kind == "G" else discriminator_arguments()
    with pytest.raises(ValueError, match=refused):
        from_released(kind, {**arguments, **more})


def test_what_changes_nothing_is_accepted():
    more = {
        "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01, "embed_features": None, "w_avg_beta": 0.998},
        "fused_modconv_default": "inference_only",
        "resample_filter": (1, 3, 3, 1),
        "something_new": None,
    }
    assert from_released("G", {**generator_arguments(), **more}) == from_released("G", generator_arguments())
    more = {"block_kwargs": {"freeze_layers": 3, "fp16_channels_last": True}, "mapping_kwargs": {"num_layers": 8}}
    assert from_released("D", {**discriminator_arguments(), **more}) == from_released("D", discriminator_arguments())
