"""Learning rate schedules, as pure functions of the step: a factor on the optimizer's own rate."""

import math
from collections.abc import Sequence

SCHEDULES = ("cosine", "step")


def warmup_cosine(step: int, *, num_warmup: int, num_steps: int) -> float:
    """Factor on the learning rate at step `step` (from 0): a straight rise, then half a cosine down to 0."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    if step >= num_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def warmup_step(step: int, *, num_warmup: int, milestones: Sequence[int], decay: float) -> float:
    """Factor on the learning rate at step `step` (from 0): a straight rise; times `decay` from each milestone on."""
    rise = (step + 1) / num_warmup if step < num_warmup else 1.0
    return rise * decay ** sum(step >= milestone for milestone in milestones)


def check_schedule(name: str, *, warmup: float, milestones: Sequence[int] | None, decay: float) -> None:
    """Raise a ValueError for a schedule that no training can follow (the arguments are `Grader`'s)."""
    if name not in SCHEDULES:
        raise ValueError(f"model.schedule must be {' or '.join(SCHEDULES)}, not {name}")
    if not 0 <= warmup < 1:
        raise ValueError(f"model.warmup is a share of the steps, at least 0 and below 1, not {warmup}")
    if (name == "step") != bool(milestones):
        raise ValueError(
            f"model.schedule={name} with model.milestones={milestones}: schedule=step, and it alone, needs the epochs "
            "after which the learning rate falls, e.g. model.milestones=[30,60,90]"
        )
    if milestones and (min(milestones) < 1 or list(milestones) != sorted(set(milestones))):
        raise ValueError(f"model.milestones must be rising epochs from 1 on, not {list(milestones)}")
    if not 0 < decay <= 1:
        raise ValueError(f"model.decay must be above 0 and at most 1, not {decay}")
