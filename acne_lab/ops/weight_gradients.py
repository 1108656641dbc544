"""Whether gradients of weights are computed: not in an inner derivative by images or latents, where nobody wants them.

R1 and path length differentiate such a gradient again. What is left out in the inner derivative is work; the outer one,
taken outside, has all. (Autograd tells its own operators which gradients are wanted, but not functions in Python.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

_needed = True  # not a context variable: a GPU's derivatives are computed in threads of their own


def weight_gradients_needed() -> bool:
    """What a function's backward pass asks before it computes the gradient of a weight, bias or noise."""
    return _needed


@contextmanager
def without_weight_gradients() -> Iterator[None]:
    """Inside, `torch.autograd.grad` with respect to images or latents does not compute gradients of weights."""
    global _needed
    before, _needed = _needed, False
    try:
        yield
    finally:
        _needed = before
