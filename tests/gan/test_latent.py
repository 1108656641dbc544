"""Ways through the latent spaces: seeds, arcs, splines, mixing, SeFa."""

import math

import pytest
import torch

from acne_lab.gan import Generator
from acne_lab.gan.latent import (
    affine_layers,
    closed_arcs,
    closed_spline,
    mix_styles,
    seeded_z,
    sefa_directions,
    slerp,
    w_statistics,
    walk,
)

TINY = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "z_dim": 8, "w_dim": 12, "num_mapping_layers": 2}


@pytest.fixture
def G():
    torch.manual_seed(0)
    return Generator(**TINY).eval().requires_grad_(False)


def test_a_seeds_image_depends_on_it_alone(G):
    together, rngs = seeded_z([5, 77, 6], z_dim=8)
    alone, [rng] = seeded_z([77], z_dim=8)
    assert torch.equal(together[1:2], alone)
    torch.testing.assert_close(G(together, rngs=rngs)[1:2], G(alone, rngs=[rng]), atol=1e-5, rtol=1e-5)
    assert not torch.equal(seeded_z([77], z_dim=8, seed=1)[0], alone)


def test_slerp_runs_on_the_circle():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    t = torch.linspace(0, 1, 5)
    angle = t * math.pi / 2
    expected = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    torch.testing.assert_close(slerp(a, b, t), expected)
    torch.testing.assert_close(slerp(a, 3 * b, t).norm(dim=1), torch.linspace(2, 6, 5))


def test_slerp_between_equal_points_stands_still():
    a = torch.randn(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, a.clone(), torch.linspace(0, 1, 3)), a.expand(3, -1))


def test_closed_arcs_pass_the_keys_at_even_speed():
    keys = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    frames = closed_arcs(keys, 4)
    assert frames.shape == (12, 16)
    torch.testing.assert_close(frames[::4], keys)
    unit = torch.nn.functional.normalize(frames, dim=1)
    angles = torch.arccos((unit * unit.roll(-1, dims=0)).sum(dim=1)).reshape(3, 4)
    torch.testing.assert_close(angles, angles.mean(dim=1, keepdim=True).expand(-1, 4), atol=1e-4, rtol=0)


def test_closed_spline_passes_the_keys_without_a_jerk():
    """Between knots the second derivative is linear: in one of n steps it changes by at most 2/n of its maximum."""
    keys = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n = 50
    frames = closed_spline(keys, n)
    assert frames.shape == (4 * n, 3)
    torch.testing.assert_close(frames[::n], keys)
    acceleration = frames.roll(-1, dims=0) - 2 * frames + frames.roll(1, dims=0)  # around the seam too
    change = (acceleration.roll(-1, dims=0) - acceleration).abs()
    assert change.max() <= 2.05 * acceleration.abs().max() / n


def test_mixing_takes_the_chosen_layers():
    a, b = torch.zeros(2, 6, 4), torch.ones(2, 6, 4)
    mixed = mix_styles(a, b, [0, 4])
    assert mixed[0, :, 0].tolist() == [1, 0, 0, 0, 1, 0]
    assert torch.equal(a, torch.zeros(2, 6, 4))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_affine_layers_are_those_that_read_the_row(architecture):
    G = Generator(**TINY, architecture=architecture)
    read = {}
    affines = [affine for row in affine_layers(G.synthesis) for affine in row]
    for affine in affines:
        affine.register_forward_pre_hook(lambda module, args: read.setdefault(module, set()).add(float(args[0].mean())))
    rows = torch.arange(G.num_ws).float()[None, :, None].expand(1, -1, 12)
    G.synthesis(rows)
    assert {name for name, _ in G.synthesis.named_modules() if name.endswith("affine")} == {
        name for name, module in G.synthesis.named_modules() if module in read
    }
    for i, row in enumerate(affine_layers(G.synthesis)):
        assert row
        assert all(read[affine] == {float(i)} for affine in row)


@pytest.mark.parametrize("layers", [None, [0, 1], [5]])
def test_sefa_directions_change_the_styles_most(G, layers):
    directions, eigenvalues = sefa_directions(G.synthesis, 12, layers=layers)
    torch.testing.assert_close(directions @ directions.T, torch.eye(12), atol=1e-5, rtol=0)
    assert (eigenvalues[:-1] >= eigenvalues[1:]).all()
    readers = affine_layers(G.synthesis)
    affines = [affine for i in (layers or range(G.num_ws)) for affine in readers[i]]

    def change(n):
        """||A n||^2, measured on the layers themselves."""
        return sum((affine(n) - affine(torch.zeros_like(n))).square().sum(dim=1) for affine in affines)

    torch.testing.assert_close(change(directions), eigenvalues, atol=1e-4, rtol=1e-4)
    others = torch.nn.functional.normalize(torch.randn(100, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    assert change(others).max() < eigenvalues[0]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    assert (directions.gather(1, largest) > 0).all()


def test_walk_moves_the_chosen_layers():
    ws = torch.zeros(6, 4)
    direction = torch.tensor([0.0, 1.0, 0.0, 0.0])
    moved = walk(ws, direction, torch.tensor([-2.0, 0.0, 2.0]), layers=[1])
    assert moved.shape == (3, 6, 4)
    assert moved[:, 1, 1].tolist() == [-2, 0, 2]
    assert moved.abs().sum() == 4
    assert torch.equal(walk(ws, direction, torch.tensor([3.0]))[0], 3 * direction.expand(6, -1))


@torch.no_grad()
def test_w_statistics():
    torch.manual_seed(0)
    G = Generator(**TINY, c_dim=2)
    z = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    of_class = [G.mapping(z, torch.eye(2)[[i]].expand(1000, -1))[:, 0] for i in range(2)]
    mean, sigma = w_statistics(G, torch.tensor([0.0, 1.0]), num_samples=1000)
    torch.testing.assert_close(mean, of_class[1].mean(dim=0))
    assert sigma == pytest.approx(float((of_class[1] - mean).norm(dim=1).square().mean().sqrt()))
    mean, _ = w_statistics(G, num_samples=1000)
    by_turns = torch.stack([of_class[0][0::2], of_class[1][1::2]])
    torch.testing.assert_close(mean, by_turns.mean(dim=(0, 1)))
