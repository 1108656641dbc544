"""Compares the compiled operators with the plain reference: values, first and second gradients, time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch
from torch import Tensor

from acne_lab.ops import extension
from acne_lab.ops.bias_act import bias_act
from acne_lab.ops.convolution import conv2d
from acne_lab.ops.epilogue import epilogue
from acne_lab.ops.upfirdn2d import setup_filter, upfirdn2d

# Of values and of gradients, as shares of the largest number. From a rounded output, the gradient of the epilogue's
# scale loses some more digits.
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-2, 1e-1), torch.float16: (2e-3, 2e-2)}
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.float16)}
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
NUM_TIMES = 7


@dataclass(frozen=True)
class Case:
    """An operator and the shapes of the tensors that it is called with and differentiated by, the image first."""

    name: str
    f: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """What came out for a case.

    Args:
        case: its name.
        dtype: of the tensors; the reference is computed in float64.
        memory_format: a key of `FORMATS`.
        errors: of values, gradients and second gradients: the largest difference, as a share of the largest number.
        native_ms: for the operator and its gradient, the median of several times.
        reference_ms: likewise, in `dtype`.
    """

    case: str
    dtype: torch.dtype
    memory_format: str
    errors: tuple[float, float, float]
    native_ms: float
    reference_ms: float

    @property
    def passed(self) -> bool:
        (value, *gradients), (of_values, of_gradients) = self.errors, TOLERANCES[self.dtype]
        return value <= of_values and all(error <= of_gradients for error in gradients)  # nan is no pass


def cases(device: torch.device) -> list[Case]:
    """What a training step calls, in small."""
    f = setup_filter([1, 3, 3, 1]).to(device)
    image, b, scale, noise = (4, 64, 64, 64), (64,), (4, 64), (4, 1, 64, 64)

    def tail(x: Tensor, scale: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        return epilogue(x, 0.5 + scale.sigmoid(), noise, b, clamp=256.0)

    def blurred_tail(x: Tensor, scale: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        return epilogue(x, 0.5 + scale.sigmoid(), noise, b, f, padding=(2, 1, 2, 1), clamp=256.0)

    found = [
        Case("bias_act lrelu", lambda x, b: bias_act(x, b, act="lrelu", clamp=256.0), (image, b)),
        Case("bias_act swish", lambda x, b: bias_act(x, b, act="swish"), (image, b)),
        Case("upfirdn2d up 2", lambda x: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4), (image,)),
        Case("upfirdn2d down 2", lambda x: upfirdn2d(x, f, down=2, padding=(1, 1, 1, 1)), (image,)),
        Case("upfirdn2d 1:1", lambda x: upfirdn2d(x, f, padding=(2, 1, 2, 1)), (image,)),
        Case("epilogue", tail, (image, scale, noise, b)),
        Case("epilogue blurred", blurred_tail, (image, scale, noise, b)),
    ]
    if device.type == "cpu":  # Winograd's, and products of matrices
        for channels, side in ((64, 64), (512, 4)):
            shapes = (4, channels, side, side), (channels, channels, 3, 3)
            found.append(Case(f"conv2d {channels}", lambda x, weight: conv2d(x, weight.to(x.dtype), padding=1), shapes))
    return found


def compare_all(kind: str) -> Iterator[Comparison]:
    """Compare every case in every dtype and memory format on a kind of device, "cpu" or "cuda".

    Raises:
        RuntimeError: there is no library for it.
    """
    device = torch.device(kind)
    extension.native(device, "native")
    for case, dtype, memory_format in product(cases(device), DTYPES[kind], FORMATS):
        yield compare(case, device, dtype, memory_format)


def compare(case: Case, device: torch.device, dtype: torch.dtype, memory_format: str) -> Comparison:
    """Compare the compiled operator with the reference in float64, and time it against the reference in `dtype`."""
    rng = torch.Generator(device).manual_seed(0)

    def random(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        x = torch.randn(shape, generator=rng, device=device).to(dtype)
        return x.to(memory_format=FORMATS[memory_format]) if x.ndim == 4 else x

    image, *others = case.shapes
    arguments = [random(image, dtype), *map(random, others)]  # in mixed precision, what is learnt is float32
    with torch.no_grad(), extension.use("reference"):
        y = case.f(*arguments)
    weights = [random(y.shape, dtype), random(image, dtype), *map(random, others)]
    with extension.use("native"):
        got = derivatives(case.f, arguments, weights)
    with extension.use("reference"):
        expected = derivatives(case.f, [x.double() for x in arguments], [x.double() for x in weights])
    errors = tuple(map(relative_error, got, expected))
    native_ms, reference_ms = step_times(case.f, arguments, weights[0])
    return Comparison(case.name, dtype, memory_format, errors, native_ms, reference_ms)


def derivatives(f: Callable[..., Tensor], arguments: Sequence[Tensor], weights: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return [f], its gradients, and the gradients of those.

    f is weighted with weights[0] and each of its gradients with one of weights[1:], and summed; second gradients are by
    the arguments and by weights[0].
    """
    leaves = [x.detach().requires_grad_() for x in arguments]
    weight = weights[0].detach().requires_grad_()
    y = f(*leaves)
    first = torch.autograd.grad(y, leaves, weight, create_graph=True)
    scalar = sum((g * w).sum() for g, w in zip(first, weights[1:]))
    wanted = [*leaves, weight]
    second = torch.autograd.grad(scalar, wanted, allow_unused=True, materialize_grads=True)
    return [[y], list(first), list(second)]


def relative_error(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference as a share of the largest number in its tensor or, if that is 0 all over, in any."""
    largest = [x.abs().max().item() for x in expected]
    differences = [(ours.double() - theirs).abs().max().item() for ours, theirs in zip(got, expected)]
    shares = [difference / (size or max(largest) or 1.0) for difference, size in zip(differences, largest)]
    return torch.tensor(shares).max().item()  # unlike Python's, it keeps a nan


def step_times(f: Callable[..., Tensor], arguments: Sequence[Tensor], weight: Tensor) -> tuple[float, float]:
    """Milliseconds of operator and gradient, compiled and reference, measured in turns."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    times = {"native": [], "reference": []}
    for number, impl in product(range(NUM_TIMES + 1), times):
        with extension.use(impl):
            started = now(weight.device)
            torch.autograd.grad(f(*leaves), leaves, weight)
            if number > 0:  # the first warms up
                times[impl].append(now(weight.device) - started)
    return 1e3 * median(times["native"]), 1e3 * median(times["reference"])


def now(device: torch.device) -> float:
    """Seconds, when all that was started has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
