"""Lesion counts and the grades that Hayashi's bands make of them.

Two ways to be unsure of a count: a distribution over the counts 1 to 65 (`count_distribution`), and a normal on the
scale of square roots (`band_probabilities`), where counts have about one spread, whether they are small or large
(Anscombe 1948). Both give probabilities of the grades, by what lies in each band.
"""

import math

import torch
from torch import Tensor

from acne_lab.data.acne04 import HAYASHI_BANDS

NUM_BINS = 65  # counts 1 to 65: all that ACNE04 has (Wu et al., ICCV 2019)
MOST_OTHERS = 0.25  # share of images whose grade may differ from that of their count: labels have errors
WITHOUT_COUNTS = "head=softmax, focal, coral or corn"
_LARGEST = (*HAYASHI_BANDS[:-1], NUM_BINS)
BINS_PER_GRADE = [high - low for low, high in zip((0, *_LARGEST), _LARGEST)]
_ROOT_LOW = [math.sqrt(0 if largest is None else largest + 1) for largest in (None, *HAYASHI_BANDS[:-1])]
_ROOT_HIGH = [math.inf if largest is None else math.sqrt(largest) for largest in HAYASHI_BANDS]
_ROOT_EDGES = [math.sqrt(largest + 0.5) for largest in HAYASHI_BANDS[:-1]]  # halfway between two bands


def require_hayashi(num_classes: int, head: str) -> None:
    """Raise a ValueError unless there are as many classes as Hayashi has grades."""
    if num_classes != len(HAYASHI_BANDS):
        raise ValueError(
            f"head={head} reads grades off lesion counts by Hayashi's {len(HAYASHI_BANDS)} bands, the data has "
            f"{num_classes} classes: choose {WITHOUT_COUNTS}"
        )


def require_counts(labels: Tensor, counts: Tensor) -> None:
    """Raise a ValueError unless some training images are counted and their grades are those of Hayashi's bands.

    Args:
        labels: [N] int64 in 0..3.
        counts: [N] lesions, NaN where unknown.
    """
    known = counts.isfinite()
    if not known.any():
        raise ValueError(
            "this head learns from lesion counts, and no training image has one: fill the column lesions of the "
            f"table, or choose {WITHOUT_COUNTS}"
        )
    bands = torch.bucketize(counts[known], torch.tensor(HAYASHI_BANDS[:-1], dtype=counts.dtype))
    if (others := (bands != labels[known]).float().mean()) > MOST_OTHERS:
        raise ValueError(
            f"this head reads grades off lesion counts by Hayashi's bands (up to 5, 20, 50, more), and {others:.0%} of "
            f"the counted training images have another grade than that: choose {WITHOUT_COUNTS}"
        )


def count_distribution(counts: Tensor, *, sigma: float) -> Tensor:
    """What a count of z lesions says of its neighbours: d_j = exp(-(j - z)^2 / (2 sigma^2)) / M (Wu et al. 2019).

    Args:
        counts: z, [B]; those outside 1..65 count as the nearest of these.
        sigma: in lesions, > 0.

    Returns:
        d, [B, 65]; column j - 1 is a count of j. Rows sum to 1; the peak is at z.
    """
    bins = torch.arange(1, NUM_BINS + 1, device=counts.device, dtype=counts.dtype)
    distances = bins - counts.clamp(1, NUM_BINS)[:, None]
    return (-(distances**2) / (2 * sigma**2)).softmax(dim=1)


def band_log_probabilities(log_counts: Tensor) -> Tensor:
    """Log-probabilities of the counts 1..65 [B, 65] -> of the four grades [B, 4]: the sum over each band."""
    return torch.stack([band.logsumexp(dim=1) for band in log_counts.split(BINS_PER_GRADE, dim=1)], dim=1)


def count_intervals(labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of each image's count, as square roots: lowest [B] and highest [B].

    A known count is both. Of an unknown one (NaN) the grade tells the band; the band of the worst grade has no end.
    """
    low, high = (
        torch.tensor(ends, device=counts.device, dtype=counts.dtype)[labels] for ends in (_ROOT_LOW, _ROOT_HIGH)
    )
    known, roots = counts.isfinite(), counts.nan_to_num(0).sqrt()
    return torch.where(known, roots, low), torch.where(known, roots, high)


def band_probabilities(roots: Tensor, *, spread: Tensor) -> Tensor:
    """Probability [B, 4] that a normal around `roots` [B] with deviation `spread` lies in each band of square roots."""
    edges = torch.tensor(_ROOT_EDGES, device=roots.device, dtype=roots.dtype)
    above = 0.5 * torch.erfc((edges - roots[:, None]) / (spread * math.sqrt(2)))
    return between(above)


def between(above: Tensor) -> Tensor:
    """P(grade > k) for k = 0..C-2, falling in k, [B, C-1] -> P(grade = c) [B, C]."""
    ends = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])  # len(above) would be fixed in an export
    above = torch.cat([ends[0], above, ends[1]], dim=1)
    return above[:, :-1] - above[:, 1:]
