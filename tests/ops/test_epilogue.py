"""The epilogue and its gradient, which has only the output to go by, against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import DTYPES, LAYOUTS, assert_near, copied_images, images
from torch.autograd import grad, gradcheck, gradgradcheck

from acne_lab.ops.epilogue import epilogue
from acne_lab.ops.upfirdn2d import setup_filter

FILTERS = {
    "none": None,
    "four taps": setup_filter([1, 3, 3, 1]),
    "any": torch.tensor([[0.1, 0.4, -0.2], [0.3, 0.2, 0.5]]),
}


def operands(x_shape, y_shape, *, dtype=torch.float64, one_noise=False, seed=0):
    """scale, noise and b in `dtype`; scales keep away from 0."""
    rng = torch.Generator().manual_seed(seed)
    n, c, h, w = y_shape
    scale = torch.randn(n, c, generator=rng, dtype=torch.float64)
    scale = (scale.abs() + 0.5) * scale.sign()
    noise = torch.randn(1 if one_noise else n, 1, h, w, generator=rng, dtype=torch.float64) * 0.3
    b = torch.randn(c, generator=rng, dtype=torch.float64)
    return [t.to(dtype) for t in (scale, noise, b)]


def result_shape(shape, f, padding):
    n, c, h, w = shape
    if f is None:
        return shape
    x0, x1, y0, y1 = padding
    return n, c, h + y0 + y1 - f.shape[0] + 1, w + x0 + x1 - f.shape[1] + 1


def gradients(x, others, impl, *, second=False, **arguments):
    leaves = [t.detach().requires_grad_() if t is not None else None for t in (x, *others)]
    y = epilogue(*leaves, impl=impl, **arguments)
    weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return y, grad(y, wanted, weight, create_graph=second)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 8, 20, 70]), st.integers(2, 9), st.integers(3, 21)),
    dtype=DTYPES,
    layout=LAYOUTS,
    f=st.sampled_from(list(FILTERS)),
    padding=st.tuples(*[st.integers(-1, 3)] * 4).filter(lambda p: p[0] + p[1] >= 1 and p[2] + p[3] >= 2),
    present=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    one_noise=st.booleans(),
    alpha=st.sampled_from([0.2, 0.0, 1.0]),
    gain=st.sampled_from([2**0.5, 1.0, -1.5]),
    clamp=st.sampled_from([None, 1.3]),
)
def test_equals_the_reference(shape, dtype, layout, f, padding, present, one_noise, alpha, gain, clamp):
    x, f = images(shape, dtype, layout), FILTERS[f]
    y_shape = result_shape(shape, f, padding)
    small = torch.float64 if dtype == torch.float64 else torch.float32  # as in training
    others = operands(shape, y_shape, dtype=small, one_noise=one_noise)
    others = [t if here else None for t, here in zip(others, present)]
    arguments = {"padding": padding, "filter_gain": 2.0, "alpha": alpha, "gain": gain, "clamp": clamp}
    y, grads = gradients(x, others, "native", f=f, **arguments)
    exact_f = None if f is None else f.double()
    doubles = [None if t is None else t.double() for t in others]
    exact, exact_grads = gradients(x.double(), doubles, "reference", f=exact_f, **arguments)
    assert y.dtype == dtype
    assert_near(y, exact, dtype, roundings=3)
    if dtype in (torch.float64, torch.float32):  # else a value at the clamp may be rounded to its other side
        for got, expected in zip(grads, exact_grads):
            assert_near(got, expected, dtype, roundings=30)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_16_bit(dtype, layout):
    """What is had from a rounded output is as exact as the output."""
    x = images((4, 32, 17, 17), dtype, layout)
    others = operands(x.shape, (4, 32, 16, 16), dtype=torch.float32)
    f = FILTERS["four taps"]
    _, grads = gradients(x, others, "native", f=f, padding=(1, 1, 1, 1))
    _, expected = gradients(x.double(), [t.double() for t in others], "reference", f=f.double(), padding=(1, 1, 1, 1))
    assert [g.dtype for g in grads] == [dtype] + 3 * [torch.float32]
    assert_near(grads[0], expected[0], dtype, roundings=2)
    for got, exact in zip(grads[1:], expected[1:]):
        assert_near(got, exact, dtype, roundings=4)


@pytest.mark.parametrize("f", FILTERS)
@pytest.mark.parametrize(
    ("present", "one_noise"), [((1, 1, 1), False), ((1, 1, 1), True), ((0, 1, 0), True), ((1, 0, 0), False)]
)
@pytest.mark.parametrize("clamp", [None, 1.0])
def test_first_and_second_derivative(f, present, one_noise, clamp):
    f = FILTERS[f]
    x = images((2, 2, 4, 5), torch.float64, "NHWC")
    padding = (1, 2, 2, 1)
    others = operands(x.shape, result_shape(x.shape, f, padding), one_noise=one_noise)
    leaves = [t.requires_grad_() for t, here in zip((x, *others), (1, *present)) if here]

    def function(x, *given):
        rest = iter(given)
        scale, noise, b = (next(rest) if here else None for here in present)
        return epilogue(x, scale, noise, b, f, padding, alpha=0.3, gain=1.5, clamp=clamp, impl="native")

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("f", FILTERS)
def test_the_differentiable_gradient_is_the_gradient(f):
    f = FILTERS[f]
    x = images((3, 20, 9, 11), torch.float32, "NHWC")
    others = operands(x.shape, result_shape(x.shape, f, (1, 2, 1, 2)), dtype=torch.float32)
    arguments = {"f": f, "padding": (1, 2, 1, 2), "clamp": 1.0}
    _, once = gradients(x, others, "native", **arguments)
    _, again = gradients(x, others, "native", second=True, **arguments)
    for got, expected in zip(once, again):
        assert_near(got, expected, torch.float32, roundings=20)
        assert expected.grad_fn is not None


def test_a_scale_of_zero_has_no_finite_gradient_and_harms_no_other():
    x = images((2, 3, 5, 6), torch.float32, "NCHW")
    scale, noise, b = operands(x.shape, x.shape, dtype=torch.float32)
    scale[1, 2] = 0
    _, grads = gradients(x, (scale, noise, b), "native")
    _, expected = gradients(x, (scale, noise, b), "reference")
    assert not grads[1][1, 2].isfinite()
    grads[1][1, 2] = expected[1][1, 2]
    for got, exact in zip(grads, expected):
        assert_near(got, exact, torch.float32, roundings=10)


@pytest.mark.parametrize("f", ["none", "four taps"])
@pytest.mark.parametrize("clamp", [None, 1.0])
def test_numbers_that_are_none(f, clamp):
    x = images((1, 20, 9, 9), torch.float32, "NHWC")
    x[0, 3, 4, 5], x[0, 4, 0, 0], x[0, 5, 8, 8] = (float(v) for v in ("nan", "inf", "-inf"))
    y_shape = result_shape(x.shape, FILTERS[f], (2, 1, 2, 1))
    others = operands(x.shape, y_shape, dtype=torch.float32)
    arguments = {"f": FILTERS[f], "padding": (2, 1, 2, 1), "clamp": clamp}
    y, grads = gradients(x, others, "native", **arguments)
    expected, expected_grads = gradients(x, others, "reference", **arguments)
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0], expected_grads[0], equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("f", ["none", "four taps"])
def test_large_images_shared_by_threads(layout, f):
    """Sums do not depend on the number of threads, to the bit."""
    x = images((2, 48, 65, 67), torch.float32, layout)
    others = operands(x.shape, result_shape(x.shape, FILTERS[f], (1, 1, 1, 1)), dtype=torch.float32)
    arguments = {"f": FILTERS[f], "padding": (1, 1, 1, 1)}
    y, grads = gradients(x, others, "native", **arguments)
    doubles = [t.double() for t in others]
    exact, exact_grads = gradients(x.double(), doubles, "reference", **arguments)
    assert_near(y, exact, torch.float32)
    for got, expected in zip(grads, exact_grads):
        assert_near(got, expected, torch.float32, roundings=4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        again, grads_again = gradients(x, others, "native", **arguments)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again, y)
    assert all(map(torch.equal, grads_again, grads))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1)])
def test_nothing_and_next_to_nothing(shape):
    x = images(shape, torch.float32, "NCHW")
    others = operands(shape, shape, dtype=torch.float32)
    y, grads = gradients(x, others, "native")
    expected, expected_grads = gradients(x, others, "reference")
    torch.testing.assert_close(y, expected)
    for got, exact in zip(grads, expected_grads):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5)


def test_wrong_shapes_are_refused():
    x = torch.ones(2, 3, 4, 5)
    for name, shape in {"scale": (2, 4), "noise": (2, 1, 5, 4), "b": (2,)}.items():
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            epilogue(x, **{name: torch.ones(shape)}, impl="native")
    with pytest.raises(ValueError, match="at least 0"):
        epilogue(x, alpha=-1.0)


def test_only_the_output_is_kept():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    y = epilogue(x, *operands(x.shape, x.shape, dtype=torch.float32), impl="native")
    kept = [t for t in y.grad_fn.saved_tensors if t is not None and t.numel() == x.numel()]
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "crop of NCHW", "crop of NHWC", "transposed"])
def test_parts_of_images_are_read_where_they_are(layout):
    """Only where the pixels of a row do not lie side by side there is a copy."""
    x = images((2, 20, 9, 21), torch.float32, layout)
    copies = copied_images(lambda: epilogue(x, torch.ones(2, 20), b=torch.zeros(20), impl="native"), x)
    assert len(copies) == (layout == "transposed")
