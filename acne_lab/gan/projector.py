"""Projection: the latent code whose image is nearest to a given one (Karras et al. 2019, section 5 and appendix D).

It does not know what "near" means: the caller passes a differentiable distance to the target. What it finds in W is a
face the generator could have drawn; W+, one w a layer, comes nearer to the photograph and farther from such faces.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from acne_lab.gan.generator import Generator, Synthesis
from acne_lab.gan.latent import w_statistics

SPACES = ("w", "w+")


@dataclass(frozen=True)
class Projection:
    """What was found.

    Args:
        ws: [num_ws, w_dim]; all rows are equal in the space w.
        noise: the noise maps [R, R] of the layers, by the names of their buffers in the synthesis network.
        image: [img_channels, R, R], what these two make.
        curve: a row a step: step, distance (of the image from noisy w), noise_penalty, learning_rate.
    """

    ws: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    curve: list[dict[str, float]]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that `render` needs, to be written to a file."""
        return {"ws": self.ws, **self.noise}


def project(
    G: Generator,
    distance: Callable[[Tensor], Tensor],
    *,
    space: str = "w",
    c: Tensor | None = None,
    num_steps: int = 1000,
    learning_rate: float = 0.1,
    w_noise: float = 0.05,
    noise_weight: float = 1e5,
    seed: int = 0,
) -> Projection:
    """Minimise `distance` over w and the noise maps, from the mean w and random noise.

    Args:
        G: generator, whose weights stay as they are.
        distance: images [1, img_channels, R, R], nominally in [-1, 1] -> [1], differentiable.
        space: "w" or "w+".
        c: one-hot label [c_dim] for the mean w; None is the mean over all classes, if there are any.
        num_steps: of Adam; the paper's is 1000.
        learning_rate: its peak, see `ramped`.
        w_noise: standard deviation, in units of sigma_w, of the noise on w that fades over the first three quarters.
        noise_weight: of `noise_penalty`, which keeps the image out of the noise maps.
        seed: of the noise.

    Raises:
        ValueError: an unknown space, or no step.
    """
    if space not in SPACES:
        raise ValueError(f"space must be {' or '.join(SPACES)}, not {space!r}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    mean, sigma = w_statistics(G, c)
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(mean)

    w = mean.repeat(1 if space == "w" else G.num_ws, 1).requires_grad_()
    noise = {name: draw(*buffer.shape).requires_grad_() for name, buffer in noise_buffers(G.synthesis).items()}
    optimizer = torch.optim.Adam([w, *noise.values()], lr=learning_rate)
    curve = []
    with tqdm(range(num_steps), desc=f"project into {space.upper()}", unit="step") as bar:
        for step in bar:
            t = step / num_steps
            lr = optimizer.param_groups[0]["lr"] = ramped(t, learning_rate)
            strength = w_noise * sigma * max(0.0, 1 - t / 0.75) ** 2
            ws = (w + strength * draw(*w.shape)).expand(G.num_ws, -1)
            far = distance(render(G.synthesis, ws, noise)).sum()
            penalty = sum(noise_penalty(maps) for maps in noise.values())
            optimizer.zero_grad()
            (far + noise_weight * penalty).backward()
            optimizer.step()
            for maps in noise.values():
                normalize_(maps)
            figures = {"distance": float(far.detach()), "noise_penalty": float(penalty.detach()), "learning_rate": lr}
            curve.append({"step": step, **figures})
            bar.set_postfix(distance=f"{figures['distance']:.4f}", refresh=False)
    ws = w.detach().expand(G.num_ws, -1).contiguous()
    noise = {name: maps.detach() for name, maps in noise.items()}
    with torch.no_grad():
        return Projection(ws=ws, noise=noise, image=render(G.synthesis, ws, noise)[0], curve=curve)


def noise_buffers(synthesis: Synthesis) -> dict[str, Tensor]:
    """The stored noise maps [R, R] of all layers, by name."""
    return {name: buffer for name, buffer in synthesis.named_buffers() if name.endswith("noise_const")}


def render(synthesis: Synthesis, ws: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """The image [1, img_channels, R, R] of ws [num_ws, w_dim] with these noise maps in place of the stored ones."""
    return functional_call(synthesis, noise, (ws[None],), {"noise_mode": "const", "force_fp32": True})


def ramped(t: float, peak: float) -> float:
    """Learning rate after the share t of the steps: up linearly in the first 5 %, down as a cosine in the last 25 %."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
    return peak * down * min(1.0, t / 0.05)


def noise_penalty(noise: Tensor) -> Tensor:
    """Squared correlation of a noise map [R, R] with itself moved by a pixel, summed over a pyramid down to 8 px.

    It is near 0 for white noise. Without it the optimisation paints the target into the noise maps.
    """
    penalty = noise.new_zeros([])
    while True:
        penalty = penalty + sum((noise * noise.roll(1, dims=i)).mean().square() for i in (0, 1))
        if len(noise) <= 8:
            return penalty
        noise = F.avg_pool2d(noise[None], 2)[0] * 2  # times 2: the variance stays 1


@torch.no_grad()
def normalize_(noise: Tensor) -> None:
    """Give a noise map a mean of 0 and a mean square of 1 again, in place."""
    noise -= noise.mean()
    noise *= noise.square().mean().rsqrt()
