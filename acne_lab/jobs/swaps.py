"""The GANs of a severity swap: projection by the base model, the same latent code by a severity's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from acne_lab.callbacks import to_uint8
from acne_lab.data.lineage import Lineage
from acne_lab.data.photo import fit_square
from acne_lab.gan.generator import Generator
from acne_lab.gan.latent import w_statistics
from acne_lab.gan.projector import project, render
from acne_lab.jobs.gans import Gan, find_gan, load_generator
from acne_lab.jobs.project import perceptual_distance

BASE = "base"


@dataclass
class GanSwap:
    """What `acne_lab.edit.swap.SeveritySwap` calls. Networks are read where they are first needed, so it travels well.

    Args:
        gans: the base's and a model of each severity.
        space: "w" or "w+".
        num_steps: of the projection.
        learning_rate: its peak.
        perceptual: the distance.
    """

    gans: Mapping[str, Gan]
    space: str
    num_steps: int
    learning_rate: float
    perceptual: str
    _loaded: dict[str, Generator] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        return {**vars(self), "_loaded": {}}

    def __call__(self, crop: np.ndarray, severity: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Crop uint8 [R, R, 3] -> the base's picture of its latent code and the severity model's, uint8 [r, r, 3]."""
        if severity not in self.gans or severity == BASE:
            there = ", ".join(name for name in self.gans if name != BASE)
            raise ValueError(f"edit.gans has no model of {severity}, only of {there}")
        base, other = self._generator(BASE), self._generator(severity)
        photo = fit_square(Image.fromarray(crop), base.img_resolution, "crop")
        target = torch.from_numpy(np.asarray(photo) / 127.5 - 1).float().permute(2, 0, 1)[None]
        nearest = project(
            base,
            perceptual_distance(target.to(base.mapping.w_avg.device), self.perceptual),
            space=self.space,
            num_steps=self.num_steps,
            learning_rate=self.learning_rate,
            seed=seed,
        )
        # Fine-tuning moves the whole of W: the same face lies as far from the mean face of either model.
        (here, _), (there, _) = w_statistics(base), w_statistics(other)
        with torch.no_grad():
            swapped = render(other.synthesis, nearest.ws - here + there, nearest.noise)
        return _pixels(nearest.image[None]), _pixels(swapped)

    def _generator(self, name: str) -> Generator:
        if name not in self._loaded:
            self._loaded[name] = load_generator(self.gans[name])
        return self._loaded[name]


def find_swap(
    gans: Mapping[str, str] | None,
    runs_dir: str,
    *,
    space: str = "w",
    num_steps: int = 300,
    learning_rate: float = 0.1,
    perceptual: str = "efficientnet_lite0",
) -> tuple[GanSwap, list[str], Lineage]:
    """A swap by these GANs, whose networks are not read yet, their keys, and whose photographs they have seen.

    Args:
        gans: `base` and a model for each severity, fine-tuned from it; each as `run=` of acne-lab generate.
        runs_dir: where runs lie.
        space: "w": a face that the models can draw; "w+": nearer to the photograph, where a severity's model may never
            have been.
        num_steps: of the projection, which is nearly all of the time that an edit takes.
        learning_rate: its peak.
        perceptual: the distance, see `acne_lab.jobs.project.perceptual_distance`.

    Raises:
        ValueError: no base or no other model, or one that has learned something else.
    """
    given = {str(name): run for name, run in (gans or {}).items()}
    if BASE not in given or len(given) < 2:
        raise ValueError(
            "a severity swap needs models: edit.gans={base: RUN, severe: RUN, ...}, each fine-tuned from the base"
        )
    found = {name: find_gan(run, runs_dir) for name, run in given.items()}
    for name, gan in found.items():
        _check(name, gan)
    swap = GanSwap(found, space, num_steps, learning_rate, perceptual)
    how = f"{space}:{num_steps}:{learning_rate}:{perceptual}"
    keys = [f"{name}:{gan.key}" for name, gan in found.items()]
    return swap, [*keys, how], Lineage.merged(*(gan.lineage for gan in found.values()))


def make_swap(gans: Mapping[str, str] | None, runs_dir: str, **projection: object) -> GanSwap:
    """The swap of `find_swap`, whose models fit together.

    Raises:
        ValueError: as `find_swap`, or the base's latent code does not fit a model.
    """
    swap, *_ = find_swap(gans, runs_dir, **projection)
    sizes = {name: (G.img_resolution, G.num_ws, G.w_dim) for name, G in ((k, swap._generator(k)) for k in swap.gans)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"edit.gans differ in resolution, layers or width of w, {sizes}: fine-tune them from the base")
    return swap


def _check(name: str, gan: Gan) -> None:
    if gan.is_conditional or gan.num_channels != 3:
        raise ValueError(f"edit.gans.{name}={gan.name} must be an unconditional RGB model")
    if name != BASE and gan.severity not in (None, name):
        raise ValueError(f"edit.gans asks {gan.name} for {name} faces, but it has learned {gan.severity} ones")


def _pixels(images: Tensor) -> np.ndarray:
    """[1, 3, R, R] -> uint8 [R, R, 3]."""
    return to_uint8(images)[0].permute(1, 2, 0).cpu().numpy()
