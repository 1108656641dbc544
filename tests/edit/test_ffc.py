"""Fast Fourier convolutions against their definition."""

import numpy as np
import pytest
import torch

from acne_lab.edit.ffc import FastFourierConv, FourierBlock, FourierUnit, SpectralTransform


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)])
def test_shapes(size):
    x = torch.randn(2, 8, *size)
    assert FourierUnit(8)(x).shape == SpectralTransform(8, 8)(x).shape == x.shape
    assert SpectralTransform(8, 6)(x).shape == (2, 6, *size)
    assert FourierBlock(8, ratio_global=0.75)(x).shape == x.shape


def test_the_unit_is_a_convolution_of_the_spectrum():
    """Against NumPy's FFT, real and imaginary parts as channels."""
    torch.manual_seed(0)
    unit = FourierUnit(2).double().eval()
    unit.norm.running_mean.uniform_(-1, 1)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    spectrum = np.fft.rfft2(x[0].numpy(), norm="ortho")
    parts = np.concatenate([spectrum.real, spectrum.imag]) - 0
    mixed = np.einsum("oc,chw->ohw", unit.conv.weight[:, :, 0, 0].detach().numpy(), parts)
    mixed = (mixed - unit.norm.running_mean.numpy()[:, None, None]) / np.sqrt(1 + unit.norm.eps)
    mixed = np.maximum(mixed, 0)
    expected = np.fft.irfft2(mixed[:2] + 1j * mixed[2:], s=(4, 5), norm="ortho")
    np.testing.assert_allclose(unit(x)[0].detach().numpy(), expected, atol=1e-12)


def test_derivatives_of_the_spectral_transform():
    torch.manual_seed(0)
    transform = SpectralTransform(2, 4).double()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, x)
    assert torch.autograd.gradgradcheck(transform, x)


def test_one_layer_sees_the_whole_image():
    """A pixel of the output depends on the opposite corner; of ordinary 3x3 convolutions it would not."""
    torch.manual_seed(0)
    layer = FastFourierConv(8, ratio_global=0.75).eval()
    x = torch.randn(1, 8, 32, 32, requires_grad=True)
    y = layer(x)
    assert layer.num_local == 2
    (of_global,) = torch.autograd.grad(y[0, 2:, 0, 0].sum(), x, retain_graph=True)
    (of_local,) = torch.autograd.grad(y[0, :2, 0, 0].sum(), x)
    assert (of_global[0, 2:, 20:, 20:].abs().sum(dim=0) > 0).mean(dtype=float) > 0.8  # ReLU silences some
    assert (of_global[0, :2, 2:, 2:] == 0).all()  # f_lg is a 3x3 convolution ...
    assert (of_local[0, :, 2:, 2:] == 0).all()  # ... and so are f_l and f_gl


def test_a_part_without_channels_is_refused():
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="leaves one part empty"):
            FastFourierConv(8, ratio_global=ratio)
