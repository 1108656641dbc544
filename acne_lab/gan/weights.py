"""Network weights as safetensors, and loading them into another network by name and shape.

A GAN run leaves `networks.safetensors` (G_ema and D). Reading one executes nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NETWORKS_FILE = "networks.safetensors"
MIN_LOADED = 0.5  # share of a network's parameters that must fit, or it is not fine-tuning


def shipped_weights(name: str) -> Path | None:
    """The weights file of that name that comes with the package (e.g. `toy_faces_64`), if there is one."""
    path = Path(__file__).parent / "pretrained" / f"{name}.safetensors"
    return path if path.exists() else None


def save_networks(path: Path, *, G_ema: nn.Module, D: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Write both networks to one file, aside and renamed; `dtype` converts the tensors, None keeps theirs."""
    tensors = {
        f"{name}.{key}": tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, network in (("G_ema", G_ema), ("D", D))
        for key, tensor in network.state_dict().items()
    }
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside)
    aside.replace(path)


def load_networks(path: Path) -> dict[str, dict[str, Tensor]]:
    """{"G_ema": state, "D": state}, in float32.

    Raises:
        ValueError: the file does not hold both networks.
    """
    networks: dict[str, dict[str, Tensor]] = {"G_ema": {}, "D": {}}
    for key, tensor in load_file(path).items():
        name, _, rest = key.partition(".")
        if name not in networks:
            raise ValueError(f"{path} holds {key}: not a file of G_ema and D, as `acne-lab train` writes it")
        networks[name][rest] = tensor.float()
    if not all(networks.values()):
        raise ValueError(f"{path} does not hold both G_ema and D")
    return networks


def generator_arguments(state: dict[str, Tensor]) -> dict:
    """Arguments of a `Generator` that this state dict fits, read from its names and shapes (in 32 bit, unclamped)."""

    def numbers(pattern: str) -> list[int]:
        return [int(found[1]) for name in state if (found := re.fullmatch(pattern, name))]

    width = {r: len(state[f"synthesis.b{r}.conv1.weight"]) for r in numbers(r"synthesis\.b(\d+)\.conv1\.weight")}
    resolution = max(width)
    w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
    c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    if "synthesis.b8.skip.weight" in state:
        architecture = "resnet"
    else:
        architecture = "skip" if "synthesis.b4.torgb.weight" in state else "orig"
    return {
        "img_resolution": resolution,
        "img_channels": len(state[f"synthesis.b{resolution}.torgb.weight"]),
        "z_dim": state["mapping.fc0.weight"].shape[1] - (w_dim if c_dim else 0),
        "c_dim": c_dim,
        "w_dim": w_dim,
        "num_mapping_layers": len(numbers(r"mapping\.fc(\d+)\.weight")),
        "channel_base": max(r * channels for r, channels in width.items()),
        "channel_max": max(width.values()),
        "architecture": architecture,
    }


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor: loaded, initialised (not in the file, or of another shape) or unused."""

    loaded: list[str]
    initialised: list[str]
    unused: list[str]
    share: float  # of the network's parameters that were loaded

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.initialised)} initialised, {len(self.unused)} unused"
        return f"{self.share:.0%} of the parameters ({counts} tensors)"


@torch.no_grad()
def transfer(network: nn.Module, state: dict[str, Tensor]) -> Transfer:
    """Copy the tensors of `state` that fit `network` by name and shape.

    Raises:
        ValueError: less than half of the network's parameters fit.
    """
    own = network.state_dict()
    loaded = [key for key, tensor in own.items() if key in state and state[key].shape == tensor.shape]
    num_parameters = sum(p.numel() for p in network.parameters())
    names = {name for name, _ in network.named_parameters()}
    share = sum(own[key].numel() for key in loaded if key in names) / num_parameters
    if share < MIN_LOADED:
        raise ValueError(
            f"only {share:.0%} of the network's parameters fit the weights given as init_from: choose the model "
            "and data.resolution that they were trained with, or leave init_from out"
        )
    for key in loaded:
        own[key].copy_(state[key])
    return Transfer(
        loaded=loaded,
        initialised=[key for key in own if key not in loaded],
        unused=[key for key in state if key not in loaded],
        share=share,
    )
