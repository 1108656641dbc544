"""Projection: finds a generated image again, keeps noise white, leaves the generator alone."""

import pytest
import torch

from acne_lab.gan import Generator
from acne_lab.gan.latent import seeded_z, w_statistics
from acne_lab.gan.projector import noise_buffers, noise_penalty, normalize_, project, ramped, render

TINY = {"img_resolution": 16, "channel_base": 256, "channel_max": 32, "z_dim": 8, "w_dim": 12, "num_mapping_layers": 2}


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(0)
    G = Generator(**TINY).eval().requires_grad_(False)
    for name, strength in G.synthesis.named_parameters():
        if name.endswith("noise_strength"):
            strength.fill_(0.01)
    return G


def pixel_distance(target):
    return lambda images: (images - target).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_generated_image_is_found_again(G, space):
    """Its distance falls to less than a fiftieth of the mean image's."""
    target = G(seeded_z([3], z_dim=8)[0], noise_mode="const")
    distance = pixel_distance(target)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    found = project(G, distance, space=space, num_steps=200)
    mean, _ = w_statistics(G)
    start = distance(G.synthesis(mean.expand(1, G.num_ws, -1), "const"))
    assert distance(found.image[None]) < start / 50
    assert found.ws.shape == (G.num_ws, 12)
    assert torch.equal(found.ws[0], found.ws[-1]) == (space == "w")
    assert torch.equal(render(G.synthesis, found.tensors["ws"], found.noise)[0], found.image)
    for maps in found.noise.values():
        assert maps.mean().abs() < 1e-5
        assert maps.square().mean() == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())


def test_the_curve_tells_every_step(G):
    target = torch.zeros(1, 3, 16, 16)
    found = project(G, pixel_distance(target), num_steps=20)
    assert [row["step"] for row in found.curve] == list(range(20))
    assert set(found.curve[0]) == {"step", "distance", "noise_penalty", "learning_rate"}
    assert found.curve[-1]["distance"] < found.curve[0]["distance"]
    again = project(G, pixel_distance(target), num_steps=20)
    assert torch.equal(again.ws, found.ws)
    assert not torch.equal(project(G, pixel_distance(target), num_steps=20, seed=1).ws, found.ws)


def test_a_conditional_generator_starts_from_its_class():
    torch.manual_seed(0)
    G = Generator(**TINY, c_dim=2).eval().requires_grad_(False)
    c = torch.tensor([0.0, 1.0])
    still = {"num_steps": 1}  # at step 0 the learning rate is 0
    distance = pixel_distance(torch.zeros(1, 3, 16, 16))
    for label in (None, c):
        mean, _ = w_statistics(G, label)
        assert torch.equal(project(G, distance, c=label, **still).ws[0], mean)
    assert not torch.equal(w_statistics(G)[0], w_statistics(G, c)[0])


@pytest.mark.parametrize(("options", "message"), [({"space": "z"}, "w or w+"), ({"num_steps": 0}, "at least 1")])
def test_bad_options(G, options, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        project(G, pixel_distance(0), **options)


def test_the_learning_rate_goes_up_and_down():
    assert ramped(0, 0.1) == 0
    assert ramped(0.025, 0.1) == pytest.approx(0.05)
    assert ramped(0.05, 0.1) == ramped(0.5, 0.1) == ramped(0.75, 0.1) == pytest.approx(0.1)
    assert ramped(0.875, 0.1) == pytest.approx(0.05)  # the middle of the cosine
    assert ramped(0.999, 0.1) < 1e-5


def test_noise_penalty_by_hand():
    """Rows of alternating sign correlate with -1 downwards and +1 sideways at full size; their 2 x 2 means are 0."""
    stripes = torch.tensor([1.0, -1.0]).repeat(8)[:, None].expand(16, 16)
    assert noise_penalty(stripes) == pytest.approx(2)
    assert noise_penalty(torch.ones(4, 4)) == pytest.approx(2)
    assert noise_penalty(torch.ones(16, 16)) == pytest.approx(2 + 2 * 2**4)  # means are doubled: values of 2 at 8 px


def test_white_noise_is_hardly_penalised():
    """Each correlation of n pixels has a variance of 1/n: the mean penalty over 200 maps of 8 px is 2/64 +- 5 sigma."""
    maps = torch.randn(200, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([noise_penalty(noise) for noise in maps]).mean()
    sigma = (2 * 2) ** 0.5 / 64 / 200**0.5  # a square of a normal number has a variance of 2; two of them
    assert abs(mean - 2 / 64) < 5 * sigma


def test_noise_is_normalised_in_place():
    noise = 3 + 2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    normalize_(noise)
    assert noise.mean().abs() < 1e-6
    assert noise.square().mean() == pytest.approx(1, abs=1e-5)


def test_every_layer_has_a_noise_map(G):
    assert sorted(len(maps) for maps in noise_buffers(G.synthesis).values()) == [4, 8, 8, 16, 16]
