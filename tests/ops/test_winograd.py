"""Winograd's convolution: values against float64, derivatives, and where it runs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import LAYOUTS, assert_near, images
from torch.utils._python_dispatch import TorchDispatchMode

from acne_lab.ops import extension
from acne_lab.ops.check import derivatives, relative_error
from acne_lab.ops.convolution import conv2d, conv_transpose2d

ops = torch.ops.acne_lab
ROUNDINGS = 3  # of an operator's tolerance: what the transforms add
NHWC = torch.channels_last
SHAPE = (3, 32, 14, 16)  # of the images, and
WEIGHT = (64, 32, 3, 3)  # of the weight of a convolution that is served


@pytest.fixture(autouse=True)
def kernels():
    try:
        extension.native(torch.device("cpu"), "native")
    except RuntimeError as problem:
        pytest.skip(str(problem))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def assert_exact(x, weight, transposed):
    plain = F.conv_transpose2d if transposed else F.conv2d
    y = ops.cpu_winograd_conv2d(x, weight, transposed)
    assert_near(y, plain(x.double(), weight.double(), padding=1), torch.float32, roundings=ROUNDINGS)
    assert y.is_contiguous(memory_format=NHWC)


@given(
    n=st.integers(0, 3),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    transposed=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_values(n, channels, size, layouts, transposed):
    x = images((n, channels[0], *size), torch.float32, layouts[0])
    pair = channels if transposed else channels[::-1]
    assert_exact(x, images((*pair, 3, 3), torch.float32, layouts[1], seed=1), transposed)


@pytest.mark.parametrize("transposed", [False, True])
def test_values_of_many_channels_and_tiles(transposed):
    """More than the blocks that the kernels work in."""
    channels = (300, 136)
    x = images((3, channels[0], 18, 17), torch.float32, "NHWC")
    assert_exact(x, images((*(channels if transposed else channels[::-1]), 3, 3), torch.float32, "NHWC"), transposed)


def test_does_not_read_beyond_the_images():
    """What lies around them in memory, here NaN, plays no part."""
    around = torch.full((3, 6, 6, 19), float("nan")).permute(0, 3, 1, 2)
    around[1] = torch.randn(19, 6, 6)
    y = ops.cpu_winograd_conv2d(around[1:2], torch.randn(5, 19, 3, 3), False)
    assert y.isfinite().all()


@pytest.mark.parametrize(("n", "side"), [(1, 6), (3, 24)], ids=["few tiles", "many tiles"])
def test_threads_do_not_change_the_result(n, side, threads):
    x, weight = images((n, 40, side, side), torch.float32, "NHWC"), torch.randn(130, 40, 3, 3)
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(ops.cpu_winograd_conv2d(x, weight, False))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("weight", [(8, 5, 3, 3), (8, 6, 3, 4), (8, 6, 1, 1)])
def test_a_weight_of_another_shape_is_refused(weight):
    with pytest.raises(ValueError, match="weight must have shape"):
        ops.cpu_winograd_conv2d(torch.randn(1, 6, 8, 8), torch.randn(weight), False)


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="float32 is needed"):
        ops.cpu_winograd_conv2d(torch.randn(1, 6, 8, 8).double(), torch.randn(8, 6, 3, 3).double(), False)


@pytest.mark.parametrize(("ours", "theirs"), [(conv2d, F.conv2d), (conv_transpose2d, F.conv_transpose2d)])
def test_first_and_second_gradient(ours, theirs):
    channels = WEIGHT[0] if ours is conv_transpose2d else WEIGHT[1]
    x = images((SHAPE[0], channels, *SHAPE[2:]), torch.float32, "NHWC")
    weight = images(WEIGHT, torch.float32, "NHWC", seed=1)
    y = theirs(x, weight, padding=1)
    weights = [images(like.shape, torch.float32, "NHWC", seed=2 + i) for i, like in enumerate((y, x, weight))]
    with Calls() as calls:
        got = derivatives(lambda x, w: ours(x, w, padding=1).square(), (x, weight), weights)
    doubles = [[a.double() for a in tensors] for tensors in ((x, weight), weights)]
    expected = derivatives(lambda x, w: theirs(x, w, padding=1).square(), *doubles)
    assert max(map(relative_error, got, expected)) < 1e-5
    assert {transposed for name, (_, _, transposed) in calls.of_convolutions if "winograd" in name} == {False, True}


class Calls(TorchDispatchMode):
    """Notes the convolutions that run inside, and their arguments."""

    def __init__(self):
        super().__init__()
        self.of_convolutions = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (ops.cpu_winograd_conv2d.default, torch.ops.aten.convolution.default):
            self.of_convolutions.append((str(func), args))
        return func(*args, **(kwargs or {}))


def is_served(x, weight, **kwargs):
    with Calls() as calls, torch.no_grad():
        conv2d(x, weight, **kwargs)
    ((name, _),) = calls.of_convolutions
    return "winograd" in name


def test_serves_wide_layers():
    x, weight = torch.randn(SHAPE).contiguous(memory_format=NHWC), torch.randn(WEIGHT)
    assert is_served(x, weight, padding=1)
    with extension.use("reference"):
        assert not is_served(x, weight, padding=1)


@pytest.mark.parametrize(
    "change",
    [
        {"padding": 0},
        {"stride": 2},
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16},
        {"memory_format": torch.contiguous_format},
        {"weight": (64, 32, 1, 1)},
        {"weight": (48, 32, 3, 3)},
        {"shape": (3, 32, 13, 16)},
        {"shape": (3, 32, 14, 15)},
        {"shape": (7, 32, 8, 8)},
    ],
    ids=str,
)
def test_leaves_the_rest_to_the_library(change):
    settings = {"padding": 1, "stride": 1, "dtype": torch.float32, "memory_format": NHWC, "weight": WEIGHT}
    settings = {**settings, "shape": SHAPE, **change}
    x = torch.randn(settings["shape"]).to(settings["dtype"], memory_format=settings["memory_format"])
    weight = torch.randn(settings["weight"]).to(settings["dtype"])
    assert not is_served(x, weight, padding=settings["padding"], stride=settings["stride"])
