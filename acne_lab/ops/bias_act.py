"""Bias, activation, gain and clamp as one operator (StyleGAN2 applies the four after every layer).

The native operator goes over memory once and keeps its output alone for the backward pass, which the next
convolution keeps anyway (smooth activations keep their input too). The plain reference is differentiable to
any order; so is the native operator, whose derivatives beyond the second are the reference's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from acne_lab.ops.extension import native
from acne_lab.ops.weight_gradients import weight_gradients_needed


@dataclass(frozen=True)
class Activation:
    """f(x, alpha), its default slope `alpha`, the `gain` that keeps unit variance, and what its derivative is had from.

    A `smooth` activation has a second derivative. `from_input`: the derivative is not a function of the output.
    """

    f: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float = 0.0
    smooth: bool = True
    from_input: bool = False


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, smooth=False),
    "relu": Activation(lambda x, _: torch.relu(x), gain=sqrt(2), smooth=False),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), gain=sqrt(2), alpha=0.2, smooth=False),
    "tanh": Activation(lambda x, _: torch.tanh(x)),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x)),
    "elu": Activation(lambda x, _: F.elu(x)),
    "selu": Activation(lambda x, _: F.selu(x)),
    "softplus": Activation(lambda x, _: F.softplus(x)),
    "swish": Activation(lambda x, _: F.silu(x), gain=sqrt(2), from_input=True),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return clamp(gain * act(x + b)).

    Args:
        x: any shape, any floating dtype, any memory format, which the result keeps; with gaps in memory it is copied.
        b: [x.shape[dim]], added along `dim`; None adds nothing.
        dim: the dimension of `x` that `b` runs along.
        act: a key of `ACTIVATIONS`.
        alpha: slope of the activation's negative side, at least 0; None is its default (lrelu: 0.2).
        gain: factor after the activation; None is its default (sqrt(2) for relu, lrelu and swish, else 1).
        clamp: the result is limited to +-clamp, at least 0; None does not limit. The gradient is 0 where it does.
        impl: native, reference or auto; see `extension.native`.

    Raises:
        ValueError: alpha or clamp is negative.
    """
    activation = ACTIVATIONS[act]
    alpha = activation.alpha if alpha is None else alpha
    gain = activation.gain if gain is None else gain
    check_constants(alpha, clamp)
    if native(x.device, impl):
        if b is None and act == "linear" and gain == 1 and clamp is None:
            return x
        return _BiasAct.apply(x, b, dim, act, alpha, gain, -1.0 if clamp is None else clamp)
    return _reference(_add(x, b, dim), act, alpha, gain, clamp)


def check_constants(alpha: float, clamp: float | None) -> None:
    if alpha < 0 or (clamp is not None and clamp < 0):
        raise ValueError(f"alpha and clamp must be at least 0, not {alpha} and {clamp}")


def lrelu_grad(grad: Tensor, y: Tensor, alpha: float, gain: float, clamp: float) -> Tensor:
    """Gradient of x from that of y = bias_act(x, act="lrelu", ...), natively; differentiable by `grad`.

    `clamp` < 0 does not limit.
    """
    return _BiasActGrad.apply(grad, None, None, y, 1, "lrelu", alpha, gain, clamp)


def _reference(x: Tensor, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    x = ACTIVATIONS[act].f(x, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def _add(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    if b is None:
        return x
    shape = [1] * x.ndim
    shape[dim] = -1
    return x + b.to(x.dtype).reshape(shape)


def _sum_along(grad_x: Tensor, dim: int, b: Tensor) -> Tensor:
    """The gradient of b from that of x."""
    others = [d for d in range(grad_x.ndim) if d != dim % grad_x.ndim]
    return grad_x.sum(others, dtype=b.dtype) if others else grad_x.to(b.dtype)


def _is_affine(act: str, clamp: float) -> bool:
    return act == "linear" and clamp < 0


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, dim, act, alpha, gain, clamp):
        y = torch.ops.acne_lab.bias_act(x, b, dim, act, alpha, gain, clamp)
        activation = ACTIVATIONS[act]
        keeps_y = not (activation.from_input or _is_affine(act, clamp))
        ctx.save_for_backward(x if activation.smooth else None, b, y if keeps_y else None)
        ctx.settings = (dim, act, alpha, gain, clamp)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, b, y = ctx.saved_tensors
        dim, act, alpha, gain, clamp = ctx.settings
        needs_b = ctx.needs_input_grad[1] and weight_gradients_needed()
        grad_b = None
        if _is_affine(act, clamp):
            grad_x = grad if gain == 1 else grad * gain
        elif needs_b and act == "lrelu" and grad.ndim == 4 and dim == 1 and not torch.is_grad_enabled():
            # The case of weight, a convolution's: both gradients in one pass over memory.
            grad_x, _, _, grad_b = torch.ops.acne_lab.epilogue_backward(grad, y, None, None, b, alpha, gain, clamp)
        else:
            grad_x = _BiasActGrad.apply(grad, x, b, y, *ctx.settings)
        if needs_b and grad_b is None:
            grad_b = _sum_along(grad_x, dim, b)
        return grad_x, grad_b, None, None, None, None, None


class _BiasActGrad(torch.autograd.Function):
    """The gradient of x, as a function of the output's and, where the activation is smooth, of x and b.

    The output `y` is only what it is computed from: nothing is propagated to it.
    """

    @staticmethod
    def forward(ctx, grad, x, b, y, dim, act, alpha, gain, clamp):
        ctx.settings = (dim, act, alpha, gain, clamp)
        ctx.save_for_backward(grad if ACTIVATIONS[act].smooth else None, x, b, y)
        return torch.ops.acne_lab.bias_act_backward(grad, x if y is None else y, b, *ctx.settings)

    @staticmethod
    def backward(ctx, gradgrad):
        grad, x, b, y = ctx.saved_tensors
        dim, *settings = ctx.settings
        grad_grad = grad_x = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_grad = _BiasActGrad.apply(gradgrad, x, b, y, *ctx.settings)
        if grad is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            if torch.is_grad_enabled():
                grad_x = _second_derivative(_add(x, b, dim), grad, gradgrad, *settings)
            else:
                saved = x if y is None else y
                grad_x = torch.ops.acne_lab.bias_act_backward2(gradgrad, grad, saved, b, *ctx.settings)
            grad_b = _sum_along(grad_x, dim, b) if ctx.needs_input_grad[2] else None
        return grad_grad, grad_x, grad_b, None, None, None, None, None, None


def _second_derivative(
    x: Tensor, grad: Tensor, gradgrad: Tensor, act: str, alpha: float, gain: float, clamp: float
) -> Tensor:
    """gradgrad * grad * (the second derivative by x), by the reference and so differentiable again."""
    y = _reference(x, act, alpha, gain, None if clamp < 0 else clamp)
    (first,) = torch.autograd.grad(y, x, grad, create_graph=True)
    (second,) = torch.autograd.grad(first, x, gradgrad, create_graph=True)
    return second
