"""The smallest data and networks with which every job runs."""

from pathlib import Path

import torch

from acne_lab.build import composed as composed
from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.weights import read_networks, save_networks

# 80 faces of 32 px, 20 of each severity.
TOY = (
    "data.resolution=32",
    "data.num_workers=1",
    "data.source.photos_per_subject=2",
    "data.source.class_counts={mild: 20, moderate: 20, severe: 20, very_severe: 20}",
)
TINY_GAN = (
    "num_threads=1",  # sums depend on the number of threads, which is not in a run's key
    "model.G.channel_base=128",
    "model.G.channel_max=16",
    "model.G.z_dim=16",
    "model.G.w_dim=16",
    "model.G.num_half_res=0",
    "stage.batch_size=4",
    "stage.tick_images=8",
    "stage.num_images=16",
)
TINY_GRADER = (
    "model.backbone=test_resnet",
    "model.input_size=32",
    "trainer.max_epochs=2",
    "loader.batch_size=8",
)
TINY_REFINER = (
    "num_threads=1",
    "data.source.class_counts={mild: 4, moderate: 12, severe: 1, very_severe: 1}",  # few lesions are quickly redrawn
    "data.resolution=64",  # on smaller faces no skin is found
    "data.split.fractions={train: 0.6, val: 0.3, test: 0.1}",
    "refiner=tiny",
    "patches.landmarks=false",
    "patches.side=32",
    "patches.per_photo=2",
    "stage.batch_size=4",
    "stage.tick_images=8",
    "stage.num_images=16",
)


def tiny_weights(path: Path, *, start_from: Path | None = None, **arguments: int) -> Path:
    """A weights file of a random generator of 16 px, or of a slightly changed one of another file."""
    torch.manual_seed(0)
    size = {"img_resolution": 16, "channel_base": 128, "channel_max": 16}
    G = Generator(**{**size, "z_dim": 16, "w_dim": 16, "num_mapping_layers": 2, **arguments})
    if start_from is not None:
        G.load_state_dict(read_networks(start_from)["G_ema"].state_dict())
        with torch.no_grad():
            G.synthesis.b16.conv1.bias += 0.1
    save_networks(path, G_ema=G, D=Discriminator(**size, c_dim=G.c_dim, img_channels=G.img_channels))
    return path
