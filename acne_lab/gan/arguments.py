"""Constructor arguments of a network: from those that a released file records, or from its tensors alone."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Released argument -> ours. A dot leads into a dict of arguments; those of the synthesis may also stand outside it.
GENERATOR = {
    **{name: name for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")},
    "mapping_kwargs.num_layers": "num_mapping_layers",
    "synthesis_kwargs.channel_base": "channel_base",
    "synthesis_kwargs.channel_max": "channel_max",
    "synthesis_kwargs.architecture": "architecture",
    "synthesis_kwargs.num_fp16_res": "num_half_res",
    "synthesis_kwargs.conv_clamp": "conv_clamp",
}
DISCRIMINATOR = {
    **{name: name for name in ("c_dim", "img_resolution", "img_channels", "architecture")},
    **{name: name for name in ("channel_base", "channel_max", "conv_clamp", "cmap_dim")},
    "num_fp16_res": "num_half_res",
    "epilogue_kwargs.mbstd_group_size": "mbstd_group_size",
}
# What our networks always do: accepted if it says so, refused if it says anything else.
FIXED = {
    "activation": "lrelu",
    "kernel_size": 3,
    "lr_multiplier": 0.01,
    "mbstd_num_channels": 1,
    "resample_filter": [1, 3, 3, 1],
    "use_noise": True,
}
# What changes speed, precision of training or which layers are trained, not what a network computes.
WITHOUT_EFFECT = {
    "channels_last",
    "fp16_channels_last",
    "freeze_layers",
    "fused_modconv",
    "fused_modconv_default",
    "w_avg_beta",
}


def from_released(kind: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Our arguments for a "G" or "D" that was made with the `recorded` ones; what was left out is the default.

    Raises:
        ValueError: an argument is unknown or asks for what our networks do not do; all of them are named.
    """
    names = GENERATOR if kind == "G" else DISCRIMINATOR
    ours, refused = {}, []
    for name, value in _flat(recorded):
        last = name.rsplit(".", 1)[-1]
        if ours_is := names.get(name) or names.get(f"synthesis_kwargs.{name}"):
            ours[ours_is] = value
        elif name == "mapping_kwargs.num_layers" and value == 8:  # a discriminator's is always 8 deep
            continue
        elif value is not None and last not in WITHOUT_EFFECT and (last not in FIXED or value != FIXED[last]):
            refused.append(f"{name}={value}")
    if refused:
        raise ValueError(f"this {kind} was made with {', '.join(refused)}, which our networks do not know")
    return ours


def _flat(recorded: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """[("z_dim", 512), ("mapping_kwargs.num_layers", 8), ...]"""
    pairs = []
    for name, value in recorded.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", list(value) if isinstance(value, tuple) else value))
    return pairs


def from_tensors(kind: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments that tensors of these names and shapes tell; clamp, precision and group size are the defaults.

    Raises:
        ValueError: the names or shapes are not those of our networks.
    """
    try:
        return _generator(state) if kind == "G" else _discriminator(state)
    except (LookupError, TypeError) as error:  # a name is missing or no text, a shape has too few sides or none
        some = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:6])
        raise ValueError(
            f"its {len(state)} tensors have other names or shapes than the released StyleGAN2 networks ({some}, ...): "
            "give a released .pkl, or rename them"
        ) from error


def _generator(state: Mapping[str, Tensor]) -> dict[str, Any]:
    resolutions = _resolutions(state, r"synthesis\.b(\d+)\.conv1\.weight")
    w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
    c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    architecture = "skip" if "synthesis.b4.torgb.weight" in state else "orig"
    return {
        "img_resolution": resolutions[-1],
        "img_channels": len(state[f"synthesis.b{resolutions[-1]}.torgb.weight"]),
        "z_dim": state["mapping.fc0.weight"].shape[1] - (w_dim if c_dim else 0),
        "c_dim": c_dim,
        "w_dim": w_dim,
        "num_mapping_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state),
        "architecture": "resnet" if "synthesis.b8.skip.weight" in state else architecture,
        **_widths({r: len(state[f"synthesis.b{r}.conv1.weight"]) for r in resolutions}),
    }


def _discriminator(state: Mapping[str, Tensor]) -> dict[str, Any]:
    resolutions = _resolutions(state, r"b(\d+)\.conv0\.weight")
    c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    architecture = "skip" if "b4.fromrgb.weight" in state else "orig"
    return {
        "img_resolution": resolutions[-1],
        "img_channels": state[f"b{resolutions[-1]}.fromrgb.weight"].shape[1],
        "c_dim": c_dim,
        "cmap_dim": len(state["b4.out.weight"]) if c_dim else None,
        "architecture": "resnet" if "b8.skip.weight" in state else architecture,
        **_widths({4: len(state["b4.conv.weight"]), **{r: len(state[f"b{r}.conv0.weight"]) for r in resolutions}}),
    }


def _resolutions(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    return sorted(int(match[1]) for name in state if (match := re.fullmatch(pattern, name)))


def _widths(width: Mapping[int, int]) -> dict[str, int]:
    return {"channel_base": max(r * c for r, c in width.items()), "channel_max": max(width.values())}
