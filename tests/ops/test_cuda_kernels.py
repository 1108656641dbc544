"""The CUDA operators, run thread by thread on the processor, against their definition in double precision.

`csrc/cuda` as it is, launchers and all, is compiled by the host compiler (cuda_on_host/ says what that can find), so
what is compared here are the sources that nvcc gets. Speed, and all that takes a GPU, is not known here (test_gpu.py).
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from acne_lab.ops.bias_act import ACTIVATIONS
from acne_lab.ops.bias_act import bias_act as reference_bias_act
from acne_lab.ops.schemas import SCHEMAS
from acne_lab.ops.upfirdn2d import setup_filter
from acne_lab.ops.upfirdn2d import upfirdn2d as reference_upfirdn2d

HOST = Path(__file__).parent / "cuda_on_host"
CSRC = Path(__file__).parents[2] / "acne_lab" / "ops" / "csrc"
TORCH = Path(torch.__file__).parent

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")
TOLERANCE = {torch.float64: 2e-7, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LRELU = (0.2, 2**0.5)


@pytest.fixture(scope="session")
def library(pytestconfig) -> ctypes.CDLL:
    """`torch.ops.cuda_on_host`, compiled once for every state of the sources."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the CUDA kernels are run by way of g++, which is not here")
    flags = ["-std=c++20", "-O0", "-fPIC", "-shared", "-w"]
    flags += [f"-I{HOST}", f"-I{CSRC}", "-isystem", f"{TORCH}/include", f"-L{TORCH}/lib", "-lc10", "-ltorch_cpu"]
    files = sorted(path for root in (HOST, CSRC) for path in root.rglob("*") if path.is_file())
    content = b"".join(path.read_bytes() for path in files) + repr((flags, torch.__version__)).encode()
    folder = pytestconfig.cache.mkdir("cuda_on_host")
    file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not file.exists():
        for outdated in folder.glob("*.so"):
            outdated.unlink()
        part = file.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, HOST / "library.cpp", *flags, "-o", part], check=True)
        part.rename(file)
    definitions = torch.library.Library("cuda_on_host", "DEF")
    for schema in SCHEMAS:
        definitions.define(schema)
    torch.ops.load_library(file)
    loaded = ctypes.CDLL(str(file))
    loaded.guards_are_intact.restype = ctypes.c_bool
    loaded._definitions = definitions  # they live as long as the library
    return loaded


@pytest.fixture
def ops(library):
    """The operators; new tensors have guards, which must be intact in the end."""
    library.guard_new_tensors(True)
    yield torch.ops.cuda_on_host
    library.guard_new_tensors(False)
    assert library.guards_are_intact(), "a kernel wrote outside its tensor"


def beside(x: Tensor) -> Tensor:
    """x in memory that is not aligned for packs."""
    return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].as_strided(x.shape, x.stride(), 1).copy_(x)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def with_gaps(x: Tensor) -> Tensor:
    """x as a view that skips elements along every dimension."""
    wide = torch.full([2 * n for n in x.shape], torch.nan, dtype=x.dtype)
    return wide[tuple(slice(0, 2 * n, 2) for n in x.shape)].copy_(x)


LAYOUTS = {
    "nchw": lambda x: x.contiguous(),
    "channels_last": channels_last,
    "nchw beside": beside,
    "channels_last beside": lambda x: beside(channels_last(x)),
    "transposed": lambda x: x.mT.contiguous().mT,
    "with gaps": with_gaps,
}


def assert_near(actual: Tensor, expected: Tensor, times: float = 1) -> None:
    tolerance = TOLERANCE[actual.dtype] * times
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- bias_act


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_and_its_derivatives(ops, act, dtype):
    torch.manual_seed(0)
    alpha, gain, clamp = ACTIVATIONS[act].alpha, ACTIVATIONS[act].gain, 1.5
    x, grad, gradgrad = torch.randn(3, 2, 5, 3, 8).to(dtype)
    b = torch.randn(5)

    x64 = x.double().requires_grad_()
    y64 = reference_bias_act(x64, b, act=act, clamp=clamp)
    grad_x64, *_ = torch.autograd.grad(y64, x64, grad.double(), create_graph=True)

    y = ops.bias_act(x, b, 1, act, alpha, gain, clamp)
    assert y.dtype == dtype
    assert_near(y, y64)
    saved = x if act == "swish" else y
    # Where rounding decides whether y is clamped, or which side of the bend it is on, both slopes are right.
    sure = ((y64.abs() - clamp).abs() > TOLERANCE[dtype]) | (y64.abs() == clamp)
    sure &= (x64 + b[:, None, None]).abs() > TOLERANCE[dtype]
    assert sure.double().mean() > 0.9
    assert (y64.abs() == clamp).any() == (act not in ("tanh", "sigmoid"))
    grad_x = ops.bias_act_backward(grad, saved, b, 1, act, alpha, gain, clamp)
    assert_near(grad_x[sure], grad_x64[sure], times=4)
    if act not in PIECEWISE_LINEAR:
        grad_grad64, *_ = torch.autograd.grad(grad_x64, x64, gradgrad.double())
        grad_grad = ops.bias_act_backward2(gradgrad, grad, saved, b, 1, act, alpha, gain, clamp)
        assert_near(grad_grad[sure], grad_grad64[sure], times=20)  # of a y that is rounded


@pytest.mark.parametrize("act", PIECEWISE_LINEAR)
def test_no_second_derivative_of_straight_lines(ops, act):
    x = torch.ones(2)
    with pytest.raises(ValueError, match="has no second derivative"):
        ops.bias_act_backward2(x, x, x, None, 0, act, 0.2, 1, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (3, 8, 2, 12), (1, 1, 1, 1), (2, 600, 1, 1)], ids=str)
def test_bias_meets_its_channel_in_every_layout(ops, shape, layout):
    torch.manual_seed(0)
    for dim, dtype in ((0, torch.float32), (1, torch.float64), (1, torch.float16), (-1, torch.bfloat16)):
        x, b = LAYOUTS[layout](torch.randn(shape).to(dtype)), torch.randn(shape[dim])
        y = ops.bias_act(x, b, dim, "lrelu", *LRELU, -1)
        assert_near(y, reference_bias_act(x.double(), b, dim=dim, act="lrelu"))
        grad = torch.randn(shape).to(dtype)  # in another layout than x
        grad_x = ops.bias_act_backward(grad, y, b, dim, "lrelu", *LRELU, -1)
        assert_near(grad_x, grad * torch.where(y > 0, 1, 0.2) * 2**0.5)
        assert is_channels_last(y) == is_channels_last(x) == is_channels_last(grad_x) or layout == "with gaps"


def test_bias_act_of_other_shapes(ops):
    for shape, dim in (((7,), 0), ((5, 9), 1), ((4, 8), 0), ((2, 3, 4, 5, 6), 1), ((0, 4), 1)):
        x, b = torch.randn(shape), torch.randn(shape[dim])
        assert_near(ops.bias_act(x, b, dim, "linear", 0, 1, -1), reference_bias_act(x, b, dim=dim))
        assert_near(ops.bias_act(x, None, dim, "linear", 0, 3, -1), 3 * x)


def test_a_clamped_value_is_known_by_its_rounded_limit(ops):
    # 361.9 is no float16: y stores 362, which lies beyond the limit that was asked for.
    x = torch.tensor([400, 300, -400], dtype=torch.float16)
    y = ops.bias_act(x, None, 0, "linear", 0, 1, 361.9)
    assert y.tolist() == [362, 300, -362]
    grad_x = ops.bias_act_backward(torch.ones_like(y), y, None, 0, "linear", 0, 1, 361.9)
    assert grad_x.tolist() == [0, 1, 0]


def test_nan_stays(ops):
    x = torch.tensor([torch.nan, 1.0])
    for act in ACTIVATIONS:
        y = ops.bias_act(x, None, 0, act, ACTIVATIONS[act].alpha, 1, 0.5)
        assert y.isnan().tolist() == [True, False]


# ------------------------------------------------------------------------------------------------------ upfirdn2d

RATES = {  # up, down, padding, flip_filter, gain
    "1:1": ((1, 1), (1, 1), (2, 1, 2, 1), False, 1),
    "1:1 cropped": ((1, 1), (1, 1), (-1, 2, 3, -2), True, 0.5),
    "up 2": ((2, 2), (1, 1), (2, 1, 2, 1), False, 4),
    "up 2, odd columns": ((2, 2), (1, 1), (1, 4, -2, 3), True, 4),
    "up 2, odd rows": ((2, 2), (1, 1), (4, 0, -1, 3), False, 0.3),
    "down 2": ((1, 1), (2, 2), (1, 1, 1, 1), False, 1),
    "down 2, odd padding": ((1, 1), (2, 2), (0, 5, -1, 4), True, 2),
    "each axis its own": ((3, 1), (1, 2), (5, 0, 2, 4), False, 1),
    "up 3, down 2": ((3, 3), (2, 2), (0, 5, 4, 1), True, 0.5),
}
SIZES = [(2, 3, 5, 6), (1, 2, 37, 33), (1, 20, 9, 24), (2, 70, 4, 4), (3, 8, 8, 8), (1, 1, 70, 5)]


def assert_upfirdn2d(ops, x: Tensor, f: Tensor, rate: str) -> Tensor:
    up, down, padding, flip_filter, gain = RATES[rate]
    y = ops.upfirdn2d(x, f, up, down, padding, flip_filter, gain)
    expected = reference_upfirdn2d(x.double(), f, up, down, padding, flip_filter, gain)
    assert y.dtype == x.dtype
    assert y.shape == expected.shape
    assert_near(y, expected)
    return y


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_upfirdn2d(ops, size, rate):
    """An asymmetric filter, so that a flip or a transposition would show."""
    torch.manual_seed(0)
    f = torch.rand(4, 4)
    for dtype in (torch.float32, torch.float16):
        assert_upfirdn2d(ops, torch.randn(size).to(dtype), f, rate)
        y = assert_upfirdn2d(ops, channels_last(torch.randn(size).to(dtype)), f, rate)
        assert is_channels_last(y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rate", ["1:1", "up 2", "down 2", "up 3, down 2"])
def test_upfirdn2d_reads_every_layout_and_type(ops, rate, layout, dtype):
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(2, 24, 10, 16).to(dtype))
    assert_upfirdn2d(ops, x, torch.rand(4, 4), rate)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (3, 5), (1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("rate", ["1:1", "up 2", "each axis its own"])
def test_upfirdn2d_of_other_filters(ops, rate, shape):
    torch.manual_seed(0)
    assert_upfirdn2d(ops, torch.randn(2, 3, 14, 15), torch.rand(shape), rate)


def test_a_nan_reaches_only_the_outputs_that_see_it(ops):
    x, f = torch.zeros(1, 1, 40, 40), setup_filter([1, 3, 3, 1])
    x[0, 0, 20, 31] = torch.nan
    for rate, count in (("1:1", 16), ("up 2", 16), ("down 2", 4)):
        up, down, padding, flip_filter, gain = RATES[rate]
        assert ops.upfirdn2d(x, f, up, down, padding, flip_filter, gain).isnan().sum() == count


def test_a_filter_that_does_not_fit_is_refused(ops):
    with pytest.raises(ValueError, match="4 taps does not fit into 3"):
        ops.upfirdn2d(torch.zeros(1, 1, 3, 8), torch.ones(4, 4), (1, 1), (1, 1), (0, 0, 0, 0), False, 1)


# ------------------------------------------------------------------------------------------------------- epilogue


def by_definition(x, scale, noise, b, f, padding, filter_gain, alpha, gain, clamp):
    """In plain PyTorch, differentiable, in the type of its arguments."""
    if f is not None:
        x = reference_upfirdn2d(x, f, padding=padding, gain=filter_gain)
    if scale is not None:
        x = x * scale[:, :, None, None]
    if noise is not None:
        x = x + noise
    if b is not None:
        x = x + b[:, None, None]
    y = torch.where(x > 0, x, alpha * x) * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y


def epilogue_case(size, dtype, layout, *, noises=0, terms="scale noise b", filtered=False):
    """x, scale, noise, b, f, padding and filter_gain, of which y has `size`."""
    torch.manual_seed(0)
    n, c, h, w = size
    x = torch.randn(n, c, h + filtered, w + filtered)
    scale, noise, b = torch.rand(n, c) + 0.5, torch.randn(noises or n, 1, h, w), torch.randn(c)
    f = torch.rand(4, 4) / 8 if filtered else None
    given = [term if name in terms else None for name, term in (("scale", scale), ("noise", noise), ("b", b))]
    return LAYOUTS[layout](x.to(dtype)), *given, f, (1, 1, 1, 1), 4.0


EPILOGUES = {
    "all": {},
    "one noise": {"noises": 1},
    "no noise": {"terms": "scale b"},
    "no scale": {"terms": "noise b"},
    "bias alone": {"terms": "b"},
    "nothing": {"terms": ""},
    "filtered": {"filtered": True},
    "filtered, one noise": {"filtered": True, "noises": 1},
}


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "channels_last beside", "with gaps"])
@pytest.mark.parametrize("case", EPILOGUES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_epilogue(ops, dtype, case, layout):
    inputs = epilogue_case((2, 24, 6, 8), dtype, layout, **EPILOGUES[case])
    y = ops.epilogue(*inputs, *LRELU, 2.5)
    x, *terms = inputs
    expected = by_definition(x.double(), *terms, *LRELU, 2.5)
    assert (y.double().abs() > 2.49).any()
    assert y.dtype == dtype
    assert_near(y, expected)
    assert is_channels_last(y) == layout.startswith("channels_last")


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "channels_last beside"])
@pytest.mark.parametrize(
    ("case", "size", "dtype"),
    [("all", (2, 24, 6, 8), dtype) for dtype in DTYPES]
    + [(case, (2, 24, 6, 8), torch.float32) for case in ("one noise", "no noise", "bias alone", "nothing")]
    + [("one noise", (3, 40, 5, 7), torch.float16), ("all", (1, 3, 20, 36), torch.float32)],
    ids=str,
)
def test_gradients_of_the_epilogue(ops, case, size, dtype, layout):
    x, *terms, f, padding, filter_gain = epilogue_case(size, dtype, layout, **EPILOGUES[case])
    for clamp in (-1, 2.5):
        numbers = *LRELU, clamp
        y = ops.epilogue(x, *terms, f, padding, filter_gain, *numbers)
        grad = torch.randn(size).to(dtype)
        inputs = [None if t is None else t.double().requires_grad_() for t in (x, *terms)]
        y64 = by_definition(*inputs, f, padding, filter_gain, *numbers)
        # The kernel knows y as it is stored: where rounding decides about the slope, nothing may come in.
        near_limit = ((y64.abs() - clamp).abs() < TOLERANCE[dtype] * 3) & (y64.abs() != clamp)
        grad[near_limit | (y64.abs() < TOLERANCE[dtype])] = 0
        given = [t for t in inputs if t is not None]
        expected = iter(torch.autograd.grad(y64, given, grad.double()))
        results = ops.epilogue_backward(grad, y, *terms, *numbers)
        assert is_channels_last(results[0]) == is_channels_last(x)
        for tensor, result in zip(inputs, results, strict=True):
            if tensor is None:
                assert result.numel() == 0
                continue
            reference = next(expected)
            # Errors of a sum grow with its terms.
            tolerance = TOLERANCE[dtype] * max(1, reference.numel() ** -0.5 * y.numel() ** 0.5)
            torch.testing.assert_close(result.double(), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_gradient_of_a_scale_of_zero_is_not_finite(ops, layout):
    """The output says nothing about x there; the other gradients are right."""
    x, scale = LAYOUTS[layout](torch.randn(1, 2, 4, 4)), torch.tensor([[0.0, 1.0]])
    y = ops.epilogue(x, scale, None, None, None, (0,) * 4, 1, *LRELU, -1)
    grad_x, grad_scale, *_ = ops.epilogue_backward(torch.ones_like(y), y, scale, None, None, *LRELU, -1)
    assert grad_x[0, 0].eq(0).all()
    assert not grad_scale[0, 0].isfinite()
    assert_near(grad_scale[0, 1], (torch.where(x > 0, 1, 0.2) * x * 2**0.5)[0, 1].sum(), times=10)


# ---------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels_last with gaps"])
@pytest.mark.parametrize("size", [(2, 24, 6, 8), (2, 1, 5, 6), (1, 3, 1, 7)], ids=str)
def test_outputs_lie_as_torch_compile_is_told(ops, size, layout):
    x = with_gaps(channels_last(torch.randn(size))) if layout not in LAYOUTS else LAYOUTS[layout](torch.randn(size))
    f = torch.ones(4, 4)
    calls = {
        "bias_act": (x, None, 1, "relu", 0, 1, -1),
        "bias_act_backward": (torch.randn(size), x, None, 1, "relu", 0, 1, -1),
        "upfirdn2d": (x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 4),
        "epilogue": (x, None, None, None, None, (0,) * 4, 1, 0.2, 1, -1),
        "epilogue_backward": (torch.randn(size), x, None, None, None, 0.2, 1, -1),
    }
    for name, arguments in calls.items():
        y = getattr(ops, name)(*arguments)
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
            expected = getattr(torch.ops.acne_lab, name)(*fake)
        if isinstance(y, tuple):
            y, expected = y[0], expected[0]
        assert y.stride() == expected.stride(), name


# ----------------------------------------------------------------------------------------------- threads and blocks


def test_results_do_not_depend_on_the_order_of_threads(library, ops):
    """A missing barrier shows, and sums have a fixed order."""
    x = torch.randn(2, 24, 20, 16)
    inputs = epilogue_case((2, 24, 20, 16), torch.float32, "channels_last", filtered=True)

    def results():
        y = ops.epilogue(*inputs, *LRELU, 2.5)
        up = ops.upfirdn2d(x, inputs[4], (2, 2), (1, 1), (2, 1, 2, 1), False, 4)
        return y, up, *ops.epilogue_backward(x, y, *inputs[1:4], *LRELU, 2.5)

    forwards = results()
    library.run_threads_backwards(True)
    try:
        backwards = results()
    finally:
        library.run_threads_backwards(False)
    for a, b in zip(forwards, backwards, strict=True):
        assert torch.equal(a, b)
