import numpy as np
import pytest
from graded import drawn
from scipy.optimize import minimize_scalar
from sklearn.metrics import balanced_accuracy_score, log_loss

from acne_lab.metrics.calibration import TEMPERATURES, Decision, fit_decision, fit_temperature, fit_weights, reliability


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def ideal(seed, num, *, prior=(0.35, 0.43, 0.13, 0.09), sharp=1.0):
    """What an ideal observer, trained where classes are as frequent as `prior`, says of images of ACNE04's classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, num, p=(0.35, 0.43, 0.13, 0.09))
    logits = -((np.arange(4) - (labels + 0.8 * rng.normal(size=num))[:, None]) ** 2) / (2 * 0.8**2)
    return softmax(sharp * (logits + np.log(prior))), labels


# ---- Decision ---------------------------------------------------------------------------------------------------


def test_temperature_by_hand():
    p = np.array([[0.8, 0.2], [0.5, 0.5]])
    np.testing.assert_allclose(Decision().calibrated(p), p)
    np.testing.assert_allclose(Decision(0.5).calibrated(p), [[64 / 68, 4 / 68], [0.5, 0.5]])  # squares
    np.testing.assert_allclose(Decision(2.0).calibrated(p), [[2 / 3, 1 / 3], [0.5, 0.5]])  # square roots
    logits = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(Decision(1.7).calibrated(softmax(logits)), softmax(logits / 1.7))


def test_certain_and_tiny_probabilities_stay_probabilities():
    p = np.array([[1.0, 0, 0, 0], [1e-300, 1 - 1e-300, 0, 0], [0.25] * 4])
    for temperature in TEMPERATURES:
        found = Decision(temperature).calibrated(p)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)


def test_weights_by_hand():
    p = np.array([[0.6, 0.4], [0.8, 0.2], [0.5, 0.5]])
    assert Decision().predicted(p).tolist() == [0, 0, 0]  # of equals the milder
    assert Decision(1.0, (1, 2)).predicted(p).tolist() == [1, 0, 1]
    assert Decision(0.5, (1, 2)).predicted(p).tolist() == [0, 0, 1]  # .36 and 2 x .16: weights act on calibrated ones


@pytest.mark.parametrize("strange", [{"temperature": 0}, {"temperature": np.nan}, {"weights": (1, -1)}])
def test_what_is_no_decision(strange):
    with pytest.raises(ValueError, match="must be positive numbers"):
        Decision(**strange)


# ---- temperature ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharp", [0.4, 1, 2.5])
def test_it_finds_how_much_too_sure_a_grader_is(sharp):
    p, labels = ideal(0, 4000, sharp=sharp)
    assert fit_temperature(p, labels) == pytest.approx(sharp, rel=0.05)


def test_of_many_images_it_is_the_most_likely_one():
    p, labels = ideal(1, 2000, sharp=1.6)
    found = minimize_scalar(
        lambda t: log_loss(labels, Decision(t).calibrated(p), labels=range(4)), bounds=(0.1, 10), method="bounded"
    )
    assert fit_temperature(p, labels) == pytest.approx(found.x, rel=0.01)


def test_of_few_images_it_stays_near_one():
    p = np.array([[0.7, 0.1, 0.1, 0.1]])
    assert 0.5 < fit_temperature(p, np.array([0])) < 1 < fit_temperature(p, np.array([1])) < 2
    perfect = np.full((146, 4), 0.1) + 0.6 * np.eye(4)[np.arange(146) % 4]
    found = fit_temperature(perfect, np.arange(146) % 4)  # all right: surer, but not without bound
    assert TEMPERATURES[0] < found < 0.5
    assert fit_temperature(perfect, np.arange(1, 147) % 4) <= TEMPERATURES[1]  # all wrong: as unsure as there is


def test_of_few_images_it_does_no_harm():
    new, truth = ideal(99, 4000, sharp=1.5)

    def loss(temperature):
        return log_loss(truth, Decision(temperature).calibrated(new), labels=range(4))

    def mean_loss(num):
        return np.mean([loss(fit_temperature(*ideal(seed, num, sharp=1.5))) for seed in range(40)])

    assert mean_loss(5) < loss(1) + 0.02  # by the likelihood alone it is some five times that of none
    assert mean_loss(20) < loss(1) - 0.005
    assert mean_loss(146) < loss(1.5) + 0.01  # the best there is


def test_certain_and_wrong_once_does_not_decide_alone():
    p, labels = ideal(0, 200)
    p[0], labels[0] = [1, 0, 0, 0], 3
    assert 1 < fit_temperature(p, labels) < 2


@pytest.mark.parametrize("fit", [fit_temperature, fit_weights])
def test_one_class_and_impossible_labels(fit):
    p, _ = ideal(0, 20)
    assert np.all(np.isfinite(fit(p, np.ones(20, dtype=int))))
    for labels in (np.zeros(0, dtype=int), np.zeros(19, dtype=int)):
        with pytest.raises(ValueError, match="one of each"):
            fit(p, labels)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="without a severity"):
            fit(p, np.full(20, wrong))


# ---- weights ----------------------------------------------------------------------------------------------------


def test_they_make_up_for_rare_classes():
    p, labels = ideal(0, 146)
    new, truth = ideal(1, 20_000)
    weights = fit_weights(p, labels)
    assert np.prod(weights) == pytest.approx(1)
    assert weights[3] > weights[0] and weights[2] > weights[1]
    before = balanced_accuracy_score(truth, new.argmax(axis=1))
    after = balanced_accuracy_score(truth, Decision(1.0, weights).predicted(new))
    assert after > before + 0.02


def test_they_leave_a_balanced_grader_alone():
    new, truth = ideal(1, 20_000, prior=(0.25,) * 4)
    before = balanced_accuracy_score(truth, new.argmax(axis=1))
    gains = []
    for seed in range(10):
        weights = fit_weights(*ideal(seed + 10, 146, prior=(0.25,) * 4))
        gains.append(balanced_accuracy_score(truth, Decision(1.0, weights).predicted(new)) - before)
    assert abs(np.mean(gains)) < 0.005 and min(gains) > -0.02


def test_of_two_classes_by_hand():
    """The shift b of the logit with the least mean of the two classes' log losses and ridge 0.05 / 2 (b^2 / 2)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 100])
    logit = 2 * labels - 2.2 + rng.normal(size=500)
    weights = fit_weights(softmax(np.stack([-logit / 2, logit / 2], axis=1)), labels)
    mild, severe = logit[:400], logit[400:]
    by_hand = minimize_scalar(
        lambda b: (np.log1p(np.exp(mild + b)).mean() + np.log1p(np.exp(-severe - b)).mean()) / 2 + 0.05 * b**2 / 4
    )
    assert np.log(weights[1] / weights[0]) == pytest.approx(by_hand.x, abs=1e-3)


def test_a_class_that_no_image_has_is_left_alone():
    p, labels = ideal(0, 100)
    weights = fit_weights(p[labels < 3], labels[labels < 3])
    assert weights[3] == 1 and np.prod(weights) == pytest.approx(1)
    assert fit_weights(p[labels == 0], labels[labels == 0]) == (1, 1, 1, 1)


# ---- both -------------------------------------------------------------------------------------------------------


def test_a_decision_is_a_temperature_unless_more_is_asked_for():
    p, labels = ideal(0, 146, sharp=1.5)
    t = fit_temperature(p, labels)
    assert fit_decision(p, labels) == Decision(t)
    assert fit_decision(p, labels, temperature=False) == Decision()
    both = fit_decision(p, labels, weights=True)
    assert both == Decision(t, fit_weights(Decision(t).calibrated(p), labels))
    np.testing.assert_array_equal(Decision(t).predicted(p), p.argmax(axis=1))


def test_it_takes_what_predictions_hold():
    val = drawn(3, noise=0.8)
    assert 0.3 < fit_decision(val.uncalibrated, val.labels).temperature < 3


def test_reliability_by_hand():
    p = np.array([[0.55, 0.45]] * 6 + [[0.05, 0.95]] * 4 + [[1.0, 0.0]] * 4 + [[0.7, 0.3]])
    right = np.array([True] * 3 + [False] * 3 + [True] * 8 + [True])
    first, last = reliability(p, right)  # the bin with .7 has one image
    assert first == pytest.approx((0.55, 0.5, 6 / 15))
    assert last == pytest.approx((0.975, 1, 8 / 15))
