"""Fine-tuning a backbone: which of its weights move, how fast, and whose running statistics are used.

It takes timm's word for what the stages of a network are (`group_matcher`), and knows nothing of the data.
"""

from collections.abc import Callable, Iterable

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

BATCH_NORM = ("train", "frozen_stages", "eval")


def freeze(backbone: nn.Module, part: str | dict[str, int]) -> int:
    """Let the first part of a backbone stay as it is. Returns the number of weights in it.

    Args:
        backbone: a timm network.
        part: "all"; {"stages": n}, the stem and the first n of timm's stages; or {"layers": n}, the first n modules
            with weights of their own (a convolution, a normalisation, a linear layer: one each), in the order in
            which the network holds them. That is the order of its forward pass, but for the shortcut of a block.

    Raises:
        ValueError: no such part, or more of it than the network has.
    """
    frozen = list(backbone.parameters()) if part == "all" else _first(backbone, part)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in frozen)


def _first(backbone: nn.Module, part: dict[str, int]) -> list[nn.Parameter]:
    match part:
        case {"stages": int(num)} if len(part) == 1:
            groups = group_parameters(backbone, backbone.group_matcher(coarse=True), return_values=True)
            stem, *rest = groups.values()
        case {"layers": int(num)} if len(part) == 1:
            own = (list(module.parameters(recurse=False)) for module in backbone.modules())
            stem, rest = [], [parameters for parameters in own if parameters]
        case _:
            raise ValueError(f"model.freeze={part}: give all, {{stages: 2}} or {{layers: 15}}")
    if not 0 <= num <= len(rest):
        raise ValueError(f"model.freeze={part}: the backbone has {len(rest)} {next(iter(part))}, give 0 to {len(rest)}")
    return stem + [parameter for parameters in rest[:num] for parameter in parameters]


def hold_statistics(backbone: nn.Module, *, batch_norm: str) -> None:
    """Put into evaluation what must not follow the batches, in a backbone that has just been put into training.

    Args:
        backbone: a timm network, perhaps in part frozen by `freeze`.
        batch_norm: "train": batch normalisation uses the statistics of each batch and learns from them everywhere;
            "frozen_stages": except where its weights are frozen, and dropout rests in frozen stages too, so that what
            is frozen is the same function at every step; "eval": nowhere, which suits small batches.
    """
    for module in backbone.modules():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if (batch_norm != "train" and frozen) or (batch_norm == "eval" and isinstance(module, _BatchNorm)):
            module.eval()


def parameter_groups(backbone: nn.Module, head: nn.Module, *, layer_decay: float) -> list[dict]:
    """The weights that move, in groups for an optimizer, as timm and BEiT (Bao et al., ICLR 2022) group them.

    Args:
        backbone: a timm network of L layers or blocks, as its `group_matcher` counts them.
        head: what follows.
        layer_decay: d in (0, 1]. A weight of layer l = 0..L-1 has the share d^(L - l) of the learning rate, `lr_scale`
            of its group; the head has all of it.

    Returns:
        groups with `params`, `lr_scale` and, for biases, norms and position embeddings, weight_decay 0; the others
        take the optimizer's.
    """
    groups = param_groups_layer_decay(
        backbone,
        weight_decay=None,
        no_weight_decay_list=backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else (),
        layer_decay=layer_decay,
    )
    for group in groups:
        group["lr_scale"] *= layer_decay  # timm counts a classifier as the last layer; ours is the head
        if group["weight_decay"] is None:
            del group["weight_decay"]
    biases, weights = ([p for p in head.parameters() if (p.ndim <= 1) == bias] for bias in (True, False))
    heads = [{"params": biases, "lr_scale": 1.0, "weight_decay": 0.0}, {"params": weights, "lr_scale": 1.0}]
    return groups + [group for group in heads if group["params"]]


def build_optimizer(
    make: Callable[[Iterable], Optimizer],
    backbone: nn.Module,
    head: nn.Module,
    *,
    layer_decay: float | None,
) -> Optimizer:
    """The optimizer of all weights that move.

    Args:
        make: parameters or groups of them -> optimizer.
        backbone: a timm network.
        head: what follows.
        layer_decay: see `parameter_groups`; None: one learning rate and one weight decay for all.
    """
    if layer_decay is None:
        return make(
            [parameter for net in (backbone, head) for parameter in net.parameters() if parameter.requires_grad]
        )
    optimizer = make(parameter_groups(backbone, head, layer_decay=layer_decay))
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale")
    return optimizer
