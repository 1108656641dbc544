"""The augmentation pipe: exact cases, a plain reference, rates against p, double backward, and how p is steered.

Statistics are held to 4 standard errors.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from acne_lab.gan import Augment, Discriminator, Generator
from acne_lab.gan.augment import BAND_POWER, SYM2, SYM6, Draws, octave_bands
from acne_lab.gan.module import StyleGAN2
from acne_lab.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

BLIT = ["xflip", "rotate90", "xint"]
GEOM = ["scale", "rotate", "aniso", "xfrac"]
COLOR = ["brightness", "contrast", "lumaflip", "hue", "saturation"]
CORRUPT = ["imgfilter", "noise", "cutout"]
ALL = dict.fromkeys(BLIT + GEOM + COLOR + CORRUPT, 1)
ONE_SIGMA = 0.8413447  # the percentile of a normal distribution's mean plus one standard deviation


def smooth_image(n=1, side=32):
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    image = torch.stack([torch.exp(-4 * ((x - 0.3) ** 2 + y**2)), x * 0.5, torch.cos(2 * y)])
    return image.expand(n, 3, side, side).clone()


def assert_rate(share, expected, n):
    assert float(share) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def assert_normal(values, std):
    """Mean 0, that standard deviation, and as many within one of it as a normal distribution has."""
    values = values.double().flatten()
    n = len(values)
    assert float(values.mean()) == pytest.approx(0, abs=4 * std / math.sqrt(n))
    assert float(values.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * n))
    assert_rate((values.abs() < std).double().mean(), 0.6827, n)


def assert_any_angle(cos, sin):
    """A uniform angle: both means 0, variance 1/2; and the double angle's too."""
    n = len(cos)
    for moment in (cos, sin, cos * cos - sin * sin, 2 * cos * sin):
        assert float(moment.mean()) == pytest.approx(0, abs=4 * math.sqrt(0.5 / n))


# ---- wavelets and bands ------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [SYM2, SYM6])
def test_wavelets_are_orthonormal(taps):
    h = torch.tensor(taps, dtype=torch.float64)
    assert h.sum() == pytest.approx(math.sqrt(2))
    for shift in range(0, len(h), 2):
        assert (h[shift:] * h[: len(h) - shift]).sum() == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-9)


def test_octave_bands_split_the_frequencies():
    bands = octave_bands().double()
    assert bands.shape == (4, 43)
    torch.testing.assert_close(bands, bands.flip(1), rtol=0, atol=1e-7)  # no shift
    impulse = F.one_hot(torch.tensor(21), 43).double()
    torch.testing.assert_close(bands.sum(dim=0), impulse, rtol=0, atol=1e-7)

    def low(w):  # |H|^2 / 2 of the wavelet with two vanishing moments
        return torch.cos(w / 2) ** 4 * (1 + 2 * torch.sin(w / 2) ** 2)

    w = torch.linspace(0, math.pi, 65, dtype=torch.float64)
    response = bands @ torch.cos(torch.arange(-21, 22).double()[:, None] * w)
    lower = [low(w), low(w) * low(2 * w), low(w) * low(2 * w) * low(4 * w)]
    expected = torch.stack([lower[2], lower[1] - lower[2], lower[0] - lower[1], 1 - lower[0]])
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-6)


# ---- what is changed, and what is left alone ---------------------------------------------------


def test_what_is_switched_on_changes_every_image_unless_p_says_otherwise():
    images = smooth_image(20)
    assert (Augment(brightness=1)(images) != images).flatten(1).any(dim=1).all()


def test_p_0_changes_nothing():
    images = smooth_image(2)
    assert Augment(p=0.0, **ALL)(images) is images


def test_images_whose_gates_stay_closed_are_untouched_to_the_bit():
    """All transforms on: the share of untouched images is the product of every transform's own."""
    torch.manual_seed(0)
    n, p, side = 1000, 0.05, 24
    images = (torch.rand(1, 3, side, side) - 0.5).expand(n, -1, -1, -1)
    out = Augment(p=p, **ALL)(images)
    shares = [0.5, 0.75, 35 / 36, *[1] * 6, 0.5, *[1] * 8]  # the filter counts four times, for its bands
    untouched = math.prod(1 - p * share for share in shares)
    assert_rate((out == images).flatten(1).all(dim=1).float().mean(), untouched, n)


def test_a_flat_image_stays_flat_to_the_border():
    torch.manual_seed(0)
    flat = torch.full((32, 3, 32, 32), 0.7)
    out = Augment(p=1.0, rotate=1, xint=1)(flat)
    torch.testing.assert_close(out, flat, atol=0.01, rtol=0)


# ---- geometry ----------------------------------------------------------------------------------


def reference_warp(images, inverse):
    """In so many words: reflect as far as can be, upsample, sample with zeros outside, downsample, crop."""
    side, pad, border = images.shape[-1], images.shape[-1] - 1, 8
    lowpass = setup_filter(SYM6)
    big = upsample2d(F.pad(images, (pad,) * 4, mode="reflect"), lowpass)
    at = (torch.arange(-2 * border, 2 * (side + border)) + 0.5) / side - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    source = torch.einsum("nij,hwj->nhwi", inverse, torch.stack([x, y, torch.ones_like(x)], dim=-1))
    grid = source[..., :2] * (side / (side + 2 * pad))
    sampled = F.grid_sample(big, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return downsample2d(sampled, lowpass, flip_filter=True)[:, :, border:-border, border:-border]


@pytest.mark.parametrize("side", [4, 21, 32])
@pytest.mark.parametrize("zoom", [1.3, 0.25], ids=["usual", "looks beyond the reflection"])
def test_warping_equals_the_plain_reference(side, zoom):
    torch.manual_seed(0)
    pipe = Augment(p=1.0, **dict.fromkeys(BLIT + GEOM, 1))
    inverse = pipe._geometry(Draws(8, None), side) @ torch.diag(torch.tensor([1 / zoom, 1 / zoom, 1.0]))
    images = torch.randn(8, 2, side, side)
    expected = reference_warp(images, inverse)
    torch.testing.assert_close(pipe._warp(images, inverse), expected, atol=1e-4, rtol=1e-4)
    for one in torch.arange(8).split(1):  # each with the margin that it needs itself
        torch.testing.assert_close(pipe._warp(images[one], inverse[one]), expected[one], atol=1e-4, rtol=1e-4)


def test_flip_and_quarter_turn_move_pixels():
    image = smooth_image(side=64)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    flipped = Augment(xflip=1)(image, percentile=0.75)
    torch.testing.assert_close(flipped[inner], image.flip(3)[inner], atol=0.03, rtol=0)
    turned = Augment(rotate90=1)(image, percentile=0.3)  # floor(4 * 0.3) = one quarter
    options = [torch.rot90(image, k, (2, 3)) for k in (1, 3)]
    assert min(float((turned - o)[inner].abs().max()) for o in options) < 0.03


@pytest.mark.parametrize("name", ["xint", "xfrac", "scale", "aniso", "brightness", "contrast", "saturation"])
def test_the_median_of_a_symmetric_transform_is_the_identity(name):
    image = smooth_image(side=64)
    assert torch.equal(Augment(**{name: 1})(image, percentile=0.5), image)


def test_integer_translation_is_lossless():
    image = torch.rand(1, 3, 64, 64)
    out = Augment(xint=1)(image, percentile=0.75)  # 0.0625 of 64 = 4 pixels
    torch.testing.assert_close(out[:, :, 4:, 4:], image[:, :, :-4, :-4], atol=5e-5, rtol=0)


def test_distributions_of_the_geometry():
    torch.manual_seed(0)
    n, side = 40_000, 64

    def inverse(name):
        return Augment(p=1.0, **{name: 1})._geometry(Draws(n, None), side)

    m = inverse("xflip")
    assert_rate((m[:, 0, 0] < 0).float().mean(), 0.5, n)
    m = inverse("rotate90")
    quarters = torch.atan2(m[:, 1, 0], m[:, 0, 0]) / (math.pi / 2)
    for k in range(4):
        assert_rate((quarters.round() % 4 == k).float().mean(), 0.25, n)
    pixels = inverse("xint")[:, :2, 2] * (side / 2)
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)
    for k in range(-8, 9):  # the two ends are rounded to from one side only
        assert_rate((pixels.round() == k).float().mean(), 1 / 32 if abs(k) == 8 else 1 / 16, 2 * n)
    m = inverse("scale")
    assert torch.equal(m[:, 0, 0], m[:, 1, 1])
    assert_normal(m[:, 0, 0].log2(), 0.2)
    m = inverse("aniso")
    torch.testing.assert_close(m[:, 0, 0] * m[:, 1, 1], torch.ones(n))
    assert_normal(m[:, 0, 0].log2(), 0.2)
    m = inverse("rotate")
    assert_any_angle(m[:, 0, 0], m[:, 1, 0])
    shift = inverse("xfrac")[:, :2, 2] / 2
    assert_normal(shift, 0.125)
    assert float((shift[:, 0] * shift[:, 1]).mean()) == pytest.approx(0, abs=4 * 0.125**2 / math.sqrt(n))


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_one_of_the_two_rotations_happens_with_probability_p(p):
    """With a stretch between them the rotation on either side shows in the matrix M = R S R'."""
    torch.manual_seed(0)
    n = 20_000
    m = Augment(p=p, rotate=1, aniso=1 / p)._geometry(Draws(n, None), 64)[:, :2, :2]
    turned = [((m @ m.mT)[:, 0, 1].abs() > 1e-5), ((m.mT @ m)[:, 0, 1].abs() > 1e-5)]
    for one in turned:
        assert_rate(one.float().mean(), 1 - math.sqrt(1 - p), n)
    assert_rate((turned[0] | turned[1]).float().mean(), p, n)


# ---- colour ------------------------------------------------------------------------------------


def test_color_transforms_by_hand():
    image = smooth_image()
    brighter = Augment(brightness=1)(image, percentile=ONE_SIGMA)
    torch.testing.assert_close(brighter, image + 0.2, atol=1e-4, rtol=1e-4)
    contrast = Augment(contrast=1)(image, percentile=ONE_SIGMA)
    torch.testing.assert_close(contrast, image * 2**0.5, atol=1e-4, rtol=1e-4)
    saturated = Augment(saturation=1)(image, percentile=ONE_SIGMA)
    gray = image.mean(dim=1, keepdim=True)
    torch.testing.assert_close(saturated, gray + 2 * (image - gray), atol=1e-4, rtol=1e-4)
    hue = Augment(hue=1)(image, percentile=5 / 6)  # 2/3 pi: a third of a turn permutes the channels
    torch.testing.assert_close(hue, image.roll(1, 1), atol=1e-5, rtol=1e-5)
    luma = Augment(lumaflip=1)(image, percentile=0.75)
    torch.testing.assert_close(luma, image - 2 * gray, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_colour_transforms():
    """Brightness before contrast before luma flip: gray v becomes -(v + b) s."""
    gray = smooth_image()[:, :1].expand(-1, 3, -1, -1)
    out = Augment(**dict.fromkeys(COLOR, 1))(gray, percentile=ONE_SIGMA)
    torch.testing.assert_close(out, -(gray + 0.2) * 2**0.5, atol=1e-4, rtol=1e-4)


def test_distributions_of_the_colours():
    torch.manual_seed(0)
    n = 40_000

    def colored(name, rgb):  # one pixel is enough
        return Augment(p=1.0, **{name: 1})(torch.tensor(rgb)[None, :, None, None].expand(n, -1, -1, -1))[:, :, 0, 0]

    out = colored("brightness", [0.0, 0.0, 0.0])
    assert torch.equal(out[:, 0], out[:, 2])
    assert_normal(out[:, 0], 0.2)
    out = colored("contrast", [0.5, -0.25, 1.0])
    assert_normal(out[:, 2].log2(), 0.5)
    torch.testing.assert_close(out[:, 0], out[:, 2] / 2)
    out = colored("lumaflip", [0.5, 0.5, 0.5])
    assert_rate((out[:, 0] < 0).float().mean(), 0.5, n)
    out = colored("hue", [1.0, 0.0, -1.0])  # at right angles to the gray axis, length sqrt(2)
    across = (2 * out[:, 1] - out[:, 0] - out[:, 2]) / math.sqrt(6)
    assert_any_angle((out[:, 0] - out[:, 2]) / 2, across / math.sqrt(2))
    out = colored("saturation", [1.0, 0.0, -1.0])
    assert_normal(out[:, 0].log2(), 1.0)


def test_gray_images_are_rgb_images_of_three_equal_channels():
    gray = smooth_image()[:, :1]
    pipe = Augment(**dict.fromkeys(COLOR, 1))
    rgb = pipe(gray.expand(-1, 3, -1, -1), percentile=0.8)
    torch.testing.assert_close(pipe(gray, percentile=0.8), rgb[:, :1], atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)  # hue and saturation do not exist for gray
    assert torch.equal(Augment(p=1.0, hue=1, saturation=1)(gray), gray)


def test_alpha_keeps_out_of_colours_and_follows_the_rest():
    rgba = torch.rand(2, 4, 32, 32)
    out = Augment(**dict.fromkeys(COLOR, 1))(rgba, percentile=0.7)
    assert torch.equal(out[:, 3], rgba[:, 3])
    assert torch.equal(out[:, :3], Augment(**dict.fromkeys(COLOR, 1))(rgba[:, :3], percentile=0.7))
    pipe = Augment(**(ALL | dict.fromkeys(COLOR, 0)))
    as_color = pipe(rgba[:, [3, 3, 3]], percentile=0.7)
    torch.testing.assert_close(pipe(rgba, percentile=0.7)[:, 3], as_color[:, 0])


# ---- corruption --------------------------------------------------------------------------------


def test_the_filter_equals_padding_and_convolving():
    torch.manual_seed(0)
    images, gains = torch.randn(3, 2, 22, 22), torch.rand(3, 4) * 2
    kernels = gains @ octave_bands()
    expected = []
    for image, k in zip(images, kernels, strict=True):
        padded = F.pad(image[:, None], (21,) * 4, mode="reflect")  # channels as the batch
        expected.append(F.conv2d(F.conv2d(padded, k[None, None, None]), k[None, None, :, None])[:, 0])
    torch.testing.assert_close(Augment()._amplify(images, gains), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_gains_by_hand():
    """At one standard deviation every band is doubled once; each time, the power expected is restored."""
    gains = Augment(imgfilter=1)._gains(Draws(1, ONE_SIGMA))[0]
    doubled = [math.sqrt(1 + 3 * power) for power in BAND_POWER]
    assert gains.tolist() == pytest.approx([2 / math.prod(doubled)] * 4, rel=1e-5)
    flat = torch.full((1, 3, 32, 32), 0.5)  # the lowest band, once along each axis
    out = Augment(imgfilter=1)(flat, percentile=ONE_SIGMA)
    torch.testing.assert_close(out, flat * gains[0] ** 2, atol=1e-5, rtol=1e-5)


def test_the_four_bands_are_gated_one_by_one():
    """Gains of two bands are the same number where both gates are closed: with probability (1 - p)^2."""
    torch.manual_seed(0)
    n, p = 20_000, 0.3
    pipe = Augment(p=p, imgfilter=1)
    gains = pipe._gains(Draws(n, None))
    for i in range(4):
        for j in range(i):
            assert_rate((gains[:, i] == gains[:, j]).float().mean(), (1 - p) ** 2, n)
    assert_rate((gains == 1).all(dim=1).float().mean(), (1 - p) ** 4, n)
    pipe.p = 1.0
    gains = pipe._gains(Draws(n, None))
    assert_normal((gains[:, 0] / gains[:, 3]).log2(), math.sqrt(2))  # of two numbers ~ N(0, 1)


def test_one_amplified_band_keeps_the_expected_power():
    torch.manual_seed(0)
    gains = Augment(p=0.02, imgfilter=1)._gains(Draws(20_000, None))
    one_open = (gains[:, :, None] == gains[:, None, :]).sum(dim=(1, 2)) == 10  # three alike: 9 pairs and itself
    assert one_open.sum() > 500
    power = gains[one_open].square() @ torch.tensor(BAND_POWER)
    torch.testing.assert_close(power, torch.ones_like(power), atol=1e-5, rtol=0)


def test_distribution_of_the_noise():
    torch.manual_seed(0)
    n = 20_000
    noise = Augment(p=1.0, noise=1)(torch.zeros(n, 1, 16, 16)).flatten(1)
    sigma = noise.square().mean(dim=1).sqrt()
    # |N(0, 0.1^2)|: second moment 0.01; the 256 pixels of an image add little to its own spread
    assert float(sigma.square().mean()) == pytest.approx(0.01, abs=4 * 0.01 * math.sqrt(2.1 / n))
    assert_rate((sigma < 0.1).float().mean(), 0.6827, n)
    white = noise / sigma[:, None]
    neighbours = (white[:, 1:] * white[:, :-1]).mean()
    assert float(neighbours) == pytest.approx(0, abs=4 / math.sqrt(n * 255))


def test_distribution_of_the_cutout():
    torch.manual_seed(0)
    n, side = 10_000, 16
    cut = Augment(p=1.0, cutout=1)(torch.ones(n, 2, side, side)) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    rows, columns = cut[:, 0].any(dim=2), cut[:, 0].any(dim=1)
    assert torch.equal(cut[:, 0], rows[:, :, None] & columns[:, None, :])  # a rectangle
    at = (torch.arange(side) + 0.5) / side
    covered = (at + 0.25).clamp(max=1) - (at - 0.25).clamp(min=0)  # by a square with its centre anywhere
    for hits in (rows, columns):
        for i in range(side):
            assert_rate(hits[:, i].float().mean(), float(covered[i]), n)
    middle = Augment(cutout=1)(torch.ones(1, 1, side, side), percentile=0.5)
    assert (middle == 0).sum() == 64 and (middle[:, :, 4:12, 4:12] == 0).all()


# ---- all of them -------------------------------------------------------------------------------

SHARES = {"xflip": 0.5, "rotate90": 0.75, "xint": 35 / 36, "lumaflip": 0.5}  # 24 px move by up to 3; others: 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("p", "multiplier"), [(0.4, 1), (0.9, 0.5)])
def test_rates_follow_p(name, p, multiplier):
    """p times the multiplier times the share of draws that change something."""
    torch.manual_seed(0)
    n = 1500
    images = (torch.rand(1, 3, 24, 24) + 0.5).expand(n, -1, -1, -1)
    changed = (Augment(p=p, **{name: multiplier})(images) != images).flatten(1).any(dim=1)
    rate = p * multiplier
    expected = 1 - (1 - rate) ** 4 if name == "imgfilter" else rate * SHARES.get(name, 1)
    assert_rate(changed.float().mean(), expected, n)


def test_a_percentile_gives_the_same_images_every_time():
    images = torch.rand(2, 3, 24, 24)
    out = [Augment(p=p, **ALL)(images, percentile=0.7) for p in (0.0, 0.3)]
    assert torch.equal(*out)
    assert not torch.equal(out[0], images)
    assert not torch.equal(out[0], Augment(**ALL)(images, percentile=0.6))
    without_noise = Augment(**(ALL | {"noise": 0}))(images, percentile=0.7)
    assert torch.equal(out[0], without_noise)
    for name in set(ALL) - {"noise"}:
        assert not torch.equal(Augment(**{name: 1})(images, percentile=0.7), images), name


@pytest.mark.parametrize("p", [1.0, 0.05], ids=["all images change", "some images change"])
def test_double_backward_through_the_pipe(p):
    """All transforms, the noise too. Projections of images and outputs keep the Jacobian small."""
    torch.manual_seed(0)
    pipe = Augment(p=p, **ALL).double()
    base, *directions = torch.randn(7, 3, 3, 24, 24, dtype=torch.float64)
    directions = torch.stack(directions)
    probe = torch.randn(3, base.numel(), dtype=torch.float64) / 10

    def few(x):
        torch.manual_seed(1)  # the same draws every time
        images = base + (x[:, None, None, None, None] * directions).sum(dim=0)
        return probe @ torch.tanh(pipe(images)).flatten()

    torch.manual_seed(1)
    untouched = int((pipe(base) == base).flatten(1).all(dim=1).sum())
    assert untouched in ({0} if p == 1 else {1, 2})
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(few, x)
    assert gradgradcheck(few, x)


def test_bad_images_and_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="not for 2 channels"):
        Augment(contrast=1)(torch.rand(1, 2, 16, 16))
    with pytest.raises(ValueError, match="more than 21 px, not 21"):
        Augment(imgfilter=1)(torch.rand(1, 3, 21, 21))
    with pytest.raises(ValueError, match="square to be augmented, not 16 x 8"):
        Augment(xflip=1)(torch.rand(1, 3, 16, 8))
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="p must be in"):
            Augment(p=p)


# ---- how training steers p ---------------------------------------------------------------------


def tiny_gan(**kwargs):
    size = {"img_resolution": 8, "channel_base": 32, "channel_max": 4}
    return StyleGAN2(
        G=Generator(z_dim=4, w_dim=4, num_mapping_layers=1, **size),
        D=Discriminator(mbstd_group_size=1, **size),
        augment=kwargs.pop("augment", None) or Augment(p=0.0, xflip=1),
        optimizer=partial(torch.optim.Adam, lr=0.0025, betas=(0.0, 0.99)),
        **kwargs,
    )


def steer(model, logits, batch_size=50):
    """One update of p after ada_interval batches of these real logits."""
    model.sign_sum += torch.tensor(logits).sign().sum()
    model.sign_count += len(logits)
    model.update_ada(batch_size)


@pytest.fixture
def gan():
    model = tiny_gan(ada_kimg=10.0)
    model.recorded = {}
    model.record = lambda name, value: model.recorded.update({name: float(value)})
    return model


def test_p_goes_to_1_in_ada_kimg_and_back_and_no_further(gan):
    updates = 10_000 // (50 * gan.ada_interval)  # ada_kimg thousand images
    for _ in range(updates - 1):
        steer(gan, [1.0, 2.0])
    assert gan.augment.p == pytest.approx(1 - 1 / updates)
    for _ in range(3):
        steer(gan, [1.0, 2.0])
        assert gan.augment.p == pytest.approx(1.0, abs=1e-9)
    assert gan.augment.p == 1.0  # not beyond
    for _ in range(updates - 1):
        steer(gan, [1.0, -1.0, 1.0, 1.0])  # r_t = 0.5 is below the target
    assert gan.augment.p == pytest.approx(1 / updates)
    for _ in range(3):
        steer(gan, [-1.0])
    assert gan.augment.p == 0.0


def test_r_t_is_the_mean_sign_since_the_last_update(gan):
    gan.augment.p = 0.5
    steer(gan, [3.0, 0.1, 5.0, 0.2, -9.0])  # 4 up, 1 down: exactly the target of 0.6
    assert gan.recorded["ada/r_t"] == pytest.approx(0.6)
    assert gan.augment.p == 0.5
    steer(gan, [-0.1])
    assert gan.recorded["ada/r_t"] == -1.0
    assert gan.augment.p == pytest.approx(0.5 - 200 / 10_000)


def watch(model, p, num_batches, batch_size=50):
    model.augment.p = p
    for _ in range(num_batches):
        model.watch_leak(batch_size)


def test_p_above_the_safe_limit_for_long_is_said_once(gan, recwarn):
    """Long: a fifth of ada_kimg, 2,000 images or 40 batches, without a break."""
    watch(gan, 0.81, 39)
    watch(gan, 0.8, 1)
    watch(gan, 1.0, 39)
    assert not recwarn.list
    assert gan.recorded["ada/leak"] == 0
    with pytest.warns(UserWarning, match="above 0.8 for 2 kimg"):
        watch(gan, 1.0, 1)
    assert gan.recorded["ada/leak"] == 1
    recwarn.clear()
    watch(gan, 0.9, 100)
    assert not recwarn.list
    assert gan.recorded["ada/leak"] == 1
    watch(gan, 0.7, 1)
    assert gan.recorded["ada/leak"] == 0


def test_p_and_the_watch_are_in_the_checkpoint(gan, tmp_path):
    gan.augment.p = 0.123
    gan.images_above_safe_p = 1900
    steer_sums = torch.tensor(3.0), torch.tensor(8.0)
    gan.sign_sum.copy_(steer_sums[0])
    gan.sign_count.copy_(steer_sums[1])
    checkpoint = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")

    other = tiny_gan(ada_kimg=10.0)
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    other.load_state_dict(loaded["state_dict"])
    other.on_load_checkpoint(loaded)
    assert other.augment.p == 0.123
    assert other.images_above_safe_p == 1900
    assert (other.sign_sum, other.sign_count) == steer_sums
