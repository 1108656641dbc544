"""Resampling convolution and style-modulated convolution (Karras et al. 2019, section 2.2)."""

import torch
from torch import Tensor

from acne_lab.ops.convolution import conv2d, conv_transpose2d
from acne_lab.ops.epilogue import epilogue
from acne_lab.ops.upfirdn2d import downsample2d, upfirdn2d, upsample2d


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
) -> Tensor:
    """Correlate [N, in, H, W] with [out, in, k, k] (k odd, "same" padding) while resampling by `up` or 1/`down`.

    `f` is the low-pass filter (2-D, as `setup_filter` makes it). The cheaper order is taken: filter then strided
    convolution; a 1x1, the only kernel that is up-sampled here, at the lower resolution.
    """
    k, taps = weight.shape[-1], 0 if f is None else f.shape[-1]
    same = k // 2
    if up == 1 and down == 1:
        return conv2d(x, weight, padding=same)
    if up > 1:
        assert k == 1 and down == 1
        return upsample2d(conv2d(x, weight), f, up=up)
    if k == 1:
        return conv2d(downsample2d(x, f, down=down), weight)
    left, right = same + (taps - down + 1) // 2, same + (taps - down) // 2
    return conv2d(upfirdn2d(x, f, padding=(left, right, left, right)), weight, stride=down)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    *,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    alpha: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Convolve with 3x3 weights scaled per sample by `styles` and normalised to unit variance; add noise, activate.

    y = clamp(gain lrelu(conv(x . s, W) . d + noise + b))  with  d_o = rsqrt(sum_i s_i^2 sum_k W_oik^2 + 1e-8)
    (eqs. 1 and 3). Scaling input and output instead of the weights is the same sum and never forms per-sample
    weights; all that follows the convolution is one pass over memory (`epilogue`).

    float16 ends at 65,504. There the convolution runs on s / a and W / b, whose largest style and whose norm per output
    channel are 1, and d a b, in float32, undoes both. By Cauchy and Schwarz no sum over 512 channels of inputs within
    +-256, the networks' limits, can then overflow, however large styles and weights are.

    Args:
        x: [N, in, H, W].
        weight: [out, in, 3, 3], float32.
        styles: [N, in], float32.
        f: low-pass filter for up = 2.
        up: 1 or 2.
        noise: [N or 1, 1, H up, W up].
        b: [out].
        alpha: slope of the leaky ReLU's negative side; 1 leaves it out.
        gain: factor after it.
        clamp: the result is limited to +-clamp; None does not limit.
        impl: native, reference or auto; see `extension.native`.

    Returns:
        [N, out, H up, W up] in x's dtype.
    """
    if up == 2:
        weight, squares = _with_squares(weight.transpose(0, 1))  # as the transposed convolution reads it
    else:
        weight, squares = _with_squares(weight)
        squares = squares.t()
    d = torch.rsqrt(styles.square() @ squares + 1e-8)
    if x.dtype == torch.float16:
        tiny = torch.finfo(torch.float32).tiny
        with torch.no_grad():  # they cancel: as constants they leave every gradient as it is
            style_size = styles.abs().amax(dim=1, keepdim=True).clamp_min(tiny)  # [N, 1]
            weight_size = squares.sum(0).sqrt().clamp_min(tiny)  # [out]
        styles = styles / style_size
        weight = weight / (weight_size[:, None, None] if up == 2 else weight_size[:, None, None, None])
        d = (d * style_size * weight_size).clamp_max(torch.finfo(torch.float16).max)  # inf * 0 would be no number
    y = x * styles.to(x.dtype)[:, :, None, None]
    tail = {"scale": d, "noise": noise, "b": b, "alpha": alpha, "gain": gain, "clamp": clamp, "impl": impl}
    if up == 1:
        return epilogue(conv2d(y, weight.to(x.dtype), padding=1, impl=impl), **tail)
    assert up == 2 and f is not None
    y = conv_transpose2d(y, weight.to(x.dtype), stride=2, impl=impl)  # [N, out, 2 H + 1, 2 W + 1]
    taps = f.shape[-1]  # one pixel less of padding on the left than up-sampling takes: the kernel has widened the image
    left, right = (taps + 1) // 2 - 1, (taps - 2) // 2
    return epilogue(y, f=f, padding=(left, right, left, right), filter_gain=4.0, **tail)


def _with_squares(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [a, b, k, k] and its squares summed over the kernel [a, b]."""
    if torch.is_grad_enabled() and weight.requires_grad:
        return _WithSquares.apply(weight)
    return weight, weight.square().sum((2, 3))


class _WithSquares(torch.autograd.Function):
    """`_with_squares`, whose two gradients meet in one pass over memory."""

    @staticmethod
    def forward(ctx, weight):
        ctx.save_for_backward(weight)
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.square().sum((2, 3))

    @staticmethod
    def backward(ctx, grad, grad_squares):
        (weight,) = ctx.saved_tensors
        if grad_squares is None:
            return grad
        factor = 2 * grad_squares.contiguous()[:, :, None, None]
        return weight * factor if grad is None else torch.addcmul(grad, weight, factor)


def modulated_1x1(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Convolve [N, in, H, W] with [out, in, 1, 1] whose inputs are scaled per sample by `styles` [N, in].

    For few outputs (ToRGB): per-sample weights are tiny, scaling the input would be a pass over all of it.
    """
    per_sample = (weight[None, :, :, 0, 0] * styles[:, None]).to(x.dtype)  # [N, out, in]
    return (per_sample @ x.flatten(2)).unflatten(2, x.shape[2:])
