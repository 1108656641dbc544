"""Callbacks by themselves; what they do in a training is tested with the jobs."""

from types import SimpleNamespace

import pytest

from acne_lab.callbacks import DivergenceGuard

GOOD = {"score/real": 1.0, "score/fake": -1.0, "diversity": 0.9}


def after_ticks(guard, *ticks):
    for metrics in ticks:
        guard.on_train_epoch_end(SimpleNamespace(callback_metrics=GOOD | metrics), None)
    return guard


def make_guard():
    return DivergenceGuard(max_score=100, min_diversity=0.5, patience=2)


@pytest.mark.parametrize(
    "bad", [{"score/real": 101.0}, {"score/fake": -1e9}, {"score/real": float("nan")}, {"score/fake": float("nan")}]
)
def test_scores_out_of_bounds_stop(bad):
    with pytest.raises(ValueError, match="images has reached"):
        after_ticks(make_guard(), {}, bad)


def test_images_that_are_all_alike_stop_after_some_ticks():
    collapsed = {"diversity": 0.4}  # less than half of 0.9
    after_ticks(make_guard(), {}, collapsed, {}, collapsed, {})  # never twice in a row
    with pytest.raises(ValueError, match="nearly alike for 2 ticks"):
        after_ticks(make_guard(), {}, collapsed, collapsed)


def test_a_diversity_that_is_no_number_is_poor():
    with pytest.raises(ValueError, match="nearly alike for 2 ticks"):
        after_ticks(make_guard(), {}, *[{"diversity": float("nan")}] * 2)


def test_a_diversity_that_is_not_known_says_nothing():
    """A single image in each pass has none."""
    metrics = {name: value for name, value in GOOD.items() if name != "diversity"}
    guard = make_guard()
    for _ in range(3):
        guard.on_train_epoch_end(SimpleNamespace(callback_metrics=metrics), None)


def test_a_generator_that_has_just_begun_is_not_called_collapsed():
    after_ticks(make_guard(), *({"diversity": 0.01 * n} for n in range(1, 20)))


def test_the_guard_remembers_over_a_resume():
    guard = after_ticks(make_guard(), {}, {"diversity": 0.4})
    resumed = make_guard()
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(ValueError, match="nearly alike"):
        after_ticks(resumed, {"diversity": 0.4})
