"""The tail of a synthesis layer as one operator: blur, demodulation, noise, bias, leaky ReLU, gain and clamp.

The native operator goes over memory once and keeps nothing but its output: a leaky ReLU can be inverted, and so the
filtered input, which the gradient of `scale` needs, is had from the output again. Only where it is clamped it cannot,
and there the gradient is 0. A `scale` of 0 leaves no trace of the input: its gradient is then not finite (a
demodulation factor never is 0).
"""

from math import sqrt

import torch
from torch import Tensor

from acne_lab.ops.bias_act import bias_act, check_constants, lrelu_grad
from acne_lab.ops.extension import native
from acne_lab.ops.upfirdn2d import upfirdn2d
from acne_lab.ops.weight_gradients import weight_gradients_needed


def epilogue(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    f: Tensor | None = None,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    filter_gain: float = 1.0,
    alpha: float = 0.2,
    gain: float = sqrt(2),
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return clamp(gain * lrelu(filter(x) * scale + noise + b)); an operand that is None is left out.

    Args:
        x: [N, C, H, W], any floating dtype; memory as for `upfirdn2d`.
        scale: [N, C].
        noise: [N or 1, 1, H', W'], of the result's size.
        b: [C].
        f: [fh, fw], float32: the filter, a convolution.
        padding: [x0, x1, y0, y1] of x before the filter; negative numbers crop.
        filter_gain: factor on the filter.
        alpha: slope of the leaky ReLU's negative side, at least 0.
        gain: factor after it.
        clamp: the result is limited to +-clamp, at least 0; None does not limit. The gradient is 0 where it does.
        impl: native, reference or auto; see `extension.native`.

    Returns:
        [N, C, H', W'] in x's dtype; H' = H + y0 + y1 - fh + 1 and W' alike, or x's size without a filter.

    Raises:
        ValueError: alpha or clamp is negative.
    """
    if not native(x.device, impl):
        if f is not None:
            x = upfirdn2d(x, f, padding=padding, gain=filter_gain, impl="reference")
        if scale is not None:
            x = x * scale.to(x.dtype)[:, :, None, None]
        if noise is not None:
            x = x + noise.to(x.dtype)
        return bias_act(x, b, act="lrelu", alpha=alpha, gain=gain, clamp=clamp, impl="reference")
    check_constants(alpha, clamp)
    clamp = -1.0 if clamp is None else clamp
    return _Epilogue.apply(x, scale, noise, b, f, padding, filter_gain, alpha, gain, clamp)


class _Epilogue(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, noise, b, f, padding, filter_gain, alpha, gain, clamp):
        y = torch.ops.acne_lab.epilogue(x, scale, noise, b, f, padding, filter_gain, alpha, gain, clamp)
        ctx.save_for_backward(y, scale, noise, b, f)
        ctx.padding, ctx.filter_gain, ctx.settings = padding, filter_gain, (alpha, gain, clamp)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, scale, noise, b, f = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = _backward(grad, y, scale, noise, b, *ctx.settings)
        else:
            grads = torch.ops.acne_lab.epilogue_backward(grad, y, scale, noise, b, *ctx.settings)
        grad_x, *others = grads
        if not ctx.needs_input_grad[0]:
            grad_x = None
        elif f is not None:
            (fh, fw), (x0, x1, y0, y1) = f.shape, ctx.padding
            padding = (fw - 1 - x0, fw - 1 - x1, fh - 1 - y0, fh - 1 - y1)
            grad_x = upfirdn2d(grad_x, f, padding=padding, flip_filter=True, gain=ctx.filter_gain, impl="native")
        others = (g if needed else None for g, needed in zip(others, ctx.needs_input_grad[1:4]))
        return grad_x, *others, None, None, None, None, None, None


def _backward(
    grad: Tensor,
    y: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    alpha: float,
    gain: float,
    clamp: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """`torch.ops.acne_lab.epilogue_backward` as differentiable operators, for derivatives of the derivative."""
    dz = lrelu_grad(grad, y, alpha, gain, clamp)
    grad_scale = grad_noise = grad_b = None
    grad_x = dz
    if scale is not None:
        grad_x = dz * scale.to(dz.dtype)[:, :, None, None]
        x = bias_act(y, act="lrelu", alpha=1 / alpha if alpha else 0.0, gain=1 / gain if gain else 0.0, impl="native")
        if noise is not None:
            x = x - noise.to(x.dtype)
        if b is not None:
            x = x - b.to(x.dtype)[:, None, None]
        grad_scale = (dz * x).sum((2, 3), dtype=scale.dtype) / scale
    if noise is not None and weight_gradients_needed():
        grad_noise = dz.sum(1, keepdim=True, dtype=noise.dtype)
        if noise.shape[0] == 1:
            grad_noise = grad_noise.sum(0, keepdim=True)
    if b is not None and weight_gradients_needed():
        grad_b = dz.sum((0, 2, 3), dtype=b.dtype)
    return grad_x, grad_scale, grad_noise, grad_b
