"""What the tests of the operators share: tensors in every memory format, and how exact a type is."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

# Largest error of one operator, relative to its largest number: a rounding of the result, or a few in the sums.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}

DTYPES = st.sampled_from(list(TOLERANCE))
LAYOUTS = st.sampled_from(["NCHW", "NHWC", "crop of NCHW", "crop of NHWC", "some channels", "transposed", "expanded"])


def images(shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, seed: int = 0) -> Tensor:
    """Random [N, C, H, W] in a layout; only the first two are dense in a memory format of torch's."""
    n, c, h, w = shape
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    match layout:
        case "NCHW":
            return random(n, c, h, w)
        case "NHWC":
            return random(n, c, h, w).contiguous(memory_format=torch.channels_last)
        case "crop of NCHW":
            return random(n, c + 1, h + 2, w + 3)[:, 1:, 1:-1, 2:-1]
        case "crop of NHWC":
            return random(n, c, h + 2, w + 3).contiguous(memory_format=torch.channels_last)[:, :, 1:-1, 2:-1]
        case "some channels":
            return random(n, c + 1, h, w).contiguous(memory_format=torch.channels_last)[:, :-1]
        case "transposed":
            return random(n, c, w, h).transpose(2, 3)
        case "expanded":
            return random(1, c, 1, w).expand(n, c, h, w)
    raise AssertionError(layout)


def assert_near(got: Tensor, expected: Tensor, dtype: torch.dtype, *, roundings: float = 1) -> None:
    """`got`, computed in `dtype`, is the exact `expected` but for so many roundings of its largest number, or of 1."""
    assert got.shape == expected.shape
    largest = expected.abs().max().item() if expected.numel() else 0.0
    atol = roundings * TOLERANCE[dtype] * max(largest, 1.0)
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol)


def copied_images(run: Callable[[], object], x: Tensor) -> list[str]:
    """The copies of images as large as `x` that `run` makes."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        run()
    events = [event for event in profiled.events() if event.name == "aten::copy_"]
    return [event.name for event in events if event.input_shapes[0] == list(x.shape)]
