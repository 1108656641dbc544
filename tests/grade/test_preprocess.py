import numpy as np
import pytest
import timm
import torch
from PIL import Image

from acne_lab.grade.backbone import build_backbone, data_config
from acne_lab.grade.preprocess import Preprocess

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("side", [64, 168, 256])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "tf_efficientnet_lite0"])
def test_it_is_timms_transform_of_a_square_picture(name, side):
    """To 1.2 grey levels: PIL rounds twice, after the rows and after the columns."""
    config = data_config(build_backbone(name))
    picture = Image.fromarray(np.random.default_rng(0).integers(64, 192, (side, side, 3), np.uint8))
    expected = timm.data.create_transform(**config, is_training=False)(picture)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255 - mean) / std
    preprocess = Preprocess(**{**config, "input_size": config["input_size"][-1]}).eval()
    assert ((preprocess(images)[0] - expected) * std * 255).abs().max() <= 1.2


def test_a_picture_of_the_right_size_is_only_cropped():
    images = torch.rand(2, 3, 40, 40)
    preprocess = Preprocess(input_size=32, crop_pct=0.8, interpolation="bicubic", **PLAIN)
    assert torch.equal(preprocess(images), images[..., 4:36, 4:36])
    whole = Preprocess(input_size=40, crop_pct=1.0, interpolation="bilinear", **PLAIN)
    assert whole(images) is images


def test_bicubic_makes_nothing_brighter_than_white():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    resized = Preprocess(input_size=32, crop_pct=1.0, interpolation="bicubic", **PLAIN)(edge)
    assert (resized.min(), resized.max()) == (0, 1)


def test_random_crops_are_of_training_only_and_differ_between_images():
    rows = torch.arange(40.0).view(1, 1, 40, 1) / 40
    images = (rows + torch.arange(40.0) / 1600).expand(16, 3, 40, 40)
    preprocess = Preprocess(input_size=32, crop_pct=0.8, interpolation="bicubic", random_crop=True, **PLAIN)
    torch.manual_seed(0)
    corners = {tuple(image[0, 0, :1].tolist()) for image in preprocess.train()(images)}
    assert len(corners) > 8
    assert all(torch.equal(image, images[0, :, 4:36, 4:36]) for image in preprocess.eval()(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interpolation": "nearest"}, "bilinear or bicubic, not nearest"),
        ({"crop_pct": 0}, r"crop_pct=0 must be in \(0, 1\]"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"random_crop": True}, r"model\.crop_pct < 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**{"input_size": 32, "crop_pct": 1.0, "interpolation": "bicubic", **PLAIN, **arguments})
