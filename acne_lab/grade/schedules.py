"""Learning rate schedules: a factor on the optimizer's own rate at each step."""

import math
from collections.abc import Callable, Sequence


class Schedule:
    """A straight rise of the learning rate, and what comes then.

    Args:
        name: "cosine", half of one, down to 0 at the last step; "step", a fall at each milestone; or "constant".
        warmup: share of all steps in which the rate rises, in [0, 1).
        milestones: rising epochs after which it falls, of "step"; None for the others.
        decay: factor on the rate at each milestone, in (0, 1].

    Raises:
        ValueError: nothing can follow this.
    """

    def __init__(self, name: str, *, warmup: float, milestones: Sequence[int] | None = None, decay: float = 0.5):
        if name not in ("cosine", "step", "constant"):
            raise ValueError(f"model.schedule must be cosine, step or constant, not {name}")
        if not 0 <= warmup < 1:
            raise ValueError(f"model.warmup is a share of the steps, at least 0 and below 1, not {warmup}")
        if (name == "step") != bool(milestones):
            raise ValueError(
                f"model.schedule={name} with model.milestones={milestones}: schedule=step, and it alone, needs the "
                "epochs after which the learning rate falls, e.g. model.milestones=[30,60,90]"
            )
        if milestones and (min(milestones) < 1 or list(milestones) != sorted(set(milestones))):
            raise ValueError(f"model.milestones must be rising epochs from 1 on, not {list(milestones)}")
        if not 0 < decay <= 1:
            raise ValueError(f"model.decay must be above 0 and at most 1, not {decay}")
        self.name = name
        self.warmup = warmup
        self.milestones = milestones or ()
        self.decay = decay

    def __call__(self, *, num_steps: int, steps_per_epoch: int) -> Callable[[int], float]:
        """Step (from 0) -> factor, for a training of so many steps."""
        num_warmup = round(self.warmup * num_steps)
        if self.name == "cosine":
            return lambda step: warmup_cosine(step, num_warmup=num_warmup, num_steps=num_steps)
        milestones = [epoch * steps_per_epoch for epoch in self.milestones]
        return lambda step: warmup_step(step, num_warmup=num_warmup, milestones=milestones, decay=self.decay)


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
