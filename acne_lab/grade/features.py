"""What a backbone sees in the images of a table, computed once and kept.

The file's address is a hash of everything that decides its content: the packed pixels, the backbone's weights, how it
is built and what happens to images before it. So it is never stale, and processes share it; deleting it costs time.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from acne_lab.data.module import GraderBatches, Part

VERSION = 1  # change it with anything that changes features
BATCH_SIZE = 16  # always the same: the last bits of a sum depend on it


def kept_features(grader: nn.Module, part: Part, *, pixels_key: str, cache_dir: str | Path) -> Tensor:
    """The features of all images of a table, from the cache if they are there.

    Args:
        grader: a `Grader`, in evaluation; only its `backbone`, `preprocess` and what it was built with matter.
        part: a table with its pixels.
        pixels_key: of these pixels, see `pack_key`.
        cache_dir: where features are kept, as `<key>/features.npy`.

    Returns:
        float32 [N, F] in the table's row order.

    Raises:
        ValueError: features are not finite: the weights are broken.
    """
    assert not grader.training
    path = Path(cache_dir) / features_key(grader, pixels_key) / "features.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name("lock")):
            if not path.exists():  # another process may have computed them while this one waited
                features = _computed(grader, part)
                aside = path.with_name(f".features.{os.getpid()}.npy")
                np.save(aside, features.numpy())
                os.replace(aside, path)
    return torch.from_numpy(np.load(path))


def features_key(grader: nn.Module, pixels_key: str) -> str:
    """16 hex digits of what decides the features."""
    weights = hashlib.sha256()
    for name, tensor in grader.backbone.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    built = {name: grader.hparams[name] for name in ("backbone", "backbone_kwargs")}
    before = {name: getattr(grader.preprocess, name) for name in ("input_size", "resized", "interpolation")}
    normalised = {name: list(grader.data_config[name]) for name in ("mean", "std")}
    content = [VERSION, pixels_key, weights.hexdigest(), built, before, normalised]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@torch.inference_mode()
def _computed(grader: nn.Module, part: Part) -> Tensor:
    config, device = grader.data_config, next(grader.backbone.parameters()).device
    batches = GraderBatches(parts=[part], batch_size=BATCH_SIZE, mean=config["mean"], std=config["std"])
    bar = tqdm(batches, total=len(batches), desc="features", unit="batch", delay=1)
    features = torch.cat([grader.features(images.to(device)).float().cpu() for images, _, _ in bar])
    if num_bad := int((~features.isfinite()).any(dim=1).sum()):
        raise ValueError(f"the features of {num_bad} of {len(features)} images are not finite: are the weights whole?")
    return features
