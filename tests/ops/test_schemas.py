"""What torch.compile is told of the native operators agrees with the kernels, for every layout."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from acne_lab.ops import extension, schemas
from acne_lab.ops.upfirdn2d import upfirdn2d

ops = torch.ops.acne_lab


def test_upfirdn2d_without_kernels():
    f = torch.rand(4, 3)
    for up, down, padding in (((1, 1), (1, 1), (0, 0, 0, 0)), ((2, 1), (1, 3), (3, 0, 2, 4))):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 3, 7, 6).to(memory_format=memory_format)
            expected = upfirdn2d(x, f, up, down, padding).contiguous(memory_format=memory_format)
            with FakeTensorMode(allow_non_fake_inputs=True):
                y = ops.upfirdn2d(x, f, up, down, padding, False, 1.0)
            assert (y.shape, y.stride(), y.dtype) == (expected.shape, expected.stride(), expected.dtype)


def images() -> dict[str, Tensor]:
    x = torch.randn(2, 6, 8, 10)
    nhwc = x.to(memory_format=torch.channels_last)
    return {
        "NCHW": x,
        "NHWC": nhwc,
        "transposed": x.transpose(2, 3),
        "some channels": x[:, ::2],
        "some NHWC channels": nhwc[:, :4],
        "cropped": x[:, :, 1:-1, 1:-1],
        "expanded": x[:1].expand(2, -1, -1, -1),
        "permuted": x.permute(1, 0, 2, 3),
        "one channel": x[:, :1],
        "one pixel": x[:, :, :1, :1],
    }


@pytest.fixture(scope="module")
def kernels() -> None:
    try:
        extension.native(torch.device("cpu"), "native")
    except RuntimeError as problem:
        pytest.skip(str(problem))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", images().values(), ids=images())
def test_kernels(x, dtype):
    x = x.to(dtype)
    n, c, h, w = x.shape
    f, b, scale, noise = torch.rand(4, 4), torch.randn(c), torch.rand(n, c), torch.randn(1, 1, h, w)
    y = torch.randn_like(x.contiguous() if not x.is_contiguous(memory_format=torch.channels_last) else x)
    grad = torch.randn_like(y)
    activation = (1, "lrelu", 0.2, 1.4, 1.0)
    for op, arguments in (
        (ops.bias_act, (x, b, *activation)),
        (ops.bias_act_backward, (grad, x, b, *activation)),
        (ops.bias_act_backward2, (grad, grad, x, b, 1, "swish", 0.0, 1.4, -1.0)),
        (ops.upfirdn2d, (x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)),
        (ops.upfirdn2d, (x, f, (1, 1), (2, 2), (2, 2, 2, 2), True, 1.0)),
        (ops.epilogue, (x, scale, noise, b, None, (0, 0, 0, 0), 1.0, 0.2, 1.4, 1.0)),
        (ops.epilogue, (x, scale, None, None, f, (2, 2, 2, 2), 1.0, 0.2, 1.4, -1.0)),
        (ops.epilogue_backward, (grad, y, scale, noise, b, 0.2, 1.4, 1.0)),
        (ops.epilogue_backward, (grad, y, None, None, None, 0.2, 1.4, -1.0)),
    ):
        opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("x", images().values(), ids=images())
def test_convolution_kernel(x, transposed):
    c = x.shape[1]
    weight = torch.randn(c, 5, 3, 3) if transposed else torch.randn(5, c, 3, 3)
    opcheck(ops.cpu_winograd_conv2d.default, (x, weight, transposed), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("schema", schemas.SCHEMAS, ids=lambda schema: schema.split("(")[0])
def test_every_schema_has_a_kernel(schema):
    key = "CPU" if "Tensor" in schema else "CompositeExplicitAutograd"
    assert torch._C._dispatch_has_kernel_for_dispatch_key("acne_lab::" + schema.split("(")[0], key)
