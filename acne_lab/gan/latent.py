"""Ways through the latent spaces of a generator: z (what is drawn), w (what the mapping network makes of it).

Pure functions on tensors. ws is w with one row a layer, [N, num_ws, w_dim], so that layers can differ. They do not
know images: give the ws they return to `G.synthesis`.
"""

from collections.abc import Sequence

import torch
from scipy.interpolate import CubicSpline
from torch import Generator as Rng
from torch import Tensor, nn

from acne_lab.gan.generator import Generator, Synthesis

NUMBERS_OF_A_SEED = 1_000_003


def seeded_z(numbers: Sequence[int], *, z_dim: int, seed: int = 0) -> tuple[Tensor, list[Rng]]:
    """z [N, z_dim] on the CPU for each image number, and the random states behind them, for the images' noise.

    An image depends on (seed, its number) alone: not on the other numbers, the batch or the device. Numbers from
    1,000,003 on are those of the next seed.
    """
    # torch's CPU generator takes the lower 32 bits of a seed only, so seed << 32 would change nothing.
    rngs = [torch.Generator().manual_seed(seed * NUMBERS_OF_A_SEED + number) for number in numbers]
    return torch.stack([torch.randn(z_dim, generator=rng) for rng in rngs]), rngs


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points at shares t [T] in [0, 1] of the great arc from a to b [D], [T, D] (Shoemake 1985).

    Normal z of many dimensions lie near a sphere; the straight line between two leaves it. Lengths are interpolated
    linearly. Vectors in opposite directions have no arc between them.
    """
    length_a, length_b = a.norm(), b.norm()
    angle = torch.arccos((a @ b / (length_a * length_b)).clamp(-1, 1))
    t = t[:, None]
    if angle < 1e-4:  # the arc is straight there, and its formula 0/0
        return a + t * (b - a)
    direction = (torch.sin((1 - t) * angle) * a / length_a + torch.sin(t * angle) * b / length_b) / torch.sin(angle)
    return direction * (length_a + t * (length_b - length_a))


def closed_arcs(keys: Tensor, num_frames: int) -> Tensor:
    """A closed way through keys [K, D] on great arcs, `num_frames` from each key to the next: [K * num_frames, D].

    Frame i * num_frames is key i; the frame after the last would be key 0.
    """
    t = torch.arange(num_frames) / num_frames
    return torch.cat([slerp(a, b, t.to(a)) for a, b in zip(keys, keys.roll(-1, dims=0))])


def closed_spline(keys: Tensor, num_frames: int) -> Tensor:
    """A closed cubic spline through keys [K, ...], `num_frames` from each key to the next: [K * num_frames, ...].

    Position, speed and acceleration are continuous, also where the end meets the start: nothing jerks at a key, as it
    does on straight lines. Frame i * num_frames is key i.
    """
    points = torch.cat([keys, keys[:1]]).cpu().double().numpy()
    spline = CubicSpline(range(len(points)), points, bc_type="periodic")
    t = torch.arange(len(keys) * num_frames) / num_frames
    return torch.from_numpy(spline(t.numpy())).to(keys)


def mix_styles(ws: Tensor, other: Tensor, layers: Sequence[int]) -> Tensor:
    """`ws` with the given layers taken from `other`, both [N, num_ws, w_dim] (Karras et al. 2018, section 3.1).

    The first layers decide pose and shape of the face, the last ones colour and texture.
    """
    mixed = ws.clone()
    mixed[:, layers] = other[:, layers]
    return mixed


def affine_layers(synthesis: Synthesis) -> list[list[nn.Module]]:
    """The affine layers that read each of the num_ws rows of ws: a convolution's, a ToRGB's, or both."""
    readers: list[list[nn.Module]] = [[] for _ in range(synthesis.num_ws)]
    start = 0
    for r in synthesis.resolutions:
        block = getattr(synthesis, f"b{r}")
        names = ["conv1"] if block.in_channels == 0 else ["conv0", "conv1"]
        names += ["torgb"] if block.has_torgb else []
        for i, name in enumerate(names):
            readers[start + i].append(getattr(block, name).affine)
        start += block.num_conv
    return readers


def sefa_directions(
    synthesis: Synthesis,
    num_directions: int,
    *,
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Directions in w that change the styles most: unit vectors [num_directions, w_dim] and their eigenvalues.

    A step along n changes the styles by A n, with A the stacked weights of the affine layers. The directions of largest
    ||A n||^2 are the leading eigenvectors of A^T A (Shen & Zhou 2021, eq. 8). No image, label or training is needed,
    and nobody says what they mean. An eigenvector's sign is free: here its largest component is positive.

    Args:
        synthesis: whose affine layers.
        num_directions: how many, strongest first; at most w_dim.
        layers: rows of ws whose affine layers count; None is all.
    """
    readers = affine_layers(synthesis)
    chosen = [affine for i in (range(len(readers)) if layers is None else layers) for affine in readers[i]]
    A = torch.cat([affine.weight * affine.weight_gain for affine in chosen]).detach().double()
    eigenvalues, vectors = torch.linalg.eigh(A.T @ A)  # ascending
    directions = vectors.T.flip(0)[:num_directions]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    return directions.to(chosen[0].weight), eigenvalues.flip(0)[:num_directions].to(chosen[0].weight)


def walk(ws: Tensor, direction: Tensor, steps: Tensor, *, layers: Sequence[int] | None = None) -> Tensor:
    """ws [num_ws, w_dim] moved along `direction` [w_dim] by each of `steps` [S]: [S, num_ws, w_dim].

    Args:
        layers: the rows of ws that move; None is all.
    """
    moved = ws.repeat(len(steps), 1, 1)
    chosen = slice(None) if layers is None else list(layers)
    moved[:, chosen] += steps[:, None, None].to(ws) * direction
    return moved


@torch.no_grad()
def w_statistics(G: Generator, c: Tensor | None = None, *, num_samples: int = 10_000) -> tuple[Tensor, float]:
    """Mean w [w_dim], and sigma_w: the root mean square distance of a w from it (Karras et al. 2019, appendix D).

    Args:
        G: whose mapping network.
        c: one-hot label [c_dim] of all samples; None draws from all classes evenly, if there are any.
        num_samples: random z, always the same ones.
    """
    device = G.mapping.w_avg.device
    z = torch.randn(num_samples, G.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    if G.c_dim:
        labels = torch.eye(G.c_dim, device=device) if c is None else c[None]
        c = labels.repeat(-(-num_samples // len(labels)), 1)[:num_samples]
    w = G.mapping(z, c)[:, 0]
    mean = w.mean(dim=0)
    return mean, float((w - mean).square().sum(dim=1).mean().sqrt())
