"""A small editor that is called as `acne_lab.edit.editor.Editor` is: red dots, the same for the same seed."""

import os
import signal
import time

import numpy as np

from acne_lab.edit.editor import Edit, Skipped


class DotEditor:
    """Adds lesions of 3 x 3 px.

    Args:
        skips: photographs whose seed is a multiple of this are refused.
        off_by: lesions too many.
        uncounted: the edit does not say how many lesions it has added, as a severity swap does not.
        seconds: that an edit takes.

    At the call of number DOTS_DIE_AT (from 0, of the environment) it kills the process, or its parent: DOTS_KILL.
    """

    def __init__(self, *, skips=0, off_by=0, uncounted=False, seconds=0.0):
        self.skips, self.off_by, self.uncounted, self.seconds = skips, off_by, uncounted, seconds
        self.num_calls = 0

    def __call__(self, photo, *, boxes, num_added, severity, seed):
        if os.environ.get("DOTS_DIE_AT") == str(self.num_calls):
            os.kill(os.getppid() if os.environ["DOTS_KILL"] == "parent" else os.getpid(), signal.SIGKILL)
        self.num_calls += 1
        time.sleep(self.seconds)
        if self.skips and seed % self.skips == 0:
            raise Skipped("no skin found")
        height, width = photo.shape[:2]
        rng = np.random.default_rng(seed)
        corners = rng.integers(0, (width - 3, height - 3), (num_added + self.off_by, 2))
        mask = np.zeros((height, width), bool)
        for x, y in corners:
            mask[y : y + 3, x : x + 3] = True
        image = photo.copy()
        image[mask] = (200, 40, 40)
        return Edit(
            image=image,
            mask=mask,
            boxes=np.concatenate([corners, corners + 3], axis=1).astype(np.float32),
            overlaid=image,
            lesions_before=-1 if boxes is None else len(boxes),
            lesions_added=None if self.uncounted else len(corners),
            parameters={"severity": severity, "process": "one"},
        )
