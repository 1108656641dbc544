"""Networks of the TensorFlow releases ("Legacy"), under the names and in the layout of the PyTorch ones.

Unconditional networks only: labels entered the TensorFlow networks in another way.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acne_lab.gan.layers import RESAMPLE_TAPS
from acne_lab.ops.upfirdn2d import setup_filter

# Static argument -> the one that PyTorch files record (`acne_lab.gan.arguments`).
ARGUMENTS = {
    "architecture": "architecture",
    "conv_clamp": "conv_clamp",
    "dlatent_size": "w_dim",
    "fmap_max": "channel_max",
    "latent_size": "z_dim",
    "mapping_layers": "mapping_kwargs.num_layers",
    "mbstd_group_size": "epilogue_kwargs.mbstd_group_size",
    "num_channels": "img_channels",
    "num_fp16_res": "num_fp16_res",
    "resolution": "img_resolution",
}
# What our networks always do.
FIXED = {
    "fmap_decay": 1,
    "fmap_min": 1,
    "mapping_lrmul": 0.01,
    "mapping_nonlinearity": "lrelu",
    "mbstd_num_features": 1,
    "nonlinearity": "lrelu",
    "normalize_latents": True,
    "resample_kernel": [1, 3, 3, 1],
    "use_noise": True,
}
# What changes training, or how images were drawn from the network, not what it computes.
WITHOUT_EFFECT = {
    "dlatent_avg_beta",
    "fused_modconv",
    "randomize_noise",
    "style_mixing_prob",
    "truncation_cutoff",
    "truncation_psi",
}
SYNTHESIS_LAYERS = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}
DISCRIMINATOR_LAYERS = {
    "fromrgb": "FromRGB",
    "conv0": "Conv0",
    "conv1": "Conv1_down",
    "skip": "Skip",
    "conv": "Conv",
    "fc": "Dense0",
}
UNUSED_VARIABLES = {"lod", "synthesis/lod"}  # a fade-in of progressive growing, always 0 here


def converted_arguments(static: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that a PyTorch file of this network would record.

    Raises:
        ValueError: an argument is unknown or asks for what our networks do not do; all of them are named.
    """
    fixed = FIXED | {"mapping_fmaps": static.get("dlatent_size", 512), "label_size": 0}
    refused = [
        f"{name}={value}"
        for name, value in static.items()
        if value is not None
        and ((name in fixed and value != fixed[name]) or name not in {*fixed, *ARGUMENTS, *WITHOUT_EFFECT, "fmap_base"})
    ]
    if refused:
        raise ValueError(f"a TensorFlow network made with {', '.join(refused)} cannot be converted")
    recorded = {ARGUMENTS[name]: value for name, value in static.items() if name in ARGUMENTS}
    return recorded | {"channel_base": 2 * static.get("fmap_base", 16384)}


def converted_tensors(names: list[str], variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors of these `names` (a network's state_dict), out of TensorFlow's variables.

    Raises:
        ValueError: a variable is missing or left over.
    """
    variables = {name.removeprefix("G_"): array for name, array in variables.items()}
    sources = {name: source(name) for name in names if not name.endswith("resample_filter")}
    missing = sorted(set(sources.values()) - set(variables))
    left_over = sorted(set(variables) - set(sources.values()) - UNUSED_VARIABLES)
    if missing or left_over:
        raise ValueError(
            f"its variables are not those of the StyleGAN2 it says it is: "
            f"missing {', '.join(missing[:5]) or 'none'}; left over {', '.join(left_over[:5]) or 'none'}"
        )
    tensors = {name: converted(name, variables[source(name)]) for name in sources}
    return tensors | {name: setup_filter(RESAMPLE_TAPS) for name in names if name.endswith("resample_filter")}


def source(name: str) -> str:
    """TensorFlow's name of a tensor, e.g. synthesis.b8.conv0.affine.weight -> synthesis/8x8/Conv0_up/mod_weight."""
    if name == "mapping.w_avg":
        return "dlatent_avg"
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return f"mapping/Dense{match[1]}/{match[2]}"
    match = re.fullmatch(r"(synthesis\.)?b(\d+)\.(\w+)\.?(.*)", name)
    resolution, layer, what = int(match[2]), match[3], match[4].replace("affine.", "mod_")
    scope = f"{resolution}x{resolution}"
    if not match[1]:
        return f"Output/{what}" if layer == "out" else f"{scope}/{DISCRIMINATOR_LAYERS[layer]}/{what}"
    if what == "noise_const":  # numbered from the 4x4 block's only one
        return f"synthesis/noise{2 * resolution.bit_length() - 7 + (layer == 'conv1')}"
    if layer == "const":
        return f"synthesis/{scope}/Const/const"
    tf_layer = "Conv" if (layer, resolution) == ("conv1", 4) else SYNTHESIS_LAYERS[layer]
    return f"synthesis/{scope}/{tf_layer}/{what}"


def converted(name: str, array: np.ndarray) -> Tensor:
    """Dense weights are transposed, kernels HWIO -> OIHW, those of up-convolutions flipped; styles had no 1 added."""
    x = torch.from_numpy(array.astype(np.float32))
    if name.endswith("noise_const"):
        return x[0, 0]
    if name.endswith(".const"):
        return x[0]
    if name.endswith("affine.bias"):
        return x + 1
    if x.ndim == 2:
        return x.t().contiguous()
    if x.ndim == 4:
        x = x.permute(3, 2, 0, 1)
        return (x.flip(2, 3) if re.search(r"synthesis.*conv0", name) else x).contiguous()
    return x
