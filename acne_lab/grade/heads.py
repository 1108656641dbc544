"""Heads: what turns a backbone's features into outputs, learns from them, and reads grades off them.

Each head is built as `head(num_features=F, num_classes=C)` and has

    uses_counts                                            whether it learns from lesion counts
    forward(features [B, F]) -> outputs [B, K]
    loss(outputs, labels, counts, *, class_weights)        a scalar, see `losses`; counts [B] are NaN where unknown
    graded(outputs) -> Graded                              what it says of each image

`forward` begins with the head's one layer, `linear`. Outputs are raw; probabilities exist in `graded` alone. The answer
of every head is the likeliest grade, so that thresholds and temperatures can be set for all of them alike.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acne_lab.grade import losses
from acne_lab.grade.counts import (
    NUM_BINS,
    band_log_probabilities,
    band_probabilities,
    between,
    require_hayashi,
)


class Graded(NamedTuple):
    """What a head says of B images.

    Attributes:
        probabilities: [B, C] float32 in [0, 1], rows sum to 1.
        counts: [B] float32 lesions, >= 0; None: it says nothing of them.
    """

    probabilities: Tensor
    counts: Tensor | None


class SoftmaxHead(nn.Module):
    """One linear layer, a softmax and cross-entropy: it does not know that grades have an order.

    Args:
        num_features: F.
        num_classes: C.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
    """

    uses_counts = False

    def __init__(self, *, num_features: int, num_classes: int, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
        self.linear = nn.Linear(num_features, num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        return losses.cross_entropy(outputs, labels, class_weights=class_weights, label_smoothing=smoothing)

    def graded(self, outputs: Tensor) -> Graded:
        return Graded(outputs.float().softmax(dim=1), None)


class FocalHead(nn.Module):
    """One linear layer, a softmax and the focal loss: badly graded images count more (Lin et al., ICCV 2017).

    Args:
        num_features: F.
        num_classes: C.
        gamma: how much less a well graded image counts, >= 0; 0 is cross-entropy.
    """

    uses_counts = False

    def __init__(self, *, num_features: int, num_classes: int, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma of the focal loss must be at least 0, not {gamma}")
        self.linear = nn.Linear(num_features, num_classes)
        self.gamma = gamma

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        return losses.focal_loss(outputs, labels, class_weights=class_weights, gamma=self.gamma)

    def graded(self, outputs: Tensor) -> Graded:
        return Graded(outputs.float().softmax(dim=1), None)


class CoralHead(nn.Module):
    """One scale of severity with C - 1 thresholds on it (Cao, Mirjalili and Raschka 2020): l_k = w x + b_k.

    The thresholds are free. At the minimum of the loss b_k falls in k (the paper's theorem 1); before, b_k that is out
    of order is taken for the least of those before it, so that probabilities are never negative.

    Args:
        num_features: F.
        num_classes: C >= 2, in order, mild first.
    """

    uses_counts = False

    def __init__(self, *, num_features: int, num_classes: int):
        super().__init__()
        _require_order(num_classes, "coral")
        self.linear = nn.Linear(num_features, 1, bias=False)
        worse = 1 - torch.arange(1, num_classes) / num_classes  # at a score of 0 all grades are equally likely
        self.bias = nn.Parameter(worse.logit())

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) + self.bias

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        return losses.coral_loss(outputs, labels, class_weights=class_weights)

    def graded(self, outputs: Tensor) -> Graded:
        return Graded(between(_along(torch.minimum, outputs.float().sigmoid())), None)


class CornHead(nn.Module):
    """A chain of questions: is it worse than k, given that it is worse than k - 1? (Shi, Cao and Raschka 2021.)

    P(grade > k) is the product of the answers up to k, hence falls in k whatever the outputs are.

    Args:
        num_features: F.
        num_classes: C >= 2, in order, mild first.
    """

    uses_counts = False

    def __init__(self, *, num_features: int, num_classes: int):
        super().__init__()
        _require_order(num_classes, "corn")
        self.linear = nn.Linear(num_features, num_classes - 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        return losses.corn_loss(outputs, labels, class_weights=class_weights)

    def graded(self, outputs: Tensor) -> Graded:
        return Graded(between(_along(torch.mul, outputs.float().sigmoid())), None)


class LdlHead(nn.Module):
    """A softmax over Hayashi's grades and one over the counts 1..65, taught by label distributions (Wu et al. 2019).

    The grade's probabilities are the mean of those of the first and of those that the second gives each band; the
    count is the likeliest one. (Near 1 and 65 the mean of a count's distribution lies above and below it.)

    Args:
        num_features: F.
        num_classes: must be 4.
        sigma: of the distribution that a count stands for, in lesions, > 0.
        grade_share: the paper's lambda in [0, 1]: what grading weighs; counting weighs the rest.
    """

    uses_counts = True

    def __init__(self, *, num_features: int, num_classes: int, sigma: float = 3.0, grade_share: float = 0.6):
        super().__init__()
        require_hayashi(num_classes, "ldl")
        if sigma <= 0 or not 0 <= grade_share <= 1:
            raise ValueError(f"sigma must be above 0 and grade_share in 0..1, not {sigma} and {grade_share}")
        self.linear = nn.Linear(num_features, num_classes + NUM_BINS)
        self.num_classes = num_classes
        self.sigma = sigma
        self.grade_share = grade_share

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        return losses.ldl_loss(
            *outputs.split([self.num_classes, NUM_BINS], dim=1),
            labels,
            counts,
            class_weights=class_weights,
            sigma=self.sigma,
            grade_share=self.grade_share,
        )

    def graded(self, outputs: Tensor) -> Graded:
        grades, counts = outputs.float().split([self.num_classes, NUM_BINS], dim=1)
        from_counts = band_log_probabilities(counts.log_softmax(dim=1)).exp()
        return Graded((grades.softmax(dim=1) + from_counts) / 2, counts.argmax(dim=1) + 1.0)


class CountHead(nn.Module):
    """Regression of the square root of the lesion count; the grade is read off it by Hayashi's bands.

    How sure the grade is follows from how far training images lie from their estimates: the true root is taken for
    normal around the estimated one, with the deviation of the latest residuals. The count is the square of the root,
    the median of what this normal says of counts.

    Args:
        num_features: F.
        num_classes: must be 4.
    """

    uses_counts = True
    CENTRE, SCALE = 4.0, 2.0  # of the outputs: roots of counts lie in 0..8
    MEMORY = 100  # batches, of the residuals' mean square
    LEAST_SPREAD = 0.1  # half a lesion more or less at 5: counts are whole numbers

    def __init__(self, *, num_features: int, num_classes: int):
        super().__init__()
        require_hayashi(num_classes, "count")
        self.linear = nn.Linear(num_features, 1)
        self.register_buffer("mean_square", torch.tensor(1.0))  # of the roots' residuals
        self.register_buffer("num_batches", torch.tensor(0.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.CENTRE + self.SCALE * self.linear(features)

    def loss(self, outputs: Tensor, labels: Tensor, counts: Tensor, *, class_weights: Tensor) -> Tensor:
        roots = outputs.squeeze(1)
        if self.training:
            self._remember(roots.detach(), counts)
        return losses.root_count_loss(roots, labels, counts, class_weights=class_weights)

    def graded(self, outputs: Tensor) -> Graded:
        roots = outputs.float().squeeze(1)
        spread = self.mean_square.sqrt().clamp(min=self.LEAST_SPREAD)
        return Graded(band_probabilities(roots, spread=spread), roots.clamp(min=0) ** 2)

    def _remember(self, roots: Tensor, counts: Tensor) -> None:
        """Let this batch's residuals into their mean square: a plain mean of the first batches, then a running one."""
        known = counts.isfinite()
        num_known = known.sum()
        squares = torch.where(known, (roots - counts.nan_to_num(0).sqrt()) ** 2, 0.0).sum() / num_known.clamp(min=1)
        self.num_batches += num_known > 0
        share = (num_known > 0) / self.num_batches.clamp(1, self.MEMORY)
        self.mean_square += share * (squares - self.mean_square)


HEADS = {head.__name__: head for head in (SoftmaxHead, FocalHead, CoralHead, CornHead, LdlHead, CountHead)}


def plain(head: partial) -> dict:
    """A head's name and arguments, for a checkpoint: `built` makes the head of it."""
    return {"name": head.func.__name__, **head.keywords}


def built(description: dict) -> partial:
    """The head that `plain` has described.

    Raises:
        ValueError: it is none of this module's, whose code alone is run for what a file says.
    """
    arguments = dict(description)
    if (name := arguments.pop("name")) not in HEADS:
        raise ValueError(f"the checkpoint has a head {name}, which is none of {', '.join(HEADS)}: load it in Python")
    return partial(HEADS[name], **arguments)


def _along(function: Callable[[Tensor, Tensor], Tensor], columns: Tensor) -> Tensor:
    """function(... function(column 0, column 1) ..., column k), all k. (ONNX has no cumprod and no cummin.)"""
    return torch.stack(list(accumulate(columns.unbind(dim=1), function)), dim=1)


def _require_order(num_classes: int, head: str) -> None:
    if num_classes < 2:
        raise ValueError(f"head={head} puts grades in order, and the data has {num_classes}: give it two or more")
