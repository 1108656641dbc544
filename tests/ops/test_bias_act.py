"""The compiled bias_act against the reference: values and derivatives in every shape, type and memory format."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import DTYPES, LAYOUTS, assert_near, images
from torch.autograd import grad, gradcheck, gradgradcheck

from acne_lab.ops.bias_act import ACTIVATIONS, bias_act

ACTS = sorted(ACTIVATIONS)
SMOOTH = sorted(name for name, activation in ACTIVATIONS.items() if activation.smooth)


def away_from(x, *, kinks, by=0.05):
    """x, but with a distance to points where a derivative jumps."""
    for kink in kinks:
        x = torch.where((x - kink).abs() < by, kink + 2 * by, x)
    return x


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 21)),
    dtype=DTYPES,
    layout=LAYOUTS,
    act=st.sampled_from(ACTS),
    alpha=st.sampled_from([None, 0.0, 0.3, 1.0]),
    gain=st.sampled_from([None, 1.0, 0.0, 3.0, -2.0]),
    clamp=st.sampled_from([None, 0.7, 100.0]),
    dim=st.integers(-4, 3),
    bias=st.booleans(),
)
def test_equals_the_reference(shape, dtype, layout, act, alpha, gain, clamp, dim, bias):
    x = images(shape, dtype, layout)
    b = torch.linspace(-1, 1, shape[dim], dtype=torch.float64).to(dtype) if bias else None
    arguments = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}

    def derivative(x, b, impl):
        leaves = [t.detach().requires_grad_() for t in (x, b) if t is not None]
        y = bias_act(leaves[0], leaves[1] if bias else None, impl=impl, **arguments)
        weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
        return y, grad(y, leaves, weight)

    y, grads = derivative(x, b, "native")
    exact, exact_grads = derivative(x.double(), None if b is None else b.double(), "reference")
    assert y.dtype == dtype
    assert_near(y, exact, dtype)
    if dtype in (torch.float64, torch.float32):  # else a value at the clamp may be rounded to its other side
        for got, expected in zip(grads, exact_grads):
            assert_near(got, expected, dtype, roundings=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("act", ACTS)
def test_derivatives_in_16_bit(act, dtype):
    x = images((2, 5, 8, 9), dtype, "NHWC")
    b = torch.randn(5)
    leaves, exact = ([t.detach().requires_grad_() for t in ts] for ts in ((x, b), (x.double(), b.double())))
    grads = grad(bias_act(*leaves, act=act, impl="native").sum(), leaves)
    expected = grad(bias_act(*exact, act=act, impl="reference").sum(), exact)
    assert grads[0].dtype == dtype and grads[1].dtype == torch.float32
    assert_near(grads[0], expected[0], dtype, roundings=2)
    assert_near(grads[1], expected[1], dtype, roundings=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_limit_that_is_rounded_still_stops_the_gradient(dtype):
    clamp = 256 * 2**0.5  # lies between two numbers of 16 bit
    x = torch.tensor([1.0, 300.0, -2000.0, 1e4], dtype=dtype, requires_grad=True)
    y = bias_act(x, act="lrelu", clamp=clamp, impl="native")
    assert y[1:].abs().tolist() == [torch.tensor(clamp).to(dtype).item()] * 3
    (g,) = grad(y.sum(), x)
    assert g[0] > 1 and g[1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("act", ACTS)
def test_first_and_second_derivative(act, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64) * 1.5
    b = torch.randn(3, dtype=torch.float64)
    gain = ACTIVATIONS[act].gain
    y = ACTIVATIONS[act].f(x + b[:, None], 0.2) * gain
    x = torch.where((y.abs() - 0.9).abs() < 0.02, 0.3 - b[:, None], away_from(x + b[:, None], kinks=[0]) - b[:, None])
    x.requires_grad_()
    b.requires_grad_()

    def f(x, b):
        return bias_act(x, b, act=act, clamp=clamp, impl="native")

    assert gradcheck(f, (x, b))
    assert gradgradcheck(f, (x, b))


@pytest.mark.parametrize("act", SMOOTH)
def test_third_derivative(act):
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4) + 0.01
    b = torch.tensor([0.1, 0.2, 0.3, -0.1], dtype=torch.float64)

    def third(impl):
        leaves = [x.clone().requires_grad_(), b.clone().requires_grad_()]
        y = bias_act(*leaves, act=act, clamp=0.9, impl=impl).square()
        for _ in range(2):
            (y,) = grad(y.sum(), leaves[0], create_graph=True)
        return grad(y.sum(), leaves)

    for got, expected in zip(third("native"), third("reference")):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("act", ACTS)
def test_numbers_that_are_none(act, clamp, dtype):
    """Often enough to fill whole vectors: PyTorch's derivative of elu at a NaN is 1 in what is left."""
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1e30, -1e30, 100.0, -100.0, 30.0, -30.0] * 64, dtype=dtype)
    results = []
    for impl in ("native", "reference"):
        leaf = x.clone().requires_grad_()
        y = bias_act(leaf, act=act, clamp=clamp, impl=impl)
        results.append((y, *grad(y, leaf, torch.ones_like(y))))
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("c", [1, 3, 48, 700])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_tensors_shared_by_threads(c, memory_format):
    x = images((3, c, 61, 67), torch.float32, "NCHW").contiguous(memory_format=memory_format)
    b = torch.randn(c)
    y = bias_act(x, b, act="lrelu", impl="native")
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, bias_act(x, b, act="lrelu", impl="reference"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(bias_act(x, b, act="lrelu", impl="native"), y)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_gradient_of_the_bias_with_that_of_the_image(layout):
    """The convolutions' case, which has a way of its own."""
    leaves = [images((3, 20, 33, 17), torch.float32, layout).requires_grad_(), torch.randn(20, requires_grad=True)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = grad(bias_act(*leaves, act="lrelu", clamp=2.0, impl="native").square().sum(), leaves)
    expected = grad(bias_act(*exact, act="lrelu", clamp=2.0, impl="reference").square().sum(), exact)
    assert got[0].stride() == leaves[0].stride()
    for ours, theirs in zip(got, expected):
        assert_near(ours, theirs, torch.float32, roundings=4)


def test_a_leaky_relu_keeps_its_output_only():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = bias_act(x, torch.randn(3), act="lrelu", impl="native")
    kept = [t for t in y.grad_fn.saved_tensors if t is not None and t.numel() == x.numel()]
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


def test_refuses_what_makes_no_sense():
    for arguments in ({"act": "lrelu", "alpha": -0.1}, {"clamp": -1.0}):
        with pytest.raises(ValueError, match="at least 0"):
            bias_act(torch.ones(2), dim=0, **arguments)
    with pytest.raises(ValueError, match="shape"):
        bias_act(torch.ones(2, 3), torch.ones(2), impl="native")
    with pytest.raises(ValueError, match="float64"):
        bias_act(torch.ones(2, 3, dtype=torch.int32), torch.ones(3), impl="native")
