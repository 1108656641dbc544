"""What several runs of one thing say together: means with intervals, and differences between two things.

The runs differ by their seed alone, so an interval speaks of the luck of training. It knows nothing of the luck of
which images were collected: all runs are tested on the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it may be off: the true one is in mean +- half_width; None: one value alone cannot say."""

    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.mean) > self.half_width


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Mean of independent, roughly normal values [N >= 1] with Student's interval, t_{N-1} s / sqrt(N) on each side.

    Of two arms' values, seed by seed, the differences make the paired interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 1:
        return Estimate(float(values[0]), None)
    t = stats.t.ppf((1 + confidence) / 2, df=len(values) - 1)
    return Estimate(float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values))))
