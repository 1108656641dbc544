"""Features of pretrained networks and distances in them; here the networks are random, their weights do not matter."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision

from acne_lab.metrics.features import PatchFeatures, StageFeatures, as_rgb, feature_distance, lpips, resized


@pytest.fixture
def network():
    torch.manual_seed(0)
    return StageFeatures(timm.create_model("test_efficientnet"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def test_stages_are_unit_vectors_of_ever_lower_resolution(network):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    stages = network(images)
    sides = [stage.shape[-1] for stage in stages]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 32
    for stage in stages:
        torch.testing.assert_close(stage.norm(dim=1), torch.ones(2, *stage.shape[2:]))
    raw = network.backbone.forward_intermediates(
        ((images + 1) / 2 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2, intermediates_only=True
    )
    torch.testing.assert_close(stages[1], torch.nn.functional.normalize(raw[1], dim=1))


def test_the_distance_pulls_images_together(network):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    target = network(images[:1])
    images.requires_grad_()
    distances = feature_distance(network(images), target)
    assert distances.shape == (2,)
    assert distances[0] < 1e-6 < distances[1] <= 4
    distances[1].backward()
    assert images.grad[1].abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())


def test_the_distance_by_hand():
    a = [torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 3, 3), torch.ones(1, 1, 1, 1)]
    b = [torch.tensor([0.0, 1.0])[None, :, None, None].expand(1, 2, 3, 3), torch.ones(1, 1, 1, 1)]
    assert feature_distance(a, b).tolist() == [1.0]  # 2 in the first stage, 0 in the second


def test_resizing():
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resized(images, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resized(images, 4), images)
    assert resized(images, 8).shape == (1, 1, 8, 8)


def test_gray_and_transparent_images_become_rgb():
    assert as_rgb(torch.full((1, 1, 2, 2), 0.5)).tolist() == torch.full((1, 3, 2, 2), 0.5).tolist()
    colour = torch.tensor([-1.0, 0.0, 0.5])[None, :, None, None]

    def with_alpha(alpha):
        return as_rgb(torch.cat([colour, torch.full((1, 1, 1, 1), alpha)], dim=1)).flatten().tolist()

    assert with_alpha(1.0) == colour.flatten().tolist()
    assert with_alpha(-1.0) == [1, 1, 1]
    assert with_alpha(0.0) == [0, 0.5, 0.75]  # half way to white


def test_lpips_without_its_weights_names_the_offline_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth.*perceptual=efficientnet_lite0"):
        lpips()


def test_lpips(tmp_path, monkeypatch):
    """On a VGG-16 of random weights, with the learned weights that torchmetrics brings."""
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: SimpleNamespace(features=layers))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()
    images = torch.rand(2, 3, 32, 32).mul(2).sub(1).requires_grad_()
    distances = lpips()(images, images[:1].detach().expand(2, -1, -1, -1)).flatten()
    assert distances.shape == (2,)
    assert distances[0] == 0 < distances[1]
    distances.sum().backward()
    assert images.grad[1].abs().sum() > 0


def test_patch_features_see_content_and_texture():
    backbone = timm.create_model("test_efficientnet", num_classes=0).eval()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    network = PatchFeatures(backbone, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    content, texture = network(images)
    maps = backbone.forward_intermediates(images, intermediates_only=True)
    assert content.shape == (2, backbone.head_hidden_size)
    torch.testing.assert_close(content, backbone.forward_head(backbone.forward_features(images), pre_logits=True))
    assert texture.shape == (2, 2 * sum(x.shape[1] for x in maps))
    torch.testing.assert_close(texture[:, : maps[0].shape[1]], maps[0].mean((2, 3)))
