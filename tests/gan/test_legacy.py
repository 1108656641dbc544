"""TensorFlow networks: names, layouts and arguments."""

import numpy as np
import pytest
import torch
from released_files import SMALL_D, SMALL_G, tf_discriminator, tf_generator

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.legacy import converted, converted_arguments, converted_tensors, source
from acne_lab.gan.weights import build_legacy


def variables(network) -> dict[str, np.ndarray]:
    """As `read_tf_network` gives them."""
    found = dict(network.variables)
    for name, component in network.components.items():
        found |= {f"{name}/{key}": value for key, value in component.variables}
    return found


@pytest.mark.parametrize("kind", ["G", "D"])
def test_every_tensor_arrives(kind):
    torch.manual_seed(0)
    network = Generator(**SMALL_G) if kind == "G" else Discriminator(**SMALL_D)
    tf = tf_generator(network) if kind == "G" else tf_discriminator(network)
    read = build_legacy(kind, tf.static_kwargs, variables(tf))
    assert read.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], tensor, msg=name)


def test_layouts():
    """An up-convolution by hand: HWIO, flipped; everything else is not."""
    hwio = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)
    up, same = (converted(f"synthesis.b8.{layer}.weight", hwio) for layer in ("conv0", "conv1"))
    assert up.shape == same.shape == (4, 2, 3, 3)
    assert up[3, 1, 0, 2] == hwio[2, 0, 1, 3]
    assert same[3, 1, 0, 2] == hwio[0, 2, 1, 3]
    assert converted("b8.conv0.weight", hwio)[3, 1, 0, 2] == hwio[0, 2, 1, 3]
    dense = np.arange(6.0).reshape(2, 3)
    assert converted("mapping.fc0.weight", dense)[2, 1] == dense[1, 2]
    assert converted("synthesis.b4.torgb.affine.bias", np.zeros(3)).tolist() == [1, 1, 1]
    assert converted("b4.out.bias", np.zeros(1)).tolist() == [0]


def test_noise_maps_are_numbered_from_the_lowest_layer():
    order = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0"]
    assert [source(f"synthesis.{layer}.noise_const") for layer in order] == [f"synthesis/noise{i}" for i in range(6)]


def test_names_may_carry_the_scope():
    names = ["mapping.fc0.bias", "b4.out.bias"]
    read = converted_tensors(
        names, {"G_mapping/Dense0/bias": np.ones(2), "Output/bias": np.zeros(1), "lod": np.ones(())}
    )
    assert read["mapping.fc0.bias"].tolist() == [1, 1]


def test_missing_and_left_over_variables_are_named():
    with pytest.raises(ValueError, match=r"missing Output/bias; left over 4x4/Const/StyleMod"):
        converted_tensors(["b4.out.bias"], {"4x4/Const/StyleMod": np.ones(2)})


def test_arguments():
    assert converted_arguments({"fmap_base": 8192, "resolution": 256, "fmap_decay": 1.0, "truncation_psi": 0.5}) == {
        "channel_base": 16384,
        "img_resolution": 256,
    }
    assert converted_arguments({})["channel_base"] == 32768
    for refused in ({"label_size": 10}, {"fmap_decay": 0.5}, {"mapping_fmaps": 64}, {"blur_filter": [1, 2, 1]}):
        [(name, value)] = refused.items()
        with pytest.raises(ValueError, match=name):
            converted_arguments({name: value})
