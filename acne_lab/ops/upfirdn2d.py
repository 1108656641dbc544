"""Up-sample, FIR-filter and down-sample images in one operator (Karras et al. 2019, appendix B).

The reference is plain PyTorch: a zero-inserting reshape, a pad or crop, and one depthwise convolution whose
stride is the down-sampling; it multiplies the inserted zeros. The native operator goes over memory once. The
gradient is the operator itself with `up` and `down` exchanged, so that derivatives of any order cost no more
than the forward pass (autograd's own second derivative of a depthwise convolution loops over the channels).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from acne_lab.ops.extension import native


def setup_filter(taps: Sequence[float] | Tensor) -> Tensor:
    """Return a float32 FIR filter of sum 1: 2-D from fewer than 8 taps (outer product), else 1-D (separable).

    A 2-D `taps` is only normalised.
    """
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim == 1 and f.numel() < 8:
        f = f.outer(f)
    return f / f.sum()


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    padding: int | tuple[int, int, int, int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Insert zeros, pad or crop, filter, keep every `down`-th sample.

    Args:
        x: [N, C, H, W], any floating dtype, contiguous or channels_last, which the result keeps. Parts of an image are
            read where they are, as long as the pixels of a row lie side by side; else x is copied.
        f: [fh, fw] or, for a separable filter, [taps]; float32.
        up: zeros are inserted so that every sample becomes `up` samples; (x, y) or one number.
        down: every `down`-th sample is kept; (x, y) or one number.
        padding: [x0, x1, y0, y1] of the up-sampled image; negative numbers crop.
        flip_filter: False convolves, True correlates.
        gain: factor on the result.
        impl: native, reference or auto; see `extension.native`.

    Returns:
        [N, C, (H*up + y0 + y1 - fh) // down + 1, (W*up + x0 + x1 - fw) // down + 1], in x's dtype.
    """
    up_x, up_y = (up, up) if isinstance(up, int) else up
    down_x, down_y = (down, down) if isinstance(down, int) else down
    x0, x1, y0, y1 = (padding,) * 4 if isinstance(padding, int) else padding
    if f.ndim == 1:  # separable: one axis after the other
        x = upfirdn2d(x, f[None, :], (up_x, 1), (down_x, 1), (x0, x1, 0, 0), flip_filter, gain, impl)
        return upfirdn2d(x, f[:, None], (1, up_y), (1, down_y), (0, 0, y0, y1), flip_filter, 1.0, impl)

    settings = (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), flip_filter, gain
    impl = "native" if native(x.device, impl) else "reference"
    if not (torch.is_grad_enabled() and x.requires_grad):  # plain operators alone, which also export
        return _forward(impl)(x, f, *settings)
    return _UpFirDn2d.apply(x, f, impl, *settings)


def _forward(impl: str) -> Callable[..., Tensor]:
    return torch.ops.acne_lab.upfirdn2d if impl == "native" else _reference


class _UpFirDn2d(torch.autograd.Function):
    """The 2-D operator and its adjoint; the filter is a constant."""

    @staticmethod
    def forward(ctx, x, f, impl, up, down, padding, flip_filter, gain):
        y = _forward(impl)(x, f, up, down, padding, flip_filter, gain)
        (h, w), (out_h, out_w), (fh, fw) = x.shape[2:], y.shape[2:], f.shape
        x0, _, y0, _ = padding
        ctx.adjoint = (
            down,
            up,
            (
                fw - x0 - 1,
                w * up[0] - out_w * down[0] + x0 - up[0] + 1,
                fh - y0 - 1,
                h * up[1] - out_h * down[1] + y0 - up[1] + 1,
            ),
            not flip_filter,
            gain,
            impl,
        )
        ctx.save_for_backward(f)
        return y

    @staticmethod
    def backward(ctx, grad):
        (f,) = ctx.saved_tensors
        return upfirdn2d(grad, f, *ctx.adjoint), None, None, None, None, None, None, None


def _reference(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = up, down, padding
    n, c, h, w = x.shape
    if up_x > 1 or up_y > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
        x = x.reshape(n, c, h * up_y, w * up_x)
    symmetric = x0 == x1 >= 0 and y0 == y1 >= 0
    if not symmetric:
        x = F.pad(x, (x0, x1, y0, y1))
    f = f * gain
    if not flip_filter:  # conv2d correlates
        f = f.flip((0, 1))
    weight = f.to(x.dtype)[None, None].repeat(c, 1, 1, 1)
    conv_padding = (y0, x0) if symmetric else 0
    return F.conv2d(x, weight, stride=(down_y, down_x), padding=conv_padding, groups=c)


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Return [N, C, H*up, W*up]: brightness kept, samples centred."""
    left, right = (f.shape[-1] + up - 1) // 2, (f.shape[-1] - up) // 2
    return upfirdn2d(x, f, up=up, padding=(left, right, left, right), gain=up * up)


def downsample2d(x: Tensor, f: Tensor, down: int = 2, flip_filter: bool = False) -> Tensor:
    """Return [N, C, H/down, W/down]: brightness kept, samples centred."""
    left, right = (f.shape[-1] - down + 1) // 2, (f.shape[-1] - down) // 2
    return upfirdn2d(x, f, down=down, padding=(left, right, left, right), flip_filter=flip_filter)


def filter2d(x: Tensor, f: Tensor) -> Tensor:
    """Return x filtered at its own size."""
    left, right = f.shape[-1] // 2, (f.shape[-1] - 1) // 2
    return upfirdn2d(x, f, padding=(left, right, left, right))
