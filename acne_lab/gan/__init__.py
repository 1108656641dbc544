"""StyleGAN2: networks, losses, augmentation and the Lightning module that trains them."""

from acne_lab.gan.augment import Augment
from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.generator import Generator

__all__ = ["Augment", "Discriminator", "Generator"]
