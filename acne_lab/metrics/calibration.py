"""From a grader's probabilities to a grade: how sure it may be (temperature), and when it says a class (weights).

Both are fitted on validation images; the test set has no part in them. This module does not know which images those
are: who calls it does.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

TEMPERATURES = (0.05, 20.0)  # beyond them a grader answers 0 and 1, or the same for everyone
TINIEST = 1e-12  # of a probability: one image graded with certainty and wrongly must not decide alone
USUAL = 0.5  # standard deviation of log T from one grader to another: within a factor of 2.7 of 1
RIDGE = 0.05  # on log weights, against a mean loss over classes


@dataclass(frozen=True)
class Decision:
    """What is made of probabilities p [N, C]: calibrated ones, p_c^(1/T), and of these the class of largest w_c p_c.

    Args:
        temperature: T > 0; 1 leaves probabilities as they are, above 1 they become less sure (Guo et al., ICML 2017,
            eq. 9: softmax of logits / T is p^(1/T), normalised).
        weights: w_c > 0, one a class; None: equal ones, the most probable class.

    Raises:
        ValueError: a temperature or a weight is not a positive number.
    """

    temperature: float = 1.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        numbers = (self.temperature, *(self.weights or ()))
        if not all(np.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"a temperature and class weights must be positive numbers, but are {numbers}")

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """[N, C] in [0, 1] -> float64 [N, C], each row with a sum of 1."""
        p = np.asarray(probabilities, dtype=np.float64)
        p = (p / p.max(axis=1, keepdims=True)) ** (1 / self.temperature)  # the largest stays 1: nothing underflows
        return p / p.sum(axis=1, keepdims=True)

    def predicted(self, probabilities: np.ndarray) -> np.ndarray:
        """[N, C], uncalibrated -> int64 [N], indices of classes. Of equals, the mildest."""
        if self.weights is None:  # a temperature does not change the order
            return np.asarray(probabilities).argmax(axis=1)
        return (self.calibrated(probabilities) * np.array(self.weights)).argmax(axis=1)


def fit_decision(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    temperature: bool = True,
    weights: bool = False,
) -> Decision:
    """A decision fitted on validation images: first the temperature, then weights of the calibrated probabilities.

    Weights are off: they give a grader that has learned from unbalanced classes what balancing gives it in training,
    and nothing to one that has been balanced, as graders are by default. Points of balanced accuracy on new images that
    weights from about 146 validation images bring: simulated graders of classes as frequent as in ACNE04, +2.5 and +3.7
    without balancing, -0.1 and +0.2 with it; graders of toy faces at 128 px, +3.2 real only, +3.7 focal loss, +0.7
    class-weighted, -0.7 oversampled (standard deviation from one split to another, 4). Where arms are compared that
    differ in how they balance, weights would also hide what is asked about.

    Args:
        probabilities: [N, C], uncalibrated.
        labels: int [N], indices of classes.
        temperature: fit one, else 1.
        weights: fit them, else none.
    """
    t = fit_temperature(probabilities, labels) if temperature else 1.0
    if not weights:
        return Decision(t)
    return Decision(t, fit_weights(Decision(t).calibrated(probabilities), labels))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least negative log likelihood (Guo et al., ICML 2017, section 4.2), in TEMPERATURES.

    Of few images the likelihood alone runs to a bound (five images graded rightly would make a grader certain of
    everything), so log T has a normal prior around 0. It is worth about as much as a handful of images: of fewer than
    ten, T stays near 1; of fifty, it is not felt. Simulated graders that are 1.5 times too sure: with five images the
    loss on new ones is that of no temperature (it doubles or worse by the likelihood alone), from ten on it is lower.

    Args:
        probabilities: [N, C] in [0, 1].
        labels: int [N], indices of classes.

    Raises:
        ValueError: there is no image, or a label is no class.
    """
    logits, labels = _logits(probabilities, labels)
    rows = np.arange(len(labels))

    def cost(log_t: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_t), axis=1)[rows, labels]
        return (log_t / USUAL) ** 2 / 2 - likelihood.sum()

    grid = np.linspace(*np.log(TEMPERATURES), 60)  # the prior may leave two dips: refine the deeper one
    best = int(np.argmin([cost(log_t) for log_t in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return float(np.exp(minimize_scalar(cost, bounds=around, method="bounded").x))


def fit_weights(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Weights w_c for which argmax w_c p_c has a high balanced accuracy, with a geometric mean of 1.

    Balanced accuracy itself jumps with single images, and its maximum on 146 of them is worse on new ones than no
    weights (-1.7 points for a balanced grader). So the mean over classes of the log loss of w_c p_c, normalised, is
    minimised in its place, which is smooth and convex, with a ridge on log w_c. A class without an image gets 1.

    Args:
        probabilities: [N, C] in [0, 1], calibrated.
        labels: int [N], indices of classes.

    Raises:
        ValueError: there is no image, or a label is no class.
    """
    logits, labels = _logits(probabilities, labels)
    number = np.bincount(labels, minlength=logits.shape[1])
    present = np.flatnonzero(number)
    logits, labels = logits[:, present], np.searchsorted(present, labels)
    share = 1 / (number[present][labels] * len(present))  # of each image in the mean over classes
    truth = np.eye(len(present))[labels]

    def cost(log_w: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(logits + log_w, axis=1)
        value = RIDGE / 2 * log_w @ log_w - share @ (log_p * truth).sum(axis=1)
        return value, RIDGE * log_w + share @ (np.exp(log_p) - truth)

    found = minimize(cost, np.zeros(len(present)), jac=True, method="L-BFGS-B").x
    log_w = np.zeros(len(number))
    log_w[present] = found - found.mean()
    return tuple(np.exp(log_w).tolist())


def reliability(
    probabilities: np.ndarray, right: np.ndarray, *, num_bins: int = 10, least: int = 5
) -> list[tuple[float, float, float]]:
    """How often graders are right against how sure they are (the diagram of Guo et al., ICML 2017, figure 1).

    Args:
        probabilities: [N, C], calibrated or not; the confidence is the largest of a row.
        right: bool [N], whether the grade is right.
        num_bins: of equal width.
        least: bins of fewer images are left out, their shares say nothing.

    Returns:
        (mean confidence, share of right grades, share of the images), each in [0, 1], of every bin from 0 to 1.
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    where = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    bins = [where == index for index in range(num_bins)]
    return [
        (float(confidence[inside].mean()), float(right[inside].mean()), float(inside.mean()))
        for inside in bins
        if inside.sum() >= least
    ]


def _logits(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if len(labels) == 0 or len(probabilities) != len(labels):
        raise ValueError(
            f"{len(probabilities)} probabilities and {len(labels)} labels: give one of each for each image"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels must lie in 0..{probabilities.shape[1] - 1}: images without a severity are no measure"
        )
    return np.log(np.maximum(probabilities, TINIEST)), labels
