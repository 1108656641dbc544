import functools

import pytest
import timm
import torch
from torch import nn

from acne_lab.grade.backbone import build_backbone
from acne_lab.grade.finetune import build_optimizer, freeze, hold_statistics, parameter_groups


def frozen_names(backbone):
    return [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize(
    ("name", "num", "first_free"),
    [
        ("test_resnet", 0, "layer1.0.conv1.weight"),
        ("test_resnet", 2, "layer3.0.conv1.weight"),
        ("test_efficientnet", 1, "blocks.1.0.conv_exp.weight"),
        ("test_vit", 3, "blocks.3.norm1.weight"),
        ("test_convnext", 1, "stages.1.downsample.0.weight"),
        ("densenet121", 2, "features.denseblock3.denselayer1.norm1.weight"),
    ],
)
def test_stages_are_the_stem_and_the_first(name, num, first_free):
    with torch.device("meta"):
        backbone = build_backbone(name)
    num_frozen = freeze(backbone, {"stages": num})
    names = [name for name, _ in backbone.named_parameters()]
    assert frozen_names(backbone) == names[: names.index(first_free)]
    assert num_frozen == sum(p.numel() for p in backbone.parameters() if not p.requires_grad)


def test_layers_are_counted_with_their_weights():
    """AcneGAN's `first 15 layers`, of those that have weights."""
    with torch.device("meta"):
        resnet, vgg, vit = (build_backbone(name) for name in ("resnet18", "vgg16", "test_vit"))
    freeze(resnet, {"layers": 15})  # 2 in the stem, 4 in each block of layer1, and 5 of the 6 in the next
    layers = {name.rpartition(".")[0] for name in frozen_names(resnet)}
    assert len(layers) == 15
    assert {"conv1", "layer1.1.bn2", "layer2.0.bn2", "layer2.0.downsample.0"} <= layers
    assert "layer2.0.downsample.1" not in layers
    assert freeze(vgg, {"layers": 2}) == 3 * 3 * 3 * 64 + 64 + 3 * 3 * 64 * 64 + 64
    freeze(vit, {"layers": 1})
    assert frozen_names(vit) == ["cls_token", "pos_embed"]
    assert freeze(vit, {"layers": 0}) == 0


def test_all_is_every_weight():
    backbone = build_backbone("test_resnet")
    assert freeze(backbone, "all") == sum(p.numel() for p in backbone.parameters())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("part", ["some", {"stage": 1}, {"stages": "two"}, {"stages": 1, "layers": 2}, 3])
def test_no_such_part(part):
    with pytest.raises(ValueError, match=r"model\.freeze=.*give all, \{stages: 2\} or \{layers: 15\}"):
        freeze(build_backbone("test_resnet"), part)


def test_more_than_there_is():
    backbone = build_backbone("test_resnet")
    with pytest.raises(ValueError, match="has 4 stages, give 0 to 4"):
        freeze(backbone, {"stages": 5})
    with pytest.raises(ValueError, match="has 30 layers, give 0 to 30"):
        freeze(backbone, {"layers": 31})
    with pytest.raises(ValueError, match="give 0 to 4"):
        freeze(backbone, {"stages": -1})


@pytest.mark.parametrize("batch_norm", ["train", "frozen_stages", "eval"])
def test_whose_statistics_follow_the_batches(batch_norm):
    backbone = build_backbone("test_resnet").train()
    freeze(backbone, {"stages": 1})
    hold_statistics(backbone, batch_norm=batch_norm)
    before = {name: value.clone() for name, value in backbone.named_buffers() if name.endswith("running_mean")}
    backbone(torch.randn(4, 3, 64, 64))
    moved = {
        name.split(".")[0]
        for name, value in backbone.named_buffers()
        if name in before and (value != before[name]).any()
    }
    later = {"layer2", "layer3", "layer4"}
    assert moved == {"train": {"conv1", "bn1", "layer1"} | later, "frozen_stages": later, "eval": set()}[batch_norm]


def test_dropout_rests_in_what_is_frozen():
    backbone = build_backbone("test_vit", kwargs={"proj_drop_rate": 0.5}).train()
    freeze(backbone, "all")
    images = torch.randn(2, 3, 160, 160)
    assert not torch.equal(backbone(images), backbone(images))
    hold_statistics(backbone, batch_norm="frozen_stages")
    assert torch.equal(backbone(images), backbone(images))


def test_learning_rates_by_hand():
    """test_vit: 6 blocks behind the embedding are 7 layers: the embedding's share is 0.5^7, the last block's 0.5."""
    backbone, head = build_backbone("test_vit"), nn.Linear(64, 4)
    optimizer = build_optimizer(
        functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3), backbone, head, layer_decay=0.5
    )
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    named = {name: settings[id(p)] for net in (backbone, head) for name, p in net.named_parameters()}
    assert named["pos_embed"] == pytest.approx((0.1 * 0.5**7, 0))
    assert named["patch_embed.proj.weight"] == pytest.approx((0.1 * 0.5**7, 0.3))
    assert named["blocks.0.attn.qkv.weight"] == pytest.approx((0.1 * 0.5**6, 0.3))
    assert named["blocks.5.attn.qkv.weight"] == pytest.approx((0.1 * 0.5, 0.3))
    assert named["blocks.5.norm1.weight"] == pytest.approx((0.1 * 0.5, 0))
    assert named["weight"] == pytest.approx((0.1, 0.3))
    assert named["bias"] == pytest.approx((0.1, 0))
    assert len(settings) == len(list(backbone.parameters())) + 2
    assert all("lr_scale" not in group for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_layers_are_those_of_timms_whole_network(name):
    """A linear head has the place of the classifier that the backbone has lost."""
    whole, backbone = timm.create_model(name, num_classes=4), build_backbone(name)
    reference = timm.optim.param_groups_layer_decay(
        whole, weight_decay=0.1, no_weight_decay_list=getattr(whole, "no_weight_decay", set)(), layer_decay=0.7
    )
    names = {id(p): name for name, p in whole.named_parameters()}
    expected = {names[id(p)]: group["lr_scale"] for group in reference for p in group["params"]}
    groups = parameter_groups(backbone, nn.Linear(backbone.head_hidden_size, 4), layer_decay=0.7)
    names = {id(p): name for name, p in backbone.named_parameters()}
    found = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"] if id(p) in names}
    assert found == pytest.approx({name: expected[name] for name in found})


def test_what_is_frozen_is_not_in_the_optimizer():
    backbone, head = build_backbone("test_resnet"), nn.Linear(96, 4)
    freeze(backbone, {"stages": 3})
    free = {id(p) for p in backbone.layer4.parameters()} | {id(p) for p in head.parameters()}
    for layer_decay in (None, 0.8):
        optimizer = build_optimizer(functools.partial(torch.optim.SGD, lr=1.0), backbone, head, layer_decay=layer_decay)
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == free
    freeze(backbone, "all")
    assert parameter_groups(backbone, head, layer_decay=0.8)[0]["params"] == [head.bias]
