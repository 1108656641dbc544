"""Generator and discriminator: released names and shapes, modes, invariances."""

import pytest
import torch
from released_files import FACTS, RELEASED

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.layers import Mapping, minibatch_std

SMALL = {"img_resolution": 16, "channel_base": 128, "channel_max": 16}
SMALL_G = {**SMALL, "z_dim": 8, "w_dim": 12, "num_mapping_layers": 2}


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_are_the_released_ones(name):
    kwargs = dict(RELEASED[name])
    with torch.device("meta"):
        G = Generator(**kwargs)
        kwargs.pop("num_mapping_layers", None)
        D = Discriminator(**kwargs, architecture="orig" if name == "cifar_c10" else "resnet")
    for network, facts in ((G, FACTS[f"{name}.G"]), (D, FACTS[f"{name}.D"])):
        assert {k: list(p.shape) for k, p in network.named_parameters()} == facts["params"]
        assert {k: list(b.shape) for k, b in network.named_buffers()} == facts["buffers"]
        assert sum(p.numel() for p in network.parameters()) == facts["n_params"]


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("img_channels", [1, 3, 4])
def test_every_architecture_runs(architecture, c_dim, img_channels):
    G = Generator(**SMALL_G, architecture=architecture, c_dim=c_dim, img_channels=img_channels)
    D = Discriminator(**SMALL, architecture=architecture, c_dim=c_dim, img_channels=img_channels)
    c = torch.eye(3)[:2] if c_dim else None
    images = G(torch.randn(2, 8), c)
    assert images.shape == (2, img_channels, 16, 16)
    logits = D(images, c)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(p.grad is not None for n, p in D.named_parameters())


def test_half_precision_is_close_and_can_be_switched_off():
    torch.manual_seed(0)
    G = Generator(**SMALL_G, num_half_res=2)
    ws = G.mapping(torch.randn(2, 8)).detach()
    with torch.no_grad():
        full, half = G.synthesis(ws, "const", force_fp32=True), G.synthesis(ws, "const")
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.05 * float(full.std()), rtol=0)


def test_noise_modes():
    torch.manual_seed(0)
    G = Generator(**SMALL_G)
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.ones_(p)
    z = torch.randn(2, 8)
    assert torch.equal(G(z, noise_mode="const"), G(z, noise_mode="const"))
    assert torch.equal(G(z, noise_mode="none"), G(z, noise_mode="none"))
    assert not torch.equal(G(z, noise_mode="const"), G(z, noise_mode="none"))
    assert not torch.equal(G(z, noise_mode="random"), G(z, noise_mode="random"))
    with pytest.raises(ValueError, match="noise_mode"):
        G(z, noise_mode="loud")


def test_an_images_noise_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    G = Generator(**SMALL_G)
    z = torch.randn(3, 8)

    def rngs(numbers):
        return [torch.Generator().manual_seed(n) for n in numbers]

    together = G(z, rngs=rngs([5, 6, 7]))
    alone = torch.cat([G(z[i : i + 1], rngs=rngs([5 + i])) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_truncation():
    torch.manual_seed(0)
    mapping = Mapping(z_dim=8, c_dim=0, w_dim=12, num_ws=6, num_layers=2)
    mapping.w_avg.normal_()
    z = torch.randn(4, 8)
    ws = mapping(z)
    assert torch.equal(ws[:, 0], ws[:, 5])
    torch.testing.assert_close(mapping(z, truncation_psi=0)[1, 2], mapping.w_avg)
    torch.testing.assert_close(mapping(z, truncation_psi=0.5), mapping.w_avg + 0.5 * (ws - mapping.w_avg))
    cut = mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    assert not torch.equal(cut[:, :2], ws[:, :2])
    assert torch.equal(mapping(z, truncation_psi=0.5, truncation_cutoff=0), ws)
    for wrong in (-1, 7):
        with pytest.raises(ValueError, match=f"truncation_cutoff={wrong} must be from 0 to 6"):
            mapping(z, truncation_psi=0.5, truncation_cutoff=wrong)


def test_minibatch_std_by_hand():
    x = torch.randn(6, 2, 3, 3)
    y = minibatch_std(x, group_size=3)
    assert y.shape == (6, 3, 3, 3)
    for subset in range(2):  # every (6 / 3)-th image
        group = x[subset::2]
        expected = (group.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[subset::2, 2], expected.expand(3, 3, 3))
    assert torch.equal(minibatch_std(x, group_size=None), minibatch_std(x, group_size=6))  # the whole batch
    with pytest.raises(ValueError, match="groups"):
        minibatch_std(x, group_size=4)


@pytest.mark.parametrize("group_size", [0, -2, 1.5, "4"])
def test_odd_group_sizes_are_refused(group_size):
    with pytest.raises(ValueError, match="mbstd_group_size must be a whole number of at least 1"):
        Discriminator(**SMALL, mbstd_group_size=group_size)


@pytest.mark.parametrize("resolution", [4, 48, 0])
def test_odd_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="power of two"):
        Generator(**{**SMALL_G, "img_resolution": resolution})


def test_the_top_resolutions_are_computed_in_half_precision():
    for num_half_res, expected in ((0, []), (1, [16]), (2, [16, 8]), (4, [16, 8])):  # 4 px stays in float32
        G, D = Generator(**SMALL_G, num_half_res=num_half_res), Discriminator(**SMALL, num_half_res=num_half_res)
        assert [r for r in (16, 8, 4) if getattr(G.synthesis, f"b{r}").half] == expected
        assert [r for r in (16, 8) if getattr(D, f"b{r}").half] == expected


@pytest.mark.parametrize("num_half_res", [-1, 17, 1.5, "4"])
def test_odd_numbers_of_half_resolutions_are_refused(num_half_res):
    for network, size in ((Generator, SMALL_G), (Discriminator, SMALL)):
        with pytest.raises(ValueError, match=r"num_half_res must be a whole number from 0 to 16"):
            network(**size, num_half_res=num_half_res)


def test_a_conditional_network_wants_labels():
    with pytest.raises(ValueError, match="conditional"):
        Generator(**SMALL_G, c_dim=3)(torch.randn(1, 8))
