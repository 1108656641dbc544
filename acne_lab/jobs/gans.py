"""What `run=` names: the generator of a finished GAN run, of the weights that come with the package, or of a file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from acne_lab.data.lineage import Lineage
from acne_lab.gan.generator import Generator, fast_half_res, fast_layout
from acne_lab.gan.weights import NETWORKS_FILE, SUFFIXES, build_network, read_networks, shipped_weights
from acne_lab.runs import GAN, Run, file_key, find_run

PSI_MIN, PSI_MAX = -1.0, 2.0  # beyond, every face is a caricature of the mean one or falls apart


@dataclass(frozen=True)
class Gan:
    """A trained generator and what it has learned.

    Args:
        name: for the lineage of its images: `train/gan_mild-0123456789`, or the name of a weights file.
        key: of its run, or of its file's content.
        weights: G_ema and D.
        config: arguments of its generator.
        classes: severities from mild to very severe; without a run nobody knows their names.
        severity: the one it was trained on; None is all.
        only_drawn: it has never seen a photograph.
        lineage: whose photographs it has seen.
    """

    name: str
    key: str
    weights: Path
    config: dict
    classes: tuple[str, ...]
    severity: str | None
    only_drawn: bool
    lineage: Lineage

    @property
    def is_conditional(self) -> bool:
        return self.config.get("c_dim", 0) > 0

    @property
    def num_channels(self) -> int:
        return self.config.get("img_channels", 3)

    def label(self, severity: str | None) -> torch.Tensor | None:
        """One-hot label [c_dim] of a severity; None for a generator that takes no labels.

        Raises:
            ValueError: a conditional generator needs one that it knows, any other takes none.
        """
        if not self.is_conditional:
            if severity is not None:
                raise ValueError(f"{self.name} is not conditional: leave mode.severity={severity} out")
            return None
        if str(severity) not in self.classes:
            raise ValueError(f"{self.name} is conditional: choose a severity out of {', '.join(self.classes)}")
        return torch.eye(len(self.classes))[self.classes.index(str(severity))]


def weights_file(reference: str, runs_dir: str) -> Path:
    """The file that `reference` names: shipped weights, a file of networks (.safetensors, .pkl, .pt) or a GAN's run.

    Raises:
        ValueError: there is none, it is no GAN's, or the run is not finished.
    """
    path = shipped_weights(reference) or Path(reference)
    if path.suffix in SUFFIXES or path.is_file():
        if not path.is_file():
            raise ValueError(f"there is no {path}: give a GAN's run, a file ({', '.join(SUFFIXES)}) or shipped weights")
        return path
    return find_run(reference, runs_dir, holds=GAN).path / NETWORKS_FILE


def find_gan(reference: str, runs_dir: str) -> Gan:
    """The GAN of a run, of shipped weights (`toy_faces_64`) or of a file; ValueError as `weights_file`."""
    weights = weights_file(reference, runs_dir)
    if run := run_of(weights):
        return Gan(
            name=f"{run.job}/{run.path.name}",
            key=run.key,
            weights=weights,
            config=run.config["model"]["G"],
            classes=tuple(run.metrics["classes"]),
            severity=run.metrics["severity"],
            only_drawn=has_seen_only_drawn(weights),
            lineage=lineage_of(weights),
        )
    config = read_networks(weights)["G_ema"].init_kwargs
    return Gan(
        name=weights.stem,
        key=file_key(weights),
        weights=weights,
        config=config,
        classes=tuple(str(i) for i in range(config.get("c_dim", 0))),
        severity=None,
        only_drawn=has_seen_only_drawn(weights),
        lineage=lineage_of(weights),
    )


def run_of(weights: Path) -> Run | None:
    """The finished run whose weights these are; None for a file from elsewhere."""
    run = Run(weights.parent)
    return run if weights.name == NETWORKS_FILE and run.done else None


def has_seen_only_drawn(weights: Path) -> bool:
    """Whether the networks of a file have learned from drawn faces alone; of a file of unknown origin nobody knows."""
    if run := run_of(weights):
        return run.metrics.get("only_drawn", False)
    return weights == shipped_weights(weights.stem)


def lineage_of(weights: Path) -> Lineage:
    """Whose photographs the networks of a file have seen; of a file of unknown origin nobody knows."""
    ours = run_of(weights) or weights == shipped_weights(weights.stem)
    return Lineage.read(weights.parent) if ours else Lineage(known=False)


def load_generator(gan: Gan) -> Generator:
    """Its averaged generator, on the GPU where there is one; in 16 bit, if it records that, only where this is fast."""
    G = read_networks(gan.weights)["G_ema"]
    if not fast_half_res():  # emulated it takes 2 (AVX-512) to 7 (AVX2) times as long as float32
        G = build_network("G", G.init_kwargs | {"num_half_res": 0}, G.state_dict())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return fast_layout(G.eval().requires_grad_(False).to(device))


def checked_psi(psi: float) -> float:
    """psi; ValueError outside of [-1, 2]: 1 is the learned distribution, 0 the mean face, below 0 its opposites."""
    if not PSI_MIN <= psi <= PSI_MAX:
        raise ValueError(f"psi must be from {PSI_MIN:g} to {PSI_MAX:g} (0 is the mean face, 1 all faces), not {psi}")
    return psi
