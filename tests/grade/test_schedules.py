import pytest
from hypothesis import given
from hypothesis import strategies as st

from acne_lab.grade.schedules import Schedule, warmup_cosine, warmup_step


@given(num_steps=st.integers(1, 200), warmup=st.floats(0, 0.9))
def test_cosine_rises_then_falls(num_steps, warmup):
    num_warmup = round(warmup * num_steps)
    factors = [warmup_cosine(step, num_warmup=num_warmup, num_steps=num_steps) for step in range(num_steps + 1)]
    assert factors[max(num_warmup - 1, 0)] == 1
    assert factors[:num_warmup] == sorted(factors[:num_warmup])
    assert factors[num_warmup:] == sorted(factors[num_warmup:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_steps_fall_at_the_milestones():
    factors = [warmup_step(step, num_warmup=2, milestones=(4, 6), decay=0.5) for step in range(8)]
    assert factors == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_schedule_counts_milestones_in_epochs_and_the_warm_up_in_shares():
    factor = Schedule("step", warmup=0.2, milestones=[2, 3], decay=0.1)(num_steps=10, steps_per_epoch=3)
    assert [factor(step) for step in (0, 1, 5, 6, 8, 9)] == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.01])
    factor = Schedule("constant", warmup=0.2)(num_steps=10, steps_per_epoch=3)
    assert [factor(step) for step in (0, 1, 5, 10)] == [0.5, 1, 1, 1]
    factor = Schedule("cosine", warmup=0.2)(num_steps=10, steps_per_epoch=3)
    assert [factor(step) for step in (0, 1, 2, 6, 10)] == pytest.approx([0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "linear"}, "cosine, step or constant, not linear"),
        ({"warmup": 1.0}, "at least 0 and below 1, not 1.0"),
        ({"milestones": [3]}, "schedule=step, and it alone"),
        ({"name": "constant", "milestones": [3]}, "schedule=step, and it alone"),
        ({"name": "step"}, r"needs the epochs .* model.milestones=\[30,60,90\]"),
        ({"name": "step", "milestones": [3, 2]}, r"rising epochs from 1 on, not \[3, 2\]"),
        ({"name": "step", "milestones": [0, 2]}, "rising epochs from 1 on"),
        ({"name": "step", "milestones": [3], "decay": 0}, "above 0 and at most 1"),
    ],
)
def test_schedules_that_cannot_be_followed(given, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"name": "cosine", "warmup": 0.1, **given})
