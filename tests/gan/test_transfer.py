"""Transfer into other networks: the function stays the same wherever it can, and the table says what happened."""

import math

import pytest
import torch

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.transfer import transfer
from acne_lab.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

SMALL_G = {
    "img_resolution": 16,
    "z_dim": 12,
    "w_dim": 16,
    "num_mapping_layers": 2,
    "channel_base": 256,
    "channel_max": 20,
}
SMALL_D = {"img_resolution": 16, "channel_base": 256, "channel_max": 20, "mbstd_group_size": 1}
FILTER = setup_filter((1, 3, 3, 1))


def trained(network):
    """Biases, noise strengths and averages as training leaves them: not zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("bias", "noise_strength", "w_avg")):
                tensor += 0.3 * torch.randn_like(tensor)
    return network


@pytest.fixture(scope="module")
def G():
    return trained(Generator(**SMALL_G))


@pytest.fixture(scope="module")
def D():
    return trained(Discriminator(**SMALL_D))


def started(network, source):
    done = transfer(network, source.state_dict())
    return network, {row.name: row for row in done.rows}, done


def test_the_same_network_is_loaded_whole(G, D):
    for source, kwargs in ((G, SMALL_G), (D, SMALL_D)):
        network, rows, done = started(type(source)(**kwargs), source)
        assert {row.fate for row in rows.values()} == {"loaded"}
        assert done.share == 1
        for name, tensor in source.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name


# ---- the function stays ------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"c_dim": 3}, {"channel_base": 512}, {"channel_max": 24}, {"w_dim": 20}, {}])
def test_a_generators_images_stay(G, change):
    other, rows, _ = started(Generator(**{**SMALL_G, **change}), G)
    z = torch.randn(3, SMALL_G["z_dim"])
    c = torch.eye(3) if "c_dim" in change else None
    expected = G(z, truncation_psi=0.5, noise_mode="const")
    torch.testing.assert_close(other(z, c, truncation_psi=0.5, noise_mode="const"), expected, atol=1e-4, rtol=1e-4)
    assert any(row.fate != "loaded" for row in rows.values()) == bool(change)


@pytest.mark.parametrize("times", [1, 2])
def test_a_grown_generator_gives_the_image_enlarged(G, times):
    other, rows, _ = started(Generator(**{**SMALL_G, "img_resolution": 16 * 2**times, "channel_base": 512}), G)
    z = torch.randn(2, SMALL_G["z_dim"])
    expected = G(z, noise_mode="const")
    for _ in range(times):
        expected = upsample2d(expected, FILTER)
    torch.testing.assert_close(other(z, noise_mode="const"), expected, atol=1e-4, rtol=1e-4)
    assert rows["synthesis.b32.torgb.weight"].note == "starts at zero"
    assert rows["synthesis.b32.conv0.weight"].fate == "initialised"
    assert other.synthesis.b32.conv0.weight.std() > 0.9


def test_a_cropped_generator_gives_the_lower_layers_image(G):
    other, rows, done = started(Generator(**{**SMALL_G, "img_resolution": 8}), G)
    z = torch.randn(2, SMALL_G["z_dim"])
    image = []
    G.synthesis.b8.register_forward_hook(lambda block, given, made: image.append(made[1]))
    G(z, noise_mode="const")
    torch.testing.assert_close(other(z, noise_mode="const"), image[0], atol=1e-5, rtol=1e-5)
    assert done.share == 1
    assert rows["synthesis.b16.conv1.weight"].fate == "unused"


@pytest.mark.parametrize("architecture", ["resnet", "orig", "skip"])
@pytest.mark.parametrize("change", [{"c_dim": 3}, {"channel_base": 512}, {"channel_max": 24}])
def test_a_discriminators_logits_stay(architecture, change):
    source = trained(Discriminator(**SMALL_D, architecture=architecture))
    other, _, _ = started(Discriminator(**{**SMALL_D, **change}, architecture=architecture), source)
    images = torch.randn(3, 3, 16, 16)
    c = torch.eye(3) if "c_dim" in change else None
    torch.testing.assert_close(other(images, c), source(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["resnet", "orig", "skip"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_grown_discriminator_gives_the_logits_of_the_reduced_image(architecture, times):
    source = trained(Discriminator(**SMALL_D, architecture=architecture))
    given = {**SMALL_D, "img_resolution": 16 * 2**times, "channel_base": 512}
    other, rows, _ = started(Discriminator(**given, architecture=architecture), source)
    images = reduced = torch.randn(3, 3, 16 * 2**times, 16 * 2**times)
    for _ in range(times):
        reduced = downsample2d(reduced, FILTER)
    torch.testing.assert_close(other(images), source(reduced), atol=1e-5, rtol=1e-4)
    if architecture != "skip":
        assert rows["b16.fromrgb.weight"].note == "went into b32.conv1"
        assert rows["b32.conv1.weight"].note == "hands the image on to b16"
    other(images).sum().backward()  # what starts at zero learns at once, in the 16 channels that b16 reads
    assert other.b32.conv1.weight.grad[:16].flatten(2).any(dim=2).all()


def test_labels_stay_when_classes_are_added():
    """Old labels give the old images and logits; the number of classes changes the embedding's gain."""
    z, images = torch.randn(2, SMALL_G["z_dim"]), torch.randn(2, 3, 16, 16)
    G, D = trained(Generator(**SMALL_G, c_dim=2)), trained(Discriminator(**SMALL_D, c_dim=2))
    more_G, rows, _ = started(Generator(**SMALL_G, c_dim=4), G)
    more_D, _, _ = started(Discriminator(**SMALL_D, c_dim=4), D)
    c, more_c = torch.eye(2), torch.eye(4)[:2]
    expected = G(z, c, noise_mode="const")
    torch.testing.assert_close(more_G(z, more_c, noise_mode="const"), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(more_D(images, more_c), D(images, c), atol=1e-5, rtol=1e-4)
    assert rows["mapping.embed.weight"].fate == "partly"
    assert more_G.mapping.embed.weight[:, 2:].std() > 0.7  # a new label is not silent
    fewer_G, _, _ = started(Generator(**SMALL_G, c_dim=1), G)
    torch.testing.assert_close(fewer_G.mapping(z[:1], torch.ones(1, 1)), G.mapping(z[:1], c[:1]))


def test_columns_of_the_same_class_are_joined():
    """The file knows four classes; the network two of them in another order, and one of its own."""
    source = trained(Generator(**SMALL_G, c_dim=4))
    network = Generator(**SMALL_G, c_dim=3)
    before = network.mapping.embed.weight.clone()
    done = transfer(network, source.state_dict(), same_classes=[(0, 3), (2, 1)])
    row = {row.name: row for row in done.rows}["mapping.embed.weight"]
    assert (row.fate, row.note, row.copied) == ("partly", "columns by class", 2 * 16)
    new, old = network.mapping.embed.weight, source.mapping.embed.weight * math.sqrt(3 / 4)
    torch.testing.assert_close(new, torch.stack([old[:, 3], before[:, 1], old[:, 1]], dim=1))


def test_without_names_of_classes_columns_are_joined_by_position():
    source = trained(Generator(**SMALL_G, c_dim=2))
    for same_classes, expected in (
        (None, ("loaded", "columns by position")),
        ([], ("initialised", "no class is the same")),
    ):
        done = transfer(Generator(**SMALL_G, c_dim=2), source.state_dict(), same_classes)
        row = {row.name: row for row in done.rows}["mapping.embed.weight"]
        assert (row.fate, row.note) == expected


# ---- one tensor by hand ------------------------------------------------------------------------


def test_more_inputs_join_at_zero_with_the_gain_made_up(G):
    other, rows, _ = started(Generator(**SMALL_G, c_dim=3), G)
    old, new = G.mapping.fc0.weight, other.mapping.fc0.weight
    torch.testing.assert_close(new[:, :12], old * math.sqrt((12 + 16) / 12))
    assert not new[:, 12:].any()
    assert (rows["mapping.fc0.weight"].fate, rows["mapping.fc0.weight"].copied) == ("partly", 12 * 16)


def test_new_outputs_are_initialised(G):
    other, _, _ = started(Generator(**{**SMALL_G, "channel_max": 24}), G)
    old, new = G.synthesis.b8.conv0, other.synthesis.b8.conv0
    assert torch.equal(new.weight[:16, :20], old.weight[:16, :20])  # demodulated: no gain
    assert not new.weight[:20, 20:].any()
    assert new.weight[20:].std() > 0.9
    assert torch.equal(new.affine.bias[:20], old.affine.bias)
    assert (new.affine.bias[20:] == 1).all()
    assert torch.equal(new.noise_const, old.noise_const)
    torgb = other.synthesis.b8.torgb.weight[:, :20] / G.synthesis.b8.torgb.weight
    torch.testing.assert_close(torgb, torch.full_like(torgb, math.sqrt(24 / 20)))


def test_fewer_inputs_keep_the_variance(D):
    """Stored weights stay; the layer's own gain does the rest. The map of the standard deviation stays last."""
    other, _, _ = started(Discriminator(**{**SMALL_D, "channel_max": 16}), D)
    assert torch.equal(other.b4.fc.weight, D.b4.fc.weight[:16, : 16 * 16])
    assert torch.equal(other.b4.conv.weight[:, :16], D.b4.conv.weight[:16, :16])
    assert torch.equal(other.b4.conv.weight[:, 16], D.b4.conv.weight[:16, 20])


def test_latent_codes_of_another_width(G):
    for z_dim in (8, 16):
        other, rows, _ = started(
            Generator(**{**SMALL_G, "z_dim": z_dim}, c_dim=2), trained(Generator(**SMALL_G, c_dim=2))
        )
        assert rows["mapping.fc0.weight"].copied == 16 * (min(z_dim, 12) + 16)
        assert other.mapping.fc0.weight[:, z_dim:].any(dim=0).all()  # the embedding's columns went along


def test_a_cropped_discriminator_keeps_its_fromrgb(D):
    other, rows, _ = started(Discriminator(**{**SMALL_D, "img_resolution": 8}), D)
    assert torch.equal(other.b8.fromrgb.weight[:16], D.b16.fromrgb.weight)
    assert rows["b8.fromrgb.weight"].note == "from b16.fromrgb"
    assert rows["b16.conv0.weight"].fate == "unused"


def test_labels_can_be_left_out():
    source = trained(Discriminator(**SMALL_D, c_dim=3))
    _, rows, _ = started(Discriminator(**SMALL_D), source)
    assert rows["b4.out.weight"].fate == "initialised"
    assert rows["mapping.embed.weight"].fate == "unused"


# ---- the table ---------------------------------------------------------------------------------


def test_the_table_lists_every_tensor_once(G):
    other = Generator(**{**SMALL_G, "img_resolution": 32})
    _, rows, done = started(other, G)
    assert len(done.rows) == len(rows)
    assert set(rows) == other.state_dict().keys() | G.state_dict().keys()
    for row in done.rows:
        assert (row.shape is None) == (row.fate == "unused")
        assert (row.file_shape is None) == (row.fate == "initialised")
    line = " ".join(str(rows["synthesis.b8.conv0.weight"]).split())
    assert line == "loaded synthesis.b8.conv0.weight [20, 20, 3, 3] [20, 20, 3, 3]"
    own = sum(p.numel() for p in other.parameters())
    assert done.share == pytest.approx(sum(p.numel() for p in G.parameters()) / own)
    assert str(done).startswith(f"{done.share:.0%} of the parameters")


def test_too_little_is_refused(G):
    with pytest.raises(ValueError, match=r"only \d+% of the network's parameters fit"):
        transfer(Generator(**{**SMALL_G, "channel_max": 64, "channel_base": 1024}), G.state_dict())
    with pytest.raises(ValueError, match="only 0%"):
        transfer(Generator(**SMALL_G), {"style.1.weight": torch.ones(3)})
