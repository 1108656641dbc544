"""The refiner's networks: what they may look at, and what they may change."""

import pytest
import torch

from acne_lab.edit.networks import Inpainter, PatchDiscriminator, composite

SIZE = {"width": 4, "num_down": 2, "num_blocks": 1}


def painter(**arguments):
    torch.manual_seed(0)
    G = Inpainter(**SIZE, **arguments).eval()
    torch.nn.init.normal_(G.leave.weight, std=0.1)
    return G


def batch(n=2, side=16):
    torch.manual_seed(1)
    photo, overlaid = torch.rand(2, n, 3, side, side) * 2 - 1
    mask = torch.zeros(n, 1, side, side)
    mask[:, :, 4:9, 5:11] = 1
    return photo, overlaid, mask, torch.randn(n, 1, side, side)


@pytest.mark.parametrize("conditioned", [True, False])
def test_only_the_mask_is_painted(conditioned):
    photo, overlaid, mask, noise = batch()
    painted = painter(conditioned=conditioned)(photo, overlaid, mask, noise)
    outside = (mask == 0).expand_as(photo)
    assert torch.equal(painted[outside], photo[outside])
    assert (painted[~outside] != photo[~outside]).all()
    assert torch.equal(composite(photo, overlaid, torch.zeros_like(mask)), photo)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_photograph_under_the_mask_is_not_looked_at(conditioned):
    G, (photo, overlaid, mask, noise) = painter(conditioned=conditioned), batch()
    other = torch.where(mask.bool(), torch.rand_like(photo), photo)
    assert torch.equal(G.paint(photo, overlaid, mask, noise), G.paint(other, overlaid, mask, noise))
    assert not torch.equal(G.paint(photo, overlaid, mask, noise), G.paint(photo, overlaid, mask, -noise))


def test_the_drawn_lesions_are_a_condition_or_are_not():
    photo, overlaid, mask, noise = batch()
    for conditioned in (True, False):
        G = painter(conditioned=conditioned)
        same = torch.equal(G.paint(photo, overlaid, mask, noise), G.paint(photo, -overlaid, mask, noise))
        assert same == (not conditioned)


def test_before_training_it_leaves_the_overlay_as_it_is():
    photo, overlaid, mask, noise = batch()
    assert torch.equal(Inpainter(**SIZE)(photo, overlaid, mask, noise), composite(photo, overlaid, mask))


def test_every_parameter_learns():
    G = painter()
    G.train()(*batch()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in G.parameters())


def test_upsampling_leaves_no_checkerboard():
    """A flat input makes a flat output but for the grain's place, at random weights; transposed ones would not."""
    G = painter()
    flat = torch.full((1, 3, 32, 32), 0.3)
    painted = G.paint(flat, flat, torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))
    inner = painted[0, :, 8:-8, 8:-8]
    assert (inner - inner.mean(dim=(1, 2), keepdim=True)).abs().max() < 1e-5


def test_the_discriminators_patches():
    """A score depends on so many pixels."""
    torch.manual_seed(0)
    for num_down, width in ((1, 8), (2, 18), (3, 38)):
        images = torch.randn(1, 3, 64, 64, requires_grad=True)
        logits, features = PatchDiscriminator(width=4, num_down=num_down)(images)
        n = 64 // 2**num_down
        assert logits.shape == (1, 1, n, n)
        assert len(features) == num_down + 1
        (grad,) = torch.autograd.grad(logits[0, 0, n // 2, n // 2], images)
        rows, columns = (grad[0].abs().sum(dim=0) > 0).nonzero(as_tuple=True)
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (width, width)


def test_sizes_beyond_all_reason_are_refused():
    with pytest.raises(ValueError, match=r"model\.G\.num_blocks=1000000000 must be from 1 to 64"):
        Inpainter(num_blocks=10**9)


def test_the_discriminator_starts_with_features_that_do_not_fade():
    scores, features = PatchDiscriminator(width=16, num_down=3)(torch.randn(4, 3, 64, 64))
    assert all(0.3 < layer.std() < 3 for layer in features) and scores.std() > 0.3
