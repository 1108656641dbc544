"""Features are computed once for everything that decides them, and for nothing else."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

from acne_lab.data.module import GraderBatches
from acne_lab.data.table import ImageTable
from acne_lab.grade.features import features_key, kept_features
from acne_lab.grade.heads import CoralHead, SoftmaxHead
from acne_lab.grade.module import Grader

CLASSES = ("mild", "severe")


@pytest.fixture(scope="module")
def part():
    rows = {"file_name": [f"{i}.png" for i in range(20)], "severity": ["mild", "severe"] * 10, "lesions": 3}
    rows |= {"subject": "a", "split": "train", "source": "toy", "parent": "", "sha256": "0"}
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    return ImageTable(root="nowhere", rows=pd.DataFrame(rows), classes=CLASSES), pixels


def grader(seed=0, **arguments):
    torch.manual_seed(seed)
    given = {"backbone": "test_resnet", "head": functools.partial(SoftmaxHead), "classes": CLASSES, "input_size": 32}
    given |= {"crop_pct": 1.0, "interpolation": "bilinear"}
    return Grader(**given | arguments).eval()


def test_they_are_those_of_the_grader_and_computed_once(part, tmp_path, monkeypatch):
    model = grader()
    found = kept_features(model, part, pixels_key="pixels", cache_dir=tmp_path)
    own = model.data_config
    [images] = [images for images, _, _ in GraderBatches(parts=[part], batch_size=20, mean=own["mean"], std=own["std"])]
    with torch.no_grad():
        torch.testing.assert_close(found, model.features(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(found), model(images), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(Grader, "features", None)
    assert torch.equal(kept_features(grader(), part, pixels_key="pixels", cache_dir=tmp_path), found)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["features.npy", "lock"]


def test_what_decides_them_is_in_their_key():
    usual = features_key(grader(), "pixels")
    others = [
        features_key(grader(), "other pixels"),
        features_key(grader(seed=1), "pixels"),
        features_key(grader(input_size=64), "pixels"),
        features_key(grader(crop_pct=0.5), "pixels"),
        features_key(grader(interpolation="bicubic"), "pixels"),
    ]
    assert len({usual, *others}) == 6
    torch.manual_seed(0)
    assert features_key(grader(head=functools.partial(CoralHead), drop_rate=0.5), "pixels") == usual


def test_broken_weights_are_told_and_nothing_is_kept(part, tmp_path):
    model = grader()
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="of 20 of 20 images are not finite"):
        kept_features(model, part, pixels_key="pixels", cache_dir=tmp_path)
    assert not list(tmp_path.glob("*/*.npy"))
