"""Inner derivatives leave out what nobody asks for, and the outer ones lose nothing by that."""

import pytest
import torch

from acne_lab.ops.bias_act import bias_act
from acne_lab.ops.convolution import conv2d
from acne_lab.ops.epilogue import epilogue
from acne_lab.ops.extension import native
from acne_lab.ops.weight_gradients import without_weight_gradients


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


CASES = {  # a function of images and of weights
    "conv2d": (lambda x, weight: conv2d(x, weight, padding=1), (random(3, 3, 3, 3),)),
    "bias_act": (lambda x, b: bias_act(x, b, act="swish"), (random(3),)),
    "epilogue": (lambda x, noise, b: epilogue(x, noise=noise, b=b), (random(1, 1, 6, 6), random(3))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_outer_derivative_is_the_same(name):
    f, weights = CASES[name]
    x = random(2, 3, 6, 6)

    def penalty(*, skip):
        y = f(f(x, *weights).square(), *weights)
        if skip:
            with without_weight_gradients():
                (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        else:
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), weights)

    torch.testing.assert_close(penalty(skip=True), penalty(skip=False), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_inner_derivatives_have_no_gradients_of_weights(name):
    """Of the compiled operators, and of the convolution in any case."""
    f, weights = CASES[name]
    if name != "conv2d" and not native(torch.device("cpu")):
        pytest.skip("there are no compiled operators")
    with without_weight_gradients():
        grads = torch.autograd.grad(
            f(random(2, 3, 6, 6), *weights).sum(), weights, create_graph=True, allow_unused=True
        )
    assert grads == (None,) * len(weights)
