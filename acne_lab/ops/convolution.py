"""Convolution whose gradients of any order are convolutions again, each at full speed.

PyTorch's own second derivative of a convolution swaps batch and channels, which makes kernels as large as the
image: several times slower than what it computes is worth. Here the gradient of the input is the transposed
convolution, the gradient of the weight an operator of its own, and the derivatives of both are again these.

On a CPU the library (oneDNN) is slow where there are more weights than pixels, and at the gradient of wide strided
weights: there one matrix product over the unfolded image takes its place. Which way is taken follows from shapes and
the processor's instruction set alone, so that a run can be repeated to the bit. These ways, and Winograd's, are open
where compiled operators are in force.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from acne_lab.ops import winograd
from acne_lab.ops.extension import native
from acne_lab.ops.weight_gradients import weight_gradients_needed

UNFOLDED = 2**23  # numbers of an unfolded image that are in memory at a time


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, impl: str = "auto") -> Tensor:
    """Correlate [N, in, H, W] with [out, in, k, k]: [N, out, (H + 2 padding - k) // stride + 1, ...]."""
    return _apply(x, weight, stride, padding, False, impl)


def conv_transpose2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, impl: str = "auto") -> Tensor:
    """The adjoint of `conv2d` with the same weight: [N, out, H, W] -> [N, in, (H - 1) stride - 2 padding + k, ...]."""
    return _apply(x, weight, stride, padding, True, impl)


def _apply(x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, impl: str) -> Tensor:
    """`impl` (see `extension.native`) holds for the derivatives too."""
    args = stride, padding, transposed, (0, 0), native(x.device, impl)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Convolution.apply(x, weight, *args)
    return _convolution(x, weight, *args)  # plain operators alone, which also export


class _Convolution(torch.autograd.Function):
    """`conv2d` or its adjoint, which makes images `extra` (y, x) larger, where a stride had passed over an edge."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding, transposed, extra, is_native):
        ctx.save_for_backward(x, weight)
        ctx.args = stride, padding, transposed, is_native
        return _convolution(x, weight, stride, padding, transposed, extra, is_native)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, transposed, is_native = ctx.args
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            extra = (0, 0) if transposed else _passed_over(x, weight.shape[2], stride, padding)
            grad_x = _Convolution.apply(grad, weight, stride, padding, not transposed, extra, is_native)
        if ctx.needs_input_grad[1] and weight_gradients_needed():
            large, small = (grad, x) if transposed else (x, grad)
            grad_weight = _WeightGradient.apply(large, small, weight.shape[2], stride, padding, is_native)
        return grad_x, grad_weight, None, None, None, None, None


class _WeightGradient(torch.autograd.Function):
    """sum over images and positions of small[n, o, y, x] large[n, i, y stride + ky - padding, ...]: [o, i, ky, kx]."""

    @staticmethod
    def forward(ctx, large, small, *args):
        ctx.save_for_backward(large, small)
        ctx.args = args
        return _weight_gradient(large, small, *args)

    @staticmethod
    def backward(ctx, grad):
        large, small = ctx.saved_tensors
        k, stride, padding, is_native = ctx.args
        grad_large = grad_small = None
        if ctx.needs_input_grad[0]:
            extra = _passed_over(large, k, stride, padding)
            grad_large = _Convolution.apply(small, grad, stride, padding, True, extra, is_native)
        if ctx.needs_input_grad[1]:
            grad_small = _Convolution.apply(large, grad, stride, padding, False, (0, 0), is_native)
        return grad_large, grad_small, None, None, None, None


def _passed_over(x: Tensor, k: int, stride: int, padding: int) -> tuple[int, int]:
    """How many pixels at the lower and the right edge a strided convolution does not read."""
    return (x.shape[2] + 2 * padding - k) % stride, (x.shape[3] + 2 * padding - k) % stride


def _convolution(
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    transposed: bool,
    extra: tuple[int, int],
    is_native: bool,
) -> Tensor:
    if is_native and winograd.serves(x, weight, stride, padding):
        return torch.ops.acne_lab.cpu_winograd_conv2d(x, weight, transposed)
    k = weight.shape[2]
    if is_native and _by_product(x) and k > 1 and weight.shape[:2].numel() >= 2**17:
        if transposed and x.shape[2] <= 4:
            return _transposed_by_product(x, weight, stride, padding, extra)
        if not transposed and (x.shape[2] + 2 * padding - k) // stride < 4:
            return _convolution_by_product(x, weight, stride, padding)
    return torch.ops.aten.convolution(x, weight, None, [stride] * 2, [padding] * 2, [1, 1], transposed, extra, 1)


def _weight_gradient(large: Tensor, small: Tensor, k: int, stride: int, padding: int, is_native: bool) -> Tensor:
    num_weights = small.shape[1] * large.shape[1]  # of one tap
    num_pixels = small.shape[0] * small.shape[2] * small.shape[3]
    if is_native and _by_product(small) and k > 1:
        is_slow = stride > 1 or num_weights >= 2**18 or torch.backends.cpu.get_cpu_capability() != "AVX512"
        if num_weights >= 256 * num_pixels or (num_weights >= 2**15 and is_slow):
            return _weight_gradient_by_product(large, small, k, stride, padding)
    shape = small.new_empty(()).expand(small.shape[1], large.shape[1], k, k)  # of the weight, whose values play no part
    mask = [False, True, False]
    return torch.ops.aten.convolution_backward(
        small, large, shape, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )[1]


def _by_product(x: Tensor) -> bool:
    """Whether products of matrices may take the library's place."""
    return x.dtype == torch.float32 and x.device.type == "cpu"


def _convolution_by_product(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    patches = _patches(x, weight.shape[2], stride, padding)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    y = patches.reshape(patches.shape[:3].numel(), matrix.shape[1]) @ matrix.t()
    return y.view(*patches.shape[:3], len(weight)).permute(0, 3, 1, 2)


def _transposed_by_product(x: Tensor, weight: Tensor, stride: int, padding: int, extra: tuple[int, int]) -> Tensor:
    n, i, h, w = x.shape
    _, o, k, _ = weight.shape
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    patches = (x.permute(0, 2, 3, 1).reshape(n * h * w, i) @ matrix).view(n, h, w, k, k, o)
    last_y, last_x = (h - 1) * stride, (w - 1) * stride
    y = x.new_zeros(n, last_y + k + extra[0], last_x + k + extra[1], o)
    for ky, kx in product(range(k), range(k)):
        y[:, ky : ky + last_y + 1 : stride, kx : kx + last_x + 1 : stride] += patches[:, :, :, ky, kx]
    return y[:, padding : y.shape[1] - padding, padding : y.shape[2] - padding].permute(0, 3, 1, 2)


def _weight_gradient_by_product(large: Tensor, small: Tensor, k: int, stride: int, padding: int) -> Tensor:
    o, i = small.shape[1], large.shape[1]
    patches = _patches(large, k, stride, padding)[:, : small.shape[2], : small.shape[3]]
    grads = small.permute(0, 2, 3, 1)
    num_images = max(1, UNFOLDED // patches.shape[1:].numel())
    total = large.new_zeros(o, k * k * i)
    for some_patches, some_grads in zip(patches.split(num_images), grads.split(num_images)):
        num_pixels = some_grads.shape[:3].numel()
        total.addmm_(some_grads.reshape(num_pixels, o).t(), some_patches.reshape(num_pixels, k * k * i))
    return total.view(o, k, k, i).permute(0, 3, 1, 2)


def _patches(x: Tensor, k: int, stride: int, padding: int) -> Tensor:
    """Every k x k patch of [N, C, H, W], as a view of memory: [N, H', W', k, k, C]."""
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    return x.unfold(1, k, stride).unfold(2, k, stride).permute(0, 1, 2, 4, 5, 3)
