"""The convolution and its derivatives of any order, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from acne_lab.ops import convolution, extension
from acne_lab.ops.convolution import conv2d, conv_transpose2d

SHAPES = [  # k, stride, padding, side
    (3, 1, 1, 6),
    (3, 2, 0, 7),
    (3, 2, 0, 6),
    (3, 2, 1, 6),
    (1, 1, 0, 4),
    (1, 2, 0, 5),
]


def operands(k, side, *, transposed=False, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    channels = 3 if transposed else 2
    x = torch.randn(2, channels, side, side, generator=rng, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 2, k, k, generator=rng, dtype=dtype, requires_grad=True)
    return x, weight


@pytest.mark.parametrize(("k", "stride", "padding", "side"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives(k, stride, padding, side, transposed):
    ours, theirs = (conv_transpose2d, F.conv_transpose2d) if transposed else (conv2d, F.conv2d)
    x, weight = operands(k, side, transposed=transposed)
    torch.testing.assert_close(ours(x, weight, stride, padding), theirs(x, weight, None, stride, padding))
    assert gradcheck(lambda x, w: ours(x, w, stride, padding), (x, weight))
    assert gradgradcheck(lambda x, w: ours(x, w, stride, padding), (x, weight))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(memory_format):
    x, weight = operands(3, 8, dtype=torch.float32)
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    y = conv2d(x, weight, padding=1)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    assert y.is_contiguous(memory_format=memory_format)
    assert grad.is_contiguous(memory_format=memory_format)


EVERY = {"_convolution_by_product", "_transposed_by_product", "_weight_gradient_by_product"}
BY_PRODUCT = [  # more weights than pixels, and wide strided ones: n, in, out, side, stride, what is then a product
    (2, 64, 130, 4, 1, {"_weight_gradient_by_product"}),
    (2, 96, 90, 4, 2, {"_weight_gradient_by_product"}),
    (2, 512, 256, 4, 1, EVERY),
    (2, 256, 512, 9, 2, EVERY),
    (2, 512, 256, 4, 2, EVERY),
    (0, 512, 256, 4, 2, EVERY),
    (4, 128, 256, 6, 2, {"_weight_gradient_by_product"}),
    (3, 512, 512, 9, 1, {"_weight_gradient_by_product"}),
]


@pytest.mark.parametrize(("n", "i", "o", "side", "stride", "products"), BY_PRODUCT)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_products_of_matrices_do_what_the_library_does(n, i, o, side, stride, products, memory_format, monkeypatch):
    """Where they take its place: in the gradients of a weight, and where few pixels are up-sampled."""
    monkeypatch.setattr("acne_lab.ops.convolution.UNFOLDED", 2 * 9 * i * side**2)  # some images at a time
    called = set()
    for name in EVERY:
        original = getattr(convolution, name)
        monkeypatch.setattr(
            convolution, name, lambda *args, name=name, original=original: called.add(name) or original(*args)
        )
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, i, side, side, generator=rng).to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(o, i, 3, 3, generator=rng).to(memory_format=memory_format).requires_grad_()
    padding = 1 if stride == 1 else 0

    def results(impl):
        with extension.use(impl):
            y = conv2d(x, weight, stride, padding)
            up = conv_transpose2d(x, weight.transpose(0, 1), 2)
            weights = [torch.linspace(-1, 2, t.numel()).reshape(t.shape) for t in (y, up)]
            first = torch.autograd.grad([y, up], [x, weight], weights, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, weight])
        return [y, up, *first, *second]

    expected = results("reference")
    assert not called
    for ours, theirs in zip(results("native"), expected):
        largest = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * largest)
    assert called == products


def test_the_implementation_of_a_call_is_that_of_its_derivatives(monkeypatch):
    products = []
    for name in EVERY:
        original = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *args, f=original: products.append(f) or f(*args))
    x, weight = torch.randn(2, 512, 4, 4), torch.randn(256, 512, 3, 3)
    for impl, process in (("reference", "native"), ("native", "reference")):
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        products.clear()
        with extension.use(process):
            torch.autograd.grad(conv2d(x, weight, 2, impl=impl).sum(), (x, weight))
            assert bool(products) == (impl == "native")


@pytest.mark.parametrize("transposed", [False, True])
def test_images_that_are_not_square(transposed):
    """A stride of 2 passes over the last column, and over no row."""
    ours, theirs = (conv_transpose2d, F.conv_transpose2d) if transposed else (conv2d, F.conv2d)
    x, weight = operands(3, 5, transposed=transposed)
    x = torch.cat([x, x[..., :1]], dim=3).detach().requires_grad_()
    torch.testing.assert_close(ours(x, weight, 2), theirs(x, weight, None, 2))
    assert gradcheck(lambda x, w: ours(x, w, 2), (x, weight))
    assert gradgradcheck(lambda x, w: ours(x, w, 2), (x, weight))
