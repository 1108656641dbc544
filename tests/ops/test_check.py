"""The comparison of compiled operators with the reference finds what is wrong with them."""

from math import isnan

import pytest
import torch

from acne_lab.ops import extension
from acne_lab.ops.check import Case, compare, compare_all, relative_error

CPU = torch.device("cpu")
SHAPE = (2, 3, 4, 5)


class Cube(torch.autograd.Function):
    """x**3 with factors on the value, the gradient and the second gradient."""

    @staticmethod
    def forward(ctx, x, factors):
        ctx.save_for_backward(x)
        ctx.factors = factors
        return x**3 * factors[0]

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        _, first, second = ctx.factors
        # The same value as x**2, and another derivative.
        square = x**2 * second + (x**2 * (1 - second)).detach()
        return grad * 3 * square * first, None


def cube(factors):
    """An operator whose native half is off by these factors."""
    return lambda x: Cube.apply(x, factors if extension.native(CPU) else (1.0, 1.0, 1.0))


@pytest.fixture
def loaded(monkeypatch):
    """A library, as far as `extension` knows."""
    monkeypatch.setattr(extension, "_problems", {"cpu": None})


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("memory_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("factors", "wrong"),
    [
        ((1.0, 1.0, 1.0), []),
        ((1.001, 1.0, 1.0), [0]),
        ((1.0, 1.001, 1.0), [1, 2]),
        ((1.0, 1.0, 1.001), [2]),
        ((float("nan"), 1.0, 1.0), [0]),
    ],
)
def test_finds_what_is_wrong(factors, wrong, memory_format):
    compared = compare(Case("cube", cube(factors), (SHAPE,)), CPU, torch.float32, memory_format)
    assert [number for number, error in enumerate(compared.errors) if not error < 1e-5] == wrong
    assert compared.passed == (not wrong)
    assert compared.native_ms > 0
    assert compared.reference_ms > 0


def test_largest_error():
    one, two, zero, nan = (torch.full((2,), value, dtype=torch.float64) for value in (1, 2, 0, float("nan")))
    assert relative_error([one, two], [one, one]) == 1
    assert relative_error([one * 1.5, one], [one, one]) == 0.5
    assert relative_error([two, one], [two, zero]) == 0.5  # of the largest number, for want of one
    assert relative_error([one], [zero]) == 1
    assert isnan(relative_error([one, nan], [one, one]))


@pytest.mark.usefixtures("loaded")
def test_rounding_of_half_precision_is_no_error():
    compared = compare(Case("cube", cube((1.0, 1.0, 1.0)), (SHAPE,)), CPU, torch.bfloat16, "NCHW")
    assert compared.passed
    assert compared.errors[0] > 1e-5


@pytest.mark.slow
def test_the_kernels_of_this_processor_pass():
    state = extension.state("cpu")
    if state.impl != "native":
        pytest.skip(state.why)
    assert [compared for compared in compare_all("cpu") if not compared.passed] == []


@pytest.mark.gpu
def test_the_kernels_of_this_gpu_pass():
    assert [compared for compared in compare_all("cuda") if not compared.passed] == []
