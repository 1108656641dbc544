"""The augmentation pipe: exact cases, rates against p, double backward."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from acne_lab.gan.augment import SYM6, Augment

BLIT = ["xflip", "rotate90", "xint"]
GEOM = ["scale", "rotate", "aniso", "xfrac"]
COLOR = ["brightness", "contrast", "lumaflip", "hue", "saturation"]


def smooth_image(n=1, side=32):
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    image = torch.stack([torch.exp(-4 * ((x - 0.3) ** 2 + y**2)), x * 0.5, torch.cos(2 * y)])
    return image.expand(n, 3, side, side).clone()


def test_sym6_is_an_orthonormal_wavelet():
    h = torch.tensor(SYM6, dtype=torch.float64)
    assert h.sum() == pytest.approx(math.sqrt(2))
    for shift in range(0, 12, 2):
        assert (h[shift:] * h[: 12 - shift]).sum() == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-9)


def test_p_0_changes_nothing():
    images = smooth_image(2)
    assert torch.equal(Augment(**dict.fromkeys(BLIT + GEOM + COLOR, 1))(images), images)


def test_images_whose_gates_stay_closed_are_untouched():
    torch.manual_seed(0)
    images = smooth_image(64)
    out = Augment(p=0.2, rotate=1)(images)
    same = (out == images).flatten(1).all(dim=1)
    assert 0.6 < same.float().mean() < 0.95


def test_flip_and_quarter_turn_move_pixels():
    image = smooth_image(side=64)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    flipped = Augment(xflip=1)(image, percentile=0.75)
    torch.testing.assert_close(flipped[inner], image.flip(3)[inner], atol=0.03, rtol=0)
    turned = Augment(rotate90=1)(image, percentile=0.3)  # floor(4 * 0.3) = one quarter
    options = [torch.rot90(image, k, (2, 3)) for k in (1, 3)]
    assert min(float((turned - o)[inner].abs().max()) for o in options) < 0.03


@pytest.mark.parametrize("name", ["xint", "xfrac", "scale", "aniso"])
def test_the_median_of_a_symmetric_transform_is_the_identity(name):
    image = smooth_image(side=64)
    out = Augment(**{name: 1})(image, percentile=0.5)
    torch.testing.assert_close(out, image, atol=0.03, rtol=0)


def test_integer_translation():
    image = smooth_image(side=64)
    out = Augment(xint=1)(image, percentile=0.75)  # 0.0625 of 64 = 4 pixels
    moved = torch.roll(image, (4, 4), (2, 3))
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    torch.testing.assert_close(out[inner], moved[inner], atol=0.03, rtol=0)


def test_color_transforms_by_hand():
    image = smooth_image()
    brighter = Augment(brightness=1)(image, percentile=0.8413447)  # + one standard deviation
    torch.testing.assert_close(brighter, image + 0.2, atol=1e-4, rtol=1e-4)
    contrast = Augment(contrast=1)(image, percentile=0.8413447)
    torch.testing.assert_close(contrast, image * 2**0.5, atol=1e-4, rtol=1e-4)
    saturated = Augment(saturation=1)(image, percentile=0.8413447)
    gray = image.mean(dim=1, keepdim=True)
    torch.testing.assert_close(saturated, gray + 2 * (image - gray), atol=1e-4, rtol=1e-4)
    hue = Augment(hue=1)(image, percentile=5 / 6)  # a third of a turn permutes the channels
    assert any(torch.allclose(hue, image.roll(k, 1), atol=1e-5) for k in (1, 2))
    luma = Augment(lumaflip=1)(image, percentile=0.75)
    torch.testing.assert_close(luma, image - 2 * gray, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "share"), [("xflip", 0.5), ("rotate90", 0.75), ("brightness", 1.0), ("lumaflip", 0.5)]
)
def test_rates_follow_p(name, share):
    """Within 4 standard errors of p times the share of draws that change something."""
    torch.manual_seed(0)
    n, p = 4000, 0.4
    images = torch.rand(1, 3, 16, 16).expand(n, 3, 16, 16) - 0.5
    changed = (Augment(p=p, **{name: 1})(images) - images).abs().flatten(1).amax(dim=1) > 1e-5
    expected = p * share
    assert float(changed.float().mean()) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_double_backward_through_the_pipe():
    torch.manual_seed(0)
    pipe = Augment(**dict.fromkeys(BLIT + GEOM + COLOR, 1)).double()
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(3, 3 * 16 * 16, dtype=torch.float64)

    def few_outputs(x):  # a projection keeps the Jacobian small
        return probe @ torch.tanh(pipe(x, percentile=0.7)).flatten()

    assert gradcheck(few_outputs, images, nondet_tol=1e-9)
    assert gradgradcheck(few_outputs, images, nondet_tol=1e-9)


def test_gray_and_bad_channels():
    gray = torch.rand(2, 1, 16, 16)
    assert Augment(contrast=1, hue=1)(gray, percentile=0.6).shape == gray.shape
    with pytest.raises(ValueError, match="channels"):
        Augment(contrast=1)(torch.rand(1, 2, 16, 16), percentile=0.6)
    with pytest.raises(ValueError, match="p must be"):
        Augment(p=1.5)


def test_a_flat_image_stays_flat_to_the_border():
    torch.manual_seed(0)
    flat = torch.full((32, 3, 32, 32), 0.7)
    out = Augment(p=1.0, rotate=1, xint=1)(flat)
    torch.testing.assert_close(out, flat, atol=0.01, rtol=0)
