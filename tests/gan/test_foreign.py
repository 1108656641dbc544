"""Files under the other names: the same networks, and clear errors. The test names tensors by a list of its own."""

from argparse import Namespace

import pytest
import torch
from tiny import tiny_weights

from acne_lab.gan.weights import read_networks

SIDES = (8, 16)  # of the blocks after the first


def generator_file(G):
    """A generator's tensors as such a file holds them."""
    own, theirs = G.state_dict(), {}

    def layer(name, ours, *, noise):
        theirs[f"{name}.conv.weight"] = own[f"{ours}.weight"][None]
        theirs[f"{name}.conv.modulation.weight"] = own[f"{ours}.affine.weight"]
        theirs[f"{name}.conv.modulation.bias"] = own[f"{ours}.affine.bias"]
        theirs[f"{name}.activate.bias"] = own[f"{ours}.bias"]
        theirs[f"{name}.noise.weight"] = own[f"{ours}.noise_strength"].reshape(1)
        theirs[f"noises.noise_{noise}"] = own[f"{ours}.noise_const"][None, None]

    def to_rgb(name, ours):
        theirs[f"{name}.conv.weight"] = own[f"{ours}.weight"][None]
        theirs[f"{name}.conv.modulation.weight"] = own[f"{ours}.affine.weight"]
        theirs[f"{name}.conv.modulation.bias"] = own[f"{ours}.affine.bias"]
        theirs[f"{name}.bias"] = own[f"{ours}.bias"].reshape(1, 3, 1, 1)

    for i in (0, 1):
        for part in ("weight", "bias"):
            theirs[f"style.{i + 1}.{part}"] = own[f"mapping.fc{i}.{part}"]
    theirs["input.input"] = own["synthesis.b4.const"][None]
    layer("conv1", "synthesis.b4.conv1", noise=0)
    to_rgb("to_rgb1", "synthesis.b4.torgb")
    for i, side in enumerate(SIDES):
        layer(f"convs.{2 * i}", f"synthesis.b{side}.conv0", noise=1 + 2 * i)
        layer(f"convs.{2 * i + 1}", f"synthesis.b{side}.conv1", noise=2 + 2 * i)
        to_rgb(f"to_rgbs.{i}", f"synthesis.b{side}.torgb")
        theirs[f"convs.{2 * i}.conv.blur.kernel"] = theirs[f"to_rgbs.{i}.upsample.kernel"] = torch.ones(4, 4)
    return theirs


def discriminator_file(D):
    own = D.state_dict()
    theirs = {"convs.0.0.weight": own["b16.fromrgb.weight"], "convs.0.1.bias": own["b16.fromrgb.bias"]}
    for i, side in enumerate(reversed(SIDES), start=1):
        theirs[f"convs.{i}.conv1.0.weight"] = own[f"b{side}.conv0.weight"]
        theirs[f"convs.{i}.conv1.1.bias"] = own[f"b{side}.conv0.bias"]
        theirs[f"convs.{i}.conv2.0.kernel"] = theirs[f"convs.{i}.skip.0.kernel"] = torch.ones(4, 4)
        theirs[f"convs.{i}.conv2.1.weight"] = own[f"b{side}.conv1.weight"]
        theirs[f"convs.{i}.conv2.2.bias"] = own[f"b{side}.conv1.bias"]
        theirs[f"convs.{i}.skip.1.weight"] = own[f"b{side}.skip.weight"]
    theirs |= {"final_conv.0.weight": own["b4.conv.weight"], "final_conv.1.bias": own["b4.conv.bias"]}
    theirs |= {"final_linear.0.weight": own["b4.fc.weight"], "final_linear.0.bias": own["b4.fc.bias"]}
    return theirs | {"final_linear.1.weight": own["b4.out.weight"], "final_linear.1.bias": own["b4.out.bias"]}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Ours, with values in every tensor that starts as zeros or ones."""
    own = read_networks(tiny_weights(tmp_path_factory.mktemp("foreign") / "own.safetensors"))
    rng = torch.Generator().manual_seed(3)
    for network in own.values():
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return own


@pytest.fixture
def content(networks):
    G, D = generator_file(networks["G_ema"]), discriminator_file(networks["D"])
    return {"g": G, "g_ema": dict(G), "d": D, "g_optim": {"state": {}}, "args": Namespace(size=16, lr=0.002)}


def test_the_same_images_and_scores(networks, content, tmp_path):
    path = tmp_path / "020000.pt"
    torch.save(content, path)
    read = read_networks(path)
    assert set(read) == {"G", "G_ema", "D"}
    z = torch.randn(4, 16)
    for noise_mode in ("none", "const"):
        images = networks["G_ema"](z, noise_mode=noise_mode)
        torch.testing.assert_close(read["G_ema"](z, noise_mode=noise_mode), images)
    torch.testing.assert_close(read["D"](images), networks["D"](images))
    mean = networks["G_ema"].mapping(torch.randn(5000, 16))[:, 0].mean(dim=0)
    torch.testing.assert_close(read["G_ema"].mapping.w_avg, mean, atol=0.1, rtol=0)


def test_files_without_noise_get_some_that_stays(content, tmp_path):
    path = tmp_path / "old.pt"
    old = {name: tensor for name, tensor in content["g_ema"].items() if not name.startswith("noises.")}
    torch.save({"g_ema": old}, path)
    one, other = (read_networks(path)["G_ema"].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["synthesis.b16.conv1.noise_const"].std() > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("convs.1.conv.weight"), r"G_ema: convs\.1\.conv\.weight is missing"),
        (lambda g: g.update({"convs.9.conv.weight": torch.ones(1)}), r"no place for convs\.9\.conv\.weight"),
        (lambda g: g.update({"conv1.activate.bias": torch.ones(3)}), r"conv1\.bias is \[3\], not"),
        (lambda g: g.update({"input.input": torch.ones([])}), "G_ema: its tensors are not those"),
        (
            lambda g: g.update({"style.1.weight": torch.ones(100_000, 1)}),
            "G_ema: its tensors are not those",
        ),
    ],
)
def test_what_does_not_fit_is_named(content, tmp_path, change, message):
    change(content["g_ema"])
    torch.save({"g_ema": content["g_ema"]}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        read_networks(tmp_path / "x.pt")
