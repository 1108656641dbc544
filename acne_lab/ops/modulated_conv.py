"""Resampling convolution and style-modulated convolution (Karras et al. 2019, section 2.2)."""

import torch
from torch import Tensor

from acne_lab.ops.convolution import conv2d, conv_transpose2d
from acne_lab.ops.upfirdn2d import upfirdn2d


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
) -> Tensor:
    """Convolve [N, in, H, W] with [out, in, k, k] (k odd, "same" padding) while resampling by `up` or 1/`down`.

    `f` is the low-pass filter (2-D, as `setup_filter` makes it). A 3x3 up-convolution applies its kernel in
    convolution orientation, every other one correlates, as in the released models. The cheaper order is
    taken: transposed convolution then filter; filter then strided convolution; a 1x1 at the lower resolution.
    """
    k = weight.shape[-1]
    same = k // 2
    if up == 1 and down == 1:
        return conv2d(x, weight, padding=same)
    assert f is not None and (up == 1 or down == 1)
    taps = f.shape[-1]
    if up > 1:
        left, right = (taps + up - 1) // 2, (taps - up) // 2
        if k == 1:
            x = conv2d(x, weight)
            return upfirdn2d(x, f, up=up, padding=(left, right, left, right), gain=up * up)
        # The transposed convolution already widens the image by k - up: the filter pads by that much less.
        x = conv_transpose2d(x, weight.transpose(0, 1), stride=up)
        left, right = left + same - (k - 1), right + same - (k - up)
        return upfirdn2d(x, f, padding=(left, right, left, right), gain=up * up)
    left, right = same + (taps - down + 1) // 2, same + (taps - down) // 2
    if k == 1:
        return conv2d(upfirdn2d(x, f, down=down, padding=(left, right, left, right)), weight)
    return conv2d(upfirdn2d(x, f, padding=(left, right, left, right)), weight, stride=down)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    demodulate: bool = True,
) -> Tensor:
    """Convolve with weights scaled per sample by `styles` and, if asked, normalised to unit output variance.

    y = conv(x . s, W) . d  with  d_o = rsqrt(sum_i s_i^2 sum_k W_oik^2 + 1e-8)    (eqs. 1 and 3)

    Scaling input and output instead of the weights is the same sum and never forms per-sample weights.

    float16 ends at 65,504. There, with demodulation, the convolution runs on s / a and W / b, whose largest style and
    whose norm per output channel are 1, and d a b, in float32, undoes both. By Cauchy and Schwarz no sum over 512
    channels of inputs within +-256, the networks' limits, can then overflow, however large styles and weights are.

    Args:
        x: [N, in, H, W].
        weight: [out, in, k, k], float32.
        styles: [N, in], float32.
        f: low-pass filter for up = 2.
        up: 1 or 2.
        demodulate: False leaves d out (ToRGB).
    """
    d = torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8) if demodulate else None
    if demodulate and x.dtype == torch.float16:
        tiny = torch.finfo(torch.float32).tiny
        with torch.no_grad():  # they cancel: as constants they leave every gradient as it is
            a = styles.abs().amax(dim=1, keepdim=True).clamp_min(tiny)  # [N, 1]
            b = weight.square().sum((1, 2, 3)).sqrt().clamp_min(tiny)  # [out]
        styles, weight = styles / a, weight / b[:, None, None, None]
        d = (d * a * b).clamp_max(torch.finfo(torch.float16).max)  # inf * 0 would be no number
    y = x * styles.to(x.dtype)[:, :, None, None]
    y = conv2d_resample(y, weight.to(x.dtype), f, up=up)
    return y if d is None else y * d.to(x.dtype)[:, :, None, None]
