"""Grad-CAM: the right places for networks that look at known ones, on every kind of backbone, as it is written."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from acne_lab.data.photo import fit_boxes, fit_square
from acne_lab.grade.explain import (
    View,
    as_map,
    attributions,
    randomised,
    seen_by_backbone,
    stage_of,
    target_layer,
    view,
)
from acne_lab.grade.heads import CoralHead, CornHead, CountHead, FocalHead, LdlHead, SoftmaxHead
from acne_lab.grade.module import Grader
from acne_lab.metrics.attribution import coverage, enlarged, hit_rate, hits, pointing_rate
from acne_lab.metrics.calibration import Decision

CLASSES = ["mild", "moderate", "severe", "very_severe"]
CONVOLUTIONS = ("test_resnet", "test_efficientnet", "test_byobnet", "test_convnext")
BACKBONES = (*CONVOLUTIONS, "test_vit", "test_vit2", "test_mambaout")  # a class token, a mean of tokens, [B, h, w, C]


def grader(backbone="test_resnet", head=SoftmaxHead, *, input_size=64, crop_pct=1.0, interpolation=None):
    torch.manual_seed(0)
    way_in = {"input_size": input_size, "crop_pct": crop_pct, "interpolation": interpolation}
    return Grader(backbone=backbone, head=partial(head), classes=CLASSES, **way_in).eval()


class Colours(nn.Module):
    """A backbone that sees how much of one colour (0 red, 2 blue) each place has, more than of green."""

    feature_info = ({"module": "stage", "num_chs": 1, "reduction": 4},)

    def __init__(self, channel):
        super().__init__()
        self.channel = channel
        self.stage = nn.AvgPool2d(4)

    def forward(self, images):
        return self.stage(F.relu(images[:, self.channel] - images[:, 1])[:, None]).mean(dim=(2, 3))


def who_sees(channel):
    """More of the colour is a higher grade."""
    network = grader()
    network.backbone = Colours(channel)
    network.head = SoftmaxHead(num_features=1, num_classes=4)
    with torch.no_grad():
        network.head.linear.weight[:, 0] = torch.tensor([-30.0, -10, 10, 30])
        network.head.linear.bias.zero_()
    return network


def spotted(num=6, side=64):
    """Gray images with red spots, which are their lesions, and blue ones elsewhere; boxes in sides."""
    rng = np.random.default_rng(0)
    images, boxes = torch.full((num, 3, side, side), 0.5), []
    for image in images:
        corners = [(4 + 12 * (k % 5), 4 + 12 * (k // 5)) for k in rng.choice(25, 6, replace=False)]
        for number, (x, y) in enumerate(corners):
            colour = (0.9, 0.2, 0.2) if number < 3 else (0.2, 0.2, 0.9)
            image[:, y : y + 8, x : x + 8] = torch.tensor(colour)[:, None, None]
        boxes.append(np.array([(x, y, x + 8, y + 8) for x, y in corners[:3]]) / side)
    return images, boxes


@pytest.mark.parametrize("score", ["severity", "prediction"])
def test_a_network_that_looks_at_lesions_hits_them_and_one_that_looks_elsewhere_does_not(score):
    images, boxes = spotted()
    on, people = np.stack([coverage(each) for each in boxes]), [str(k) for k in range(len(boxes))]
    rates = {}
    for colour, channel in (("red", 0), ("blue", 2)):
        network = who_sees(channel)
        _, maps = attributions(network, images)
        found = hits(enlarged(maps[score]), on)
        rates[colour] = hit_rate(found, people).interval, pointing_rate(found, people).value
    assert rates["red"][0].low > 5 and rates["red"][1] == 1
    assert rates["blue"][0].high < 0.3 and rates["blue"][1] == 0


def test_the_prediction_of_a_clear_face_is_not_explained_by_its_lesions():
    """For mild, lesions speak against: what raises the grade and what speaks for the answer are two questions."""
    images, _ = spotted()
    network = who_sees(0)
    with torch.no_grad():
        network.head.linear.bias[:] = torch.tensor([40.0, 0, 0, 0])
    probabilities, maps = attributions(network, images)
    assert (probabilities.argmax(axis=1) == 0).all()
    assert maps["prediction"].max() == 0 < maps["severity"].max()


def plain_cam(network, images, layer, score):
    """Selvaraju et al. 2017, equations 1 and 2, on the layer's output [B, C, h, w]."""
    kept = []
    handle = layer.register_forward_hook(lambda *call: kept.append(call[2]))
    value = score(network.head.graded(network(images.clone().requires_grad_())).probabilities)
    handle.remove()
    gradient = as_map(network.backbone, layer)(torch.autograd.grad(value.sum(), kept[0])[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return F.relu((weights * as_map(network.backbone, layer)(kept[0])).sum(dim=1)).detach().numpy()


def log_odds(probabilities):
    top = probabilities.max(dim=1).values
    return top.log() - (1 - top).log()


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_are_those_of_the_paper_on_every_kind_of_backbone(name):
    network = grader(name, input_size=160)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    before = [parameter.clone() for parameter in network.parameters()]
    probabilities, maps = attributions(network, images)
    with torch.no_grad():
        assert probabilities == pytest.approx(network.head.graded(network(images)).probabilities.numpy(), abs=1e-6)
    layer = target_layer(network.backbone)
    grades = torch.arange(4.0)
    for score, value in (("severity", lambda p: p @ grades), ("prediction", log_odds)):
        expected = plain_cam(network, images, layer, value)
        side = 160 // network.backbone.feature_info[-1]["reduction"]
        assert maps[score].shape == expected.shape == (2, side, side)
        np.testing.assert_allclose(maps[score], expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert max(each.max() for each in maps.values()) > 0
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, network.parameters()))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_batch_is_explained_image_by_image():
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network = grader()
    together = attributions(network, images)[1]["severity"]
    alone = np.concatenate([attributions(network, image[None])[1]["severity"] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6 * together.max())


@pytest.mark.parametrize("head", [SoftmaxHead, FocalHead, CoralHead, CornHead, LdlHead, CountHead])
def test_every_head_is_explained(head):
    network = grader(head=head)
    probabilities, maps = attributions(network, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    assert probabilities.shape == (2, 4)
    assert all(np.isfinite(each).all() and each.min() >= 0 for each in maps.values())
    assert max(each.max() for each in maps.values()) > 0


def test_frozen_weights_are_explained_like_others():
    network, images = grader(), torch.randn(1, 3, 64, 64)
    free = attributions(network, images)[1]["severity"]
    network.requires_grad_(False)
    np.testing.assert_array_equal(attributions(network, images)[1]["severity"], free)


def test_the_decision_says_which_class_is_explained():
    network, images = grader(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain = attributions(network, images)
    other = int(plain[0].argsort()[0, 0])
    weights = tuple(1e6 if grade == other else 1.0 for grade in range(4))
    weighed = attributions(network, images, decision=Decision(weights=weights))
    np.testing.assert_array_equal(plain[1]["severity"], weighed[1]["severity"])
    assert not np.allclose(plain[1]["prediction"], weighed[1]["prediction"])


# ---- stages ----------------------------------------------------------------------------------------------------


def test_stages_are_counted_from_the_last():
    network, images = grader("test_resnet"), torch.randn(1, 3, 64, 64)
    sides = [attributions(network, images, stage=stage)[1]["severity"].shape[1] for stage in (-1, -3)]
    assert sides == [2, 8]
    with pytest.raises(ValueError, match=r"stage must be -1 \(the last\) to -5"):
        target_layer(network.backbone, 0)


@pytest.mark.parametrize(("side", "cells"), [(448, 14), (224, 14), (112, 14), (64, 16), (8, 4)])
def test_the_stage_that_is_fine_enough(side, cells):
    backbone = grader("test_resnet").backbone
    assert side / backbone.feature_info[stage_of(backbone, side)]["reduction"] == cells


# ---- what the backbone sees ------------------------------------------------------------------------------------


WAYS_IN = ((100, 64, 1.0, "bilinear"), (64, 96, 1.0, "bicubic"), (128, 64, 0.8, "bicubic"), (90, 75, 0.875, "bilinear"))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("resolution", "input_size", "crop_pct", "interpolation"), WAYS_IN)
def test_a_lesion_lies_where_the_network_sees_it(fit, resolution, input_size, crop_pct, interpolation):
    """From pixels of the photograph to those behind packing and preprocessing: a red square says where it went."""
    photo = np.zeros((200, 260, 3), np.uint8)
    box = (120, 90, 150, 130)
    photo[box[1] : box[3], box[0] : box[2], 0] = 255
    packed = np.asarray(fit_square(Image.fromarray(photo), resolution, fit))
    network = grader(input_size=input_size, crop_pct=crop_pct, interpolation=interpolation)
    images = torch.from_numpy(np.array(packed)).permute(2, 0, 1)[None].float() / 255
    red = seen_by_backbone(network, images)[0, 0].numpy()
    side = len(red)
    ((x0, y0, x1, y1),) = view(network, resolution).boxes(fit_boxes([box], (260, 200), resolution, fit) / resolution)
    places = (np.arange(side) + 0.5) / side
    middle = places @ red.sum(axis=0) / red.sum(), places @ red.sum(axis=1) / red.sum()
    assert middle == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.1 / side)
    assert (x1 - x0) * (y1 - y0) * side**2 == pytest.approx(red.sum(), rel=0.02)


def test_a_view_of_all_is_the_identity():
    assert View((1.0, 1.0), (0.0, 0.0)).boxes([(0.1, 0.2, 0.3, 0.4)]).tolist() == [[0.1, 0.2, 0.3, 0.4]]
    seen = view(grader(), 64)
    assert (*seen.scale, *seen.shift) == pytest.approx((1, 1, 0, 0), abs=1e-5)


# ---- controls, and what goes wrong -----------------------------------------------------------------------------


def test_random_weights_are_others_and_the_same_for_a_seed():
    network = grader()
    state = torch.get_rng_state()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, again, other = (randomised(network, images, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [next(each.backbone.parameters()) for each in (network, first, again, other)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[3])
    assert not torch.equal(network.head.linear.weight, first.head.linear.weight) and not first.training


def test_features_of_random_weights_neither_vanish_nor_run_away():
    network = grader("efficientnet_b0")
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    other = randomised(network, images, seed=0)
    with torch.no_grad():
        assert network.features(images).std() < 1e-3  # by the statistics that layers start with
        assert 0.05 < other.features(images).std() < 1
    probabilities, maps = attributions(other, images)
    assert probabilities.min() > 0.05 and maps["severity"].max() > 1e-3


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ValueError, match=r"pip install 'acne-lab\[explain\]'"):
        attributions(grader(), torch.zeros(1, 3, 64, 64))


def test_a_layer_without_places_is_refused():
    network = grader()
    network.backbone.feature_info = [{"module": "fc", "num_chs": 1, "reduction": 32}]
    with pytest.raises(ValueError, match="has no places"):
        attributions(network, torch.zeros(1, 3, 64, 64))
