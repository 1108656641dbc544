"""The operators on a CUDA device against the plain reference in double precision on the same device.

Only here do the kernels meet a real GPU; what can be known without one is in test_cuda_kernels.py.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from acne_lab.ops.bias_act import ACTIVATIONS, bias_act
from acne_lab.ops.epilogue import epilogue
from acne_lab.ops.upfirdn2d import setup_filter, upfirdn2d

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of the largest
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
RATES = {
    "1:1": {"padding": (2, 1, 2, 1)},
    "up 2": {"up": 2, "padding": (2, 1, 2, 1), "gain": 4},
    "down 2": {"down": 2, "padding": (1, 1, 1, 1)},
    "odd": {"up": 2, "padding": (1, 4, -2, 3), "flip_filter": True},
    "each axis its own": {"up": (3, 1), "down": (1, 2), "padding": (5, 0, 2, 4)},
}
SIZES = ((2, 3, 5, 6), (3, 40, 16, 24), (2, 64, 4, 4), (4, 32, 130, 128))
LIMIT = 2.5

every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
every_format = pytest.mark.parametrize("memory_format", FORMATS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def random(*shape: int, dtype: torch.dtype, memory_format: str = "nchw") -> Tensor:
    x = torch.randn(shape, device="cuda").to(dtype)
    return x.to(memory_format=FORMATS[memory_format]) if x.ndim == 4 else x


def parameter(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of float32 for 16-bit images."""
    return torch.randn(shape, device="cuda", dtype=torch.float64 if dtype == torch.float64 else torch.float32)


def derivatives(f: Callable[..., Tensor], inputs: Sequence[Tensor | None], weight: Tensor) -> list[list[Tensor]]:
    """[f], its gradients, gradients of a function of those by all inputs and by `weight`, and once more f's own."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    weight = weight.detach().requires_grad_()
    wanted = [x for x in leaves if x is not None]
    y = f(*leaves)
    first = torch.autograd.grad(y, wanted, weight, create_graph=True)
    scalar = sum(g.double().square().mean() for g in first)
    second = torch.autograd.grad(scalar, [*wanted, weight], allow_unused=True, materialize_grads=True)
    plain = torch.autograd.grad(f(*leaves), wanted, weight)  # takes fused kernels where `first` may not
    return [[y], list(first), list(second), list(plain)]


def is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def assert_same(f: Callable[..., Tensor], inputs: Sequence[Tensor | None]) -> None:
    """f(*inputs, impl) and its derivatives, natively in the inputs' type and by the reference in float64."""
    dtype = inputs[0].dtype
    wide = [None if x is None else x.double() for x in inputs]
    with torch.no_grad():
        y, unlimited = f(*wide, impl="reference"), f(*wide, impl="reference", clamp=None)
    # A derivative jumps at 0 and at the limit; the side that rounding takes there is nobody's fault.
    margin = TOLERANCE[dtype] * LIMIT
    sure = (y.abs() > margin) & ((unlimited.abs() - LIMIT).abs() > margin)
    weight = torch.randn_like(y).to(dtype)
    got = derivatives(lambda *x: f(*x, impl="native") * sure, inputs, weight)
    expected = derivatives(lambda *x: f(*x, impl="reference") * sure, wide, weight.double())
    ((y,), *_) = got
    assert y.dtype == dtype
    assert is_channels_last(y) == is_channels_last(inputs[0])
    # The second derivative by `scale` is a small difference of large sums.
    for actual_tensors, references, times in zip(got, expected, (1, 1, 3, 1), strict=True):
        tolerance = TOLERANCE[dtype] * times * max(1, max(x.abs().max() for x in references))
        for actual, reference in zip(actual_tensors, references, strict=True):
            assert actual.shape == reference.shape
            assert (actual.double() - reference).abs().max() <= tolerance


@every_dtype
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("shape", ["images", "features"])
@every_format
def test_bias_act(act, dtype, shape, memory_format):
    torch.manual_seed(0)
    x = random(*((3, 24, 17, 16) if shape == "images" else (33, 24)), dtype=dtype, memory_format=memory_format)

    def f(x, b, impl, clamp=LIMIT):
        return bias_act(x, b, act=act, clamp=clamp, impl=impl)

    assert_same(f, (x, parameter(24, dtype=dtype)))


@every_dtype
@every_format
@every_size
@pytest.mark.parametrize("rate", RATES)
def test_upfirdn2d(rate, size, dtype, memory_format):
    torch.manual_seed(0)
    taps = torch.rand(4, 4, device="cuda") / 4

    def f(x, impl, clamp=None):
        return upfirdn2d(x, taps, **RATES[rate], impl=impl)

    assert_same(f, (random(*size, dtype=dtype, memory_format=memory_format),))


@every_dtype
def test_separable_filter(dtype):
    torch.manual_seed(0)
    taps = torch.rand(12, device="cuda") / 6

    def f(x, impl, clamp=None):
        return upfirdn2d(x, taps, up=2, padding=(6, 5, 6, 5), gain=4, impl=impl)

    assert_same(f, (random(2, 3, 33, 40, dtype=dtype),))


@every_dtype
@every_format
@every_size
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("noises", ["none", "one", "each"])
def test_epilogue(filtered, noises, size, dtype, memory_format):
    torch.manual_seed(0)
    n, c, h, w = size
    x = random(n, c, h + filtered, w + filtered, dtype=dtype, memory_format=memory_format)
    scale, b = parameter(n, c, dtype=dtype).abs() + 0.5, parameter(c, dtype=dtype)
    noise = None if noises == "none" else parameter(1 if noises == "one" else n, 1, h, w, dtype=dtype)
    taps = torch.rand(4, 4, device="cuda") / 8 if filtered else None

    def f(x, scale, noise, b, impl, clamp=LIMIT):
        return epilogue(x, scale, noise, b, taps, (1, 1, 1, 1), 4.0, clamp=clamp, impl=impl)

    assert_same(f, (x, scale, noise, b))


@every_format
def test_runs_repeat_to_the_bit(memory_format):
    torch.manual_seed(0)
    x, grad = (random(8, 64, 128, 128, dtype=torch.float16, memory_format=memory_format) for _ in range(2))
    scale, noise, b = random(8, 64, dtype=torch.float32), random(8, 1, 128, 128, dtype=torch.float32), x[0, :, 0, 0]

    def gradients():
        leaves = [t.detach().requires_grad_() for t in (x, scale, noise, b)]
        return torch.autograd.grad(epilogue(*leaves, clamp=LIMIT, impl="native"), leaves, grad)

    first = gradients()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


def test_kernels_follow_the_current_stream():
    """On a stream of its own, a kernel waits for what was put there before it."""
    x = torch.zeros(64, 1024, 1024, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            x += 1
        y = bias_act(x, act="linear", gain=2.0, impl="native")
    torch.cuda.synchronize()
    assert y.eq(40).all()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_more_elements_than_an_int_counts(memory_format):
    """2^31 + 2^26 of them: indices of 64 bits. Each image must come out as it does alone."""
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GB of free GPU memory")
    n, c, side = 33, 64, 1024
    image = random(1, c, side, side, dtype=torch.float16, memory_format=memory_format)
    x = torch.empty((n, c, side, side), dtype=torch.float16, device="cuda", memory_format=FORMATS[memory_format])
    x[:] = image
    b, f = random(c, dtype=torch.float32), setup_filter([1, 3, 3, 1]).cuda()
    for operator in (
        lambda x: bias_act(x, b, act="lrelu", impl="native"),
        lambda x: upfirdn2d(x, f, padding=(2, 1, 2, 1), impl="native"),
        lambda x: epilogue(x, None, None, b, impl="native"),
    ):
        alone, last = operator(image), operator(x)[-1:]
        assert torch.equal(alone, last)
