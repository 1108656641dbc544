"""A face finder and an embedder at once, picklable, that need no model."""

from types import MappingProxyType

import numpy as np

from acne_lab.data.faces import Face


class FindsFaces:
    """The face is all of the photograph, the person its mean colour.

    Args:
        identity: whatever the photograph; None: its mean colour.
        fails: whether embedding raises an error.
    """

    blazeface_files = MappingProxyType({})
    detectors = ("stub",)
    model = "dlib"

    def __init__(self, identity=None, fails=False):
        self.identity, self.fails = identity, fails

    def __call__(self, photo, face=None):
        if face is None:
            height, width = photo.shape[:2]
            return Face((0, 0, width, height), np.random.default_rng(0).uniform(0, 200, (68, 2)), 1.0, "stub")
        if self.fails:
            raise ValueError("the network's input has another name")
        mean = photo.mean(axis=(0, 1))
        return (mean / np.linalg.norm(mean)).astype(np.float32) if self.identity is None else np.array(self.identity)
