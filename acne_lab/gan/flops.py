"""How many floating point operations training and generation need, from the shapes of the networks alone.

Counted are the convolutions and matrix products of the networks' definition, a multiplication and an addition as two,
products with the zeros of a padding included: as the peak that they are compared with is measured. Left out are
resampling filters, everything element-wise, and gradients that nobody uses (of D's weights while G learns; of any
weights inside R1 and the path length). A second latent's way through the mapping network (style mixing) is left out
too. The plain operators run on the meta device, where nothing is computed: a faster way to the same result does not
change the count.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.generator import Generator
from acne_lab.gan.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from acne_lab.ops import extension

Flops = Counter[int]  # of operands of 16 and 32 bit, whose peaks differ
PHASES = ("G main", "G path length", "D main", "D R1")  # as the training module calls them

# Where these operators take the number of groups; what has more than one is a resampling filter.
_GROUPS = {torch.ops.aten.convolution: 8, torch.ops.aten.convolution_backward: 9}


class FlopCounter(TorchDispatchMode):
    """Counts what runs inside, by torch's own formulas, in `flops`.

    torch's FlopCounterMode knows neither types nor groups.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Flops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        is_filter = operator in _GROUPS and args[_GROUPS[operator]] > 1
        if operator in flop_registry and not is_filter:
            self.flops[8 * args[1].itemsize] += flop_registry[operator](*args, **kwargs, out_val=out)
        return out


def training_flops(G: Generator, D: Discriminator, batch_size: int) -> dict[str, Flops]:
    """FLOPs of each of the `PHASES` for networks on the meta device, once through each with a whole batch.

    Leaves gradients switched on for D alone.
    """
    z, c = latents(G, batch_size)
    real = torch.empty(batch_size, D.img_channels, D.img_resolution, D.img_resolution, device="meta")

    def g_main() -> Tensor:
        return generator_loss(D(G(z, c), c))

    def g_path_length() -> Tensor:
        half = max(1, batch_size // 2)
        ws = G.mapping(z[:half], None if c is None else c[:half])
        images = G.synthesis(ws, force_fp32=True)
        lengths = path_lengths(images, ws, torch.empty_like(images))
        return path_length_penalty(lengths, lengths.detach().mean())

    def d_main() -> Tensor:
        with torch.no_grad():
            fake = G(z, c)
        return discriminator_loss(D(real, c), D(fake, c))

    def d_r1() -> Tensor:
        images = real.clone().requires_grad_()
        return r1_penalty(D(images, c, force_fp32=True), images, gamma=1.0)

    losses = ((g_main, G), (g_path_length, G), (d_main, D), (d_r1, D))
    flops = {}
    for phase, (loss, network) in zip(PHASES, losses, strict=True):
        G.requires_grad_(network is G)
        D.requires_grad_(network is D)
        flops[phase] = _flops_of(loss, network)
    return flops


def generation_flops(G: Generator, batch_size: int) -> Flops:
    """FLOPs of a batch of images from a generator on the meta device."""
    with torch.no_grad(), extension.use("reference"), FlopCounter() as counter:
        G(*latents(G, batch_size))
    return counter.flops


def latents(G: Generator, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """z [N, z_dim] and labels [N, c_dim], or None, on the meta device."""
    z = torch.empty(batch_size, G.z_dim, device="meta")
    return z, torch.empty(batch_size, G.c_dim, device="meta") if G.c_dim else None


def _flops_of(loss: Callable[[], Tensor], network: nn.Module) -> Flops:
    """Of a loss and its gradient for the network's weights."""
    with extension.use("reference"), FlopCounter() as counter:
        torch.autograd.grad(loss(), list(network.parameters()), allow_unused=True)
    return counter.flops
