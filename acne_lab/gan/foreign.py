"""Tensors under the names of the other widespread PyTorch StyleGAN2 (`convs.0.conv.modulation.weight`, ...), renamed.

Such files hold state dicts under g, g_ema and d. The networks are the same, and so are the tensors, but for a leading
axis of the modulated convolutions' weights. The names are those that public reports of loading errors list; its source
was not read. Two things are not in the files: filters, which are ours, and the mean of w, which is measured here.
"""

import re
from collections.abc import Mapping as Tensors

import torch
from torch import Tensor

from acne_lab.gan.layers import RESAMPLE_TAPS, Mapping
from acne_lab.ops.upfirdn2d import setup_filter

NUM_W = 10_000  # latents that the mean of w is taken over


def is_foreign(state: Tensors[str, Tensor]) -> bool:
    """Whether a state dict has these names."""
    return "input.input" in state or "final_linear.0.weight" in state


def renamed(kind: str, state: Tensors[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a "G" or "D" under our names.

    Raises:
        ValueError: a tensor is missing, or has a name that is none of theirs.
    """
    try:
        left = {name: tensor for name, tensor in state.items() if not name.endswith(".kernel")}  # of the filters
        ours = _generator(left) if kind == "G" else _discriminator(left)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # names or shapes of no network
        raise ValueError(f"its tensors are not those of a network ({error})") from error
    if left:
        raise ValueError(f"there is no place for {', '.join(sorted(left)[:5])}")
    return ours


def _generator(left: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {"synthesis.b4.const": left.pop("input.input")[0]}
    num_layers = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in left)
    for i in range(num_layers):
        for name in ("weight", "bias"):
            ours[f"mapping.fc{i}.{name}"] = left.pop(f"style.{i + 1}.{name}")
    ours["mapping.w_avg"] = _mean_w(ours, num_layers)

    num_blocks = sum(re.fullmatch(r"to_rgbs\.\d+\.bias", name) is not None for name in left)
    layers = [("conv1", 4, "conv1")]
    layers += [(f"convs.{2 * i + j}", 8 * 2**i, f"conv{j}") for i in range(num_blocks) for j in range(2)]
    for number, (theirs, side, conv) in enumerate(layers):
        name = f"synthesis.b{side}.{conv}"
        ours |= _modulated(left, f"{theirs}.conv", name)
        ours[f"{name}.bias"] = left.pop(f"{theirs}.activate.bias")
        ours[f"{name}.noise_strength"] = left.pop(f"{theirs}.noise.weight").reshape([])
        # The oldest files have no noise of their own: any will do, as long as it stays the same.
        seeded = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(number))
        ours[f"{name}.noise_const"] = left.pop(f"noises.noise_{number}", seeded)[0, 0]
        ours[f"{name}.resample_filter"] = setup_filter(RESAMPLE_TAPS)
    for i, theirs in enumerate(["to_rgb1", *(f"to_rgbs.{i}" for i in range(num_blocks))]):
        block = f"synthesis.b{4 * 2**i}"
        ours |= _modulated(left, f"{theirs}.conv", f"{block}.torgb")
        ours[f"{block}.torgb.bias"] = left.pop(f"{theirs}.bias").flatten()
        ours[f"{block}.resample_filter"] = setup_filter(RESAMPLE_TAPS)
    return ours


def _modulated(left: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}.weight": left.pop(f"{theirs}.weight")[0],
        f"{ours}.affine.weight": left.pop(f"{theirs}.modulation.weight"),
        f"{ours}.affine.bias": left.pop(f"{theirs}.modulation.bias"),
    }


def _mean_w(tensors: dict[str, Tensor], num_layers: int) -> Tensor:
    w_dim, z_dim = tensors["mapping.fc0.weight"].shape
    with torch.device("meta"):  # no memory for what a file's first tensor only claims
        mapping = Mapping(z_dim=z_dim, c_dim=0, w_dim=w_dim, num_ws=None, num_layers=num_layers, track_w_avg=False)
    own = {name.removeprefix("mapping."): tensor for name, tensor in tensors.items() if name.startswith("mapping.")}
    mapping.load_state_dict(own, assign=True)
    with torch.no_grad():
        return mapping(torch.randn(NUM_W, z_dim, generator=torch.Generator().manual_seed(0))).mean(dim=0)


def _discriminator(left: dict[str, Tensor]) -> dict[str, Tensor]:
    num_blocks = sum(re.fullmatch(r"convs\.\d+\.skip\.1\.weight", name) is not None for name in left)
    top = 4 * 2**num_blocks
    pairs = {f"b{top}.fromrgb.weight": "convs.0.0.weight", f"b{top}.fromrgb.bias": "convs.0.1.bias"}
    for i in range(num_blocks):
        block, theirs = f"b{top // 2**i}", f"convs.{i + 1}"
        pairs |= {
            f"{block}.conv0.weight": f"{theirs}.conv1.0.weight",
            f"{block}.conv0.bias": f"{theirs}.conv1.1.bias",
            f"{block}.conv1.weight": f"{theirs}.conv2.1.weight",
            f"{block}.conv1.bias": f"{theirs}.conv2.2.bias",
            f"{block}.skip.weight": f"{theirs}.skip.1.weight",
        }
    pairs |= {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    for i, name in enumerate(("fc", "out")):
        pairs |= {f"b4.{name}.weight": f"final_linear.{i}.weight", f"b4.{name}.bias": f"final_linear.{i}.bias"}
    ours = {name: left.pop(theirs) for name, theirs in pairs.items()}
    filtered = {name.rpartition(".")[0] for name, tensor in ours.items() if tensor.ndim == 4}  # every convolution ...
    filtered |= {name.partition(".")[0] for name in ours} - {"b4"}  # ... and block has the filter
    return ours | {f"{name}.resample_filter": setup_filter(RESAMPLE_TAPS) for name in filtered}
