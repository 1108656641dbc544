"""Loading weights into another network: with other labels, of another resolution or width.

What fits is copied and the rest joins at weight zero, so that the network starts as the function that the weights
were: a generator with the old images (enlarged, if it has grown), a discriminator with the old logits (of the
reduced image), both under every label. Exceptions: new channels change the minibatch standard deviation a little;
a mapping network of another depth is another function; what is cut off (resolution, width, labels) is gone.

With equalised learning rate a layer multiplies its stored weights by 1/sqrt(inputs). One that gets more inputs has
its weights multiplied by sqrt(new/old), to mean the same; one that loses some keeps the stored weights, and with
them the variance of its sums. Demodulated convolutions have no such gain.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.layers import Conv2d
from acne_lab.ops.bias_act import ACTIVATIONS

MIN_SHARE = 0.5  # of a network's parameters that must come from the file, or it is not fine-tuning
BUFFERS = ("resample_filter", "noise_const", "w_avg")
ROW_FORMAT = "{:<12}{:<44}{:<20}{:<20}{}"
ROW_HEADER = ROW_FORMAT.format("fate", "tensor", "shape", "in the file", "").rstrip()
EMBEDDING = "mapping.embed.weight"  # [w_dim, c_dim]: a column a class
HEAD = ("b4.out.weight", "b4.out.bias")


@dataclass
class Row:
    """What became of a tensor."""

    name: str
    fate: str  # loaded | partly | initialised | unused
    shape: list[int] | None  # in the network
    file_shape: list[int] | None
    note: str = ""
    copied: int = 0  # elements

    def __str__(self) -> str:
        shapes = ["-" if shape is None else str(shape) for shape in (self.shape, self.file_shape)]
        return ROW_FORMAT.format(self.fate, self.name, *shapes, self.note).rstrip()


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor of a network and of a file."""

    rows: list[Row]
    share: float  # of the network's parameters that came from the file

    def __str__(self) -> str:
        counts = Counter(row.fate for row in self.rows)
        tensors = ", ".join(f"{counts[fate]} {fate}" for fate in ("loaded", "partly", "initialised", "unused"))
        return f"{self.share:.0%} of the parameters (tensors: {tensors})"


@torch.no_grad()
def transfer(
    network: nn.Module,
    state: Mapping[str, Tensor],
    same_classes: Sequence[tuple[int, int]] | None = None,
) -> Transfer:
    """Copy what fits of a generator's or discriminator's `state` into `network`.

    Args:
        same_classes: (index in the network, index in the file) of the classes that both know; None takes those of the
            same index for the same.

    Raises:
        ValueError: less than half of the network's parameters would come from `state`.
    """
    own = network.state_dict()
    state, notes = with_moved_fromrgb(own, state)
    same_labels = has_labels(own) == has_labels(state)
    rows = {}
    for name, new in own.items():
        row = rows[name] = Row(name, "initialised", list(new.shape), None, notes.get(name, ""))
        old = state.get(name)
        if old is None or (name in HEAD and not same_labels):
            continue
        row.file_shape = list(old.shape)
        if new.ndim == old.ndim and new.shape[2:] == old.shape[2:]:
            row.copied = copy_overlap(name, own, state, same_classes)
            whole = new.shape == old.shape and row.copied == new.numel()
            row.fate = "loaded" if whole else "partly" if row.copied else "initialised"
            if name == EMBEDDING:
                by = "position" if same_classes is None else "class"
                row.note = f"columns by {by}" if row.copied else "no class is the same"
    for name, old in state.items():
        if name not in own:
            rows[name] = Row(name, "unused", None, list(old.shape))

    learned = [name for name in own if not name.endswith(BUFFERS)]
    share = sum(rows[name].copied for name in learned) / sum(own[name].numel() for name in learned)
    if share < MIN_SHARE:
        raise ValueError(
            f"only {share:.0%} of the network's parameters fit the weights given as init_from: choose the model "
            "and data.resolution that they were trained with, or leave init_from out"
        )
    if isinstance(network, Discriminator):
        join_head(network, state, rows)
        join_top_of_discriminator(network, state, rows)
    else:
        join_top_of_generator(own, state, rows)
    return Transfer(list(rows.values()), share)


def has_labels(state: Mapping[str, Tensor]) -> bool:
    return EMBEDDING in state


# ---- one tensor --------------------------------------------------------------------------------


def copy_overlap(
    name: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    same_classes: Sequence[tuple[int, int]] | None = None,
) -> int:
    """Copy the channels that both have; return the number of elements. New inputs of old outputs get weight zero."""
    new, old = own[name], state[name]
    if new.ndim < 2 or not name.endswith(".weight"):  # a bias, the constant, a buffer
        part = tuple(slice(min(n, o)) for n, o in zip(new.shape, old.shape, strict=True))
        new[part] = old[part]
        return new[part].numel()
    outputs = min(len(new), len(old))
    if name != EMBEDDING:  # a label reads its own column only
        new[:outputs] = 0
    copied = 0
    for new_start, old_start, count in shared_inputs(name, own, state, same_classes):
        part = old[:outputs, old_start : old_start + count]
        new[:outputs, new_start : new_start + count] = part * gain_ratio(name, new.shape[1], old.shape[1])
        copied += part.numel()
    return copied


def gain_ratio(name: str, new_inputs: int, old_inputs: int) -> float:
    """What stored weights are multiplied by when the number of inputs changes."""
    if re.fullmatch(r"synthesis\.b\d+\.conv[01]\.weight", name):  # demodulated
        return 1.0
    if name == EMBEDDING:
        return math.sqrt(new_inputs / old_inputs)
    return math.sqrt(max(1.0, new_inputs / old_inputs))


def shared_inputs(
    name: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    same_classes: Sequence[tuple[int, int]] | None,
) -> list[tuple[int, int, int]]:
    """(start in the network, start in the file, number) of the runs of inputs that mean the same in both."""
    new, old = own[name].shape[1], state[name].shape[1]
    if name == EMBEDDING and same_classes is not None:
        return [(new_class, old_class, 1) for new_class, old_class in same_classes]
    if name == "mapping.fc0.weight":  # the latent code, then the label's embedding
        new_z, old_z = new - embedding_width(own), old - embedding_width(state)
        return [(0, 0, min(new_z, old_z)), (new_z, old_z, min(new - new_z, old - old_z))]
    if name == "b4.conv.weight":  # the last input is the minibatch standard deviation
        return [(0, 0, min(new, old) - 1), (new - 1, old - 1, 1)]
    return [(0, 0, min(new, old))]


def embedding_width(state: Mapping[str, Tensor]) -> int:
    return len(state[EMBEDDING]) if has_labels(state) else 0


# ---- labels ------------------------------------------------------------------------------------


def join_head(network: Discriminator, state: Mapping[str, Tensor], rows: dict[str, Row]) -> None:
    """Fit the last layer to the width of the label projection, logit = out . cmap / sqrt(width)."""
    weight, bias = network.b4.out.weight, network.b4.out.bias
    old_weight, old_bias = (state[name] for name in HEAD)
    width = len(weight)
    if has_labels(state) and network.c_dim:
        weight[len(old_weight) :] = 0
        for tensor in (weight, bias):
            tensor *= math.sqrt(max(1.0, width / len(old_weight)))
    elif network.c_dim:  # each output is the old one times q, with cmap(c) . q / sqrt(width) = 1 for every label c
        cmap = network.mapping(None, torch.eye(network.c_dim, device=weight.device))
        q = torch.linalg.pinv(cmap / math.sqrt(width)).sum(dim=1)
        own = {HEAD[0]: torch.zeros_like(weight[:1])}
        copied = copy_overlap(HEAD[0], own, state)
        weight.copy_(q[:, None] * own[HEAD[0]])
        bias.copy_(q * old_bias)
        for name, number in zip(HEAD, (copied, 1), strict=True):
            rows[name].fate, rows[name].file_shape, rows[name].copied = "partly", list(state[name].shape), number
            rows[name].note = "gives every label the old logit"


# ---- resolution --------------------------------------------------------------------------------


def tops(own: Mapping[str, Tensor], state: Mapping[str, Tensor], pattern: str) -> tuple[int, int]:
    """The highest resolutions of the network and of the file, 0 without any."""
    return tuple(
        max((int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))), default=0)
        for tensors in (own, state)
    )


def join_top_of_generator(own: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: dict[str, Row]) -> None:
    """New blocks add nothing to the enlarged image at first, where every block adds to one ("skip")."""
    _, old_top = tops(own, state, r"synthesis\.b(\d+)\.conv1\.weight")
    for name in own:
        match = re.fullmatch(r"synthesis\.b(\d+)\.torgb\.weight", name)
        if match and int(match[1]) > old_top and f"synthesis.b{old_top}.torgb.weight" in own:
            own[name].zero_()
            rows[name].note = "starts at zero"


def with_moved_fromrgb(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A discriminator that lost its top reads the image with the old top's fromrgb; notes say so."""
    state, notes = dict(state), {}
    new_top, old_top = tops(own, state, r"b(\d+)\.fromrgb\.weight")
    if 0 < new_top < old_top and f"b{new_top}.fromrgb.weight" not in state:
        for what in ("weight", "bias"):
            state[f"b{new_top}.fromrgb.{what}"] = state.pop(f"b{old_top}.fromrgb.{what}")
            notes[f"b{new_top}.fromrgb.{what}"] = f"from b{old_top}.fromrgb"
    return state, notes


def join_top_of_discriminator(network: Discriminator, state: Mapping[str, Tensor], rows: dict[str, Row]) -> None:
    """New top blocks hand the reduced image on, so that the old top block reads what its own fromrgb would give.

    A value passes through leaky ReLUs as a pair: lrelu(a) - lrelu(-a) = (1 + slope) a. Blocks that are too narrow
    for the pairs stay as they were initialised.
    """
    new_top, old_top = tops(network.state_dict(), state, r"b(\d+)\.fromrgb\.weight")
    blocks = {r: getattr(network, f"b{r}") for r in network.resolutions if r > old_top}
    if not blocks:
        return
    if hasattr(getattr(network, f"b{old_top}"), "fromrgb"):  # "skip": it reads the reduced image itself
        blocks[2 * old_top].conv1.weight.zero_()
        rows[f"b{2 * old_top}.conv1.weight"].note = "starts at zero"
        return
    old = state[f"b{old_top}.fromrgb.weight"].flatten(1)
    n = network.img_channels
    if old.shape[1] != n or any(len(block.conv0.weight) < 2 * n for block in blocks.values()):
        return
    lrelu = ACTIVATIONS["lrelu"]
    pair = torch.cat([torch.eye(n), -torch.eye(n)])
    unpair = pair.t() / (lrelu.gain * (1 + lrelu.alpha))
    set_rows(blocks[new_top].fromrgb, pair, torch.zeros(2 * n))
    for r, block in blocks.items():
        set_rows(block.conv0, pair @ unpair, torch.zeros(2 * n))
        last = r == 2 * old_top
        weight = old / math.sqrt(n) if last else pair
        bias = state[f"b{old_top}.fromrgb.bias"] if last else torch.zeros(2 * n)
        if block.architecture == "resnet":  # both branches are multiplied by sqrt(1/2); the skip branch gives nothing
            weight, bias = weight * math.sqrt(2), bias * math.sqrt(2)
            set_rows(block.skip, torch.zeros(len(weight), 0), None)
        set_rows(block.conv1, weight @ unpair, bias)
        for name in rows:
            if name.startswith(f"b{r}.") and name.endswith((".weight", ".bias")):
                rows[name].note = f"hands the image on to b{r // 2}"
    for what in ("weight", "bias"):
        row = rows[f"b{old_top}.fromrgb.{what}"]
        row.fate, row.note = "partly", f"went into b{2 * old_top}.conv1"


def set_rows(conv: Conv2d, matrix: Tensor, bias: Tensor | None) -> None:
    """Make the first outputs of a layer, before its activation, `matrix` times its first inputs, plus `bias`."""
    outputs, inputs = min(len(conv.weight), len(matrix)), matrix.shape[1]
    centre = conv.weight.shape[-1] // 2
    conv.weight[:outputs] = 0
    conv.weight[:outputs, :inputs, centre, centre] = matrix[:outputs] / conv.weight_gain
    if bias is not None:
        conv.bias[:outputs] = bias[:outputs]
