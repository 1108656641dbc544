"""The native operators `torch.ops.acne_lab.*`: what they take, and the shapes they return (for torch.compile).

The libraries of `csrc/` only implement them. Importing this defines them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCHEMAS = (
    # clamp < 0 limits nothing, here and below.
    "bias_act(Tensor x, Tensor? b, int dim, str act, float alpha, float gain, float clamp) -> Tensor",
    # `saved` is the forward pass's output or, for an activation whose derivative cannot be had from that, its input.
    "bias_act_backward(Tensor grad, Tensor saved, Tensor? b, int dim, str act, float alpha, float gain, float clamp)"
    " -> Tensor",
    # gradgrad * grad * (the second derivative by x)
    "bias_act_backward2(Tensor gradgrad, Tensor grad, Tensor saved, Tensor? b, int dim, str act, float alpha,"
    " float gain, float clamp) -> Tensor",
    # Pairs are (x, y), padding is [x0, x1, y0, y1]; f is [fh, fw], on CUDA of float32.
    "upfirdn2d(Tensor x, Tensor f, int[2] up, int[2] down, int[4] padding, bool flip_filter, float gain) -> Tensor",
    # clamp(gain * lrelu(filter(x) * scale[n, c] + noise[n or 1, 1, h, w] + b[c], alpha)); None leaves a part out.
    "epilogue(Tensor x, Tensor? scale, Tensor? noise, Tensor? b, Tensor? f, int[4] padding, float filter_gain,"
    " float alpha, float gain, float clamp) -> Tensor",
    # The gradients of filter(x), scale, noise and b; of an input that is None, a tensor of no elements.
    "epilogue_backward(Tensor grad, Tensor y, Tensor? scale, Tensor? noise, Tensor? b, float alpha, float gain,"
    " float clamp) -> (Tensor, Tensor, Tensor, Tensor)",
    # 3 x 3 taps, stride 1, padding 1, or the adjoint of that, as `ops.convolution` has them; float32 on the CPU
    "cpu_winograd_conv2d(Tensor x, Tensor weight, bool transposed) -> Tensor",
    # "AVX-512", "AVX2", ...: what the kernels chose on this processor
    "cpu_instruction_set() -> str",
)

_library = torch.library.Library("acne_lab", "DEF")  # the operators live as long as it does
for _schema in SCHEMAS:
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)


def _image(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Of x's dtype and, whatever its strides, of the memory format that they suggest."""
    dense = torch.empty_like(x)
    channels_last = dense.is_contiguous(memory_format=torch.channels_last) and not dense.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


@torch.library.register_fake("acne_lab::bias_act", lib=_library)
def _bias_act(x, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(x)


@torch.library.register_fake("acne_lab::bias_act_backward", lib=_library)
def _bias_act_backward(grad, saved, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(saved)


@torch.library.register_fake("acne_lab::bias_act_backward2", lib=_library)
def _bias_act_backward2(gradgrad, grad, saved, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(saved)


@torch.library.register_fake("acne_lab::upfirdn2d", lib=_library)
def _upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    (n, c, h, w), (fh, fw), (x0, x1, y0, y1) = x.shape, f.shape, padding
    out_h = (h * up[1] + y0 + y1 - fh) // down[1] + 1
    out_w = (w * up[0] + x0 + x1 - fw) // down[0] + 1
    return _image(x, (n, c, out_h, out_w))


@torch.library.register_fake("acne_lab::epilogue", lib=_library)
def _epilogue(x, scale, noise, b, f, padding, filter_gain, alpha, gain, clamp):
    if f is None:
        return _image(x, x.shape)
    return _upfirdn2d(x, f, (1, 1), (1, 1), padding, False, filter_gain)


@torch.library.register_fake("acne_lab::epilogue_backward", lib=_library)
def _epilogue_backward(grad, y, scale, noise, b, alpha, gain, clamp):
    others = (y.new_empty(0) if x is None else torch.empty_like(x) for x in (scale, noise, b))
    return _image(y, y.shape), *others


@torch.library.register_fake("acne_lab::cpu_winograd_conv2d", lib=_library)
def _cpu_winograd_conv2d(x, weight, transposed):
    n, _, h, w = x.shape
    shape = n, weight.shape[1 if transposed else 0], h, w
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
