"""Files of networks: ours, released ones and state dicts, read and refused."""

import json
import os
import zipfile

import pytest
import torch
from released_files import SMALL_D, SMALL_G, released_content, tf_discriminator, tf_generator, write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.weights import (
    build_network,
    build_released,
    read_networks,
    save_networks,
    shipped_weights,
)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    G, D = Generator(**SMALL_G), Discriminator(**SMALL_D)
    with torch.no_grad():
        for name, tensor in G.state_dict().items():
            if name.endswith(("noise_strength", "w_avg")):
                tensor.normal_()
    return {"G": G, "G_ema": Generator(**SMALL_G), "D": D}


def assert_same(read, network):
    assert read.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_our_file_rebuilds_its_networks(networks, tmp_path):
    path = tmp_path / "x.safetensors"
    save_networks(path, **networks)
    read = read_networks(path)
    assert set(read) == set(networks)
    for name, network in networks.items():
        assert_same(read[name], network)
        assert read[name].init_kwargs == network.init_kwargs
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    z, images = torch.randn(2, 8), torch.randn(2, 3, 16, 16)
    assert torch.equal(read["G"](z, noise_mode="const"), networks["G"](z, noise_mode="const"))
    assert torch.equal(read["D"](images), networks["D"](images))


def test_our_file_is_the_same_twice(networks, tmp_path):
    """Its bytes are in the keys of the runs that start from it."""
    for name in ("a", "b"):
        save_networks(tmp_path / f"{name}.safetensors", **networks)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert len(file.metadata()) == 1
        assert json.loads(file.metadata()["networks"])["G"]["img_resolution"] == 16


def test_half_precision_is_read_as_float(networks, tmp_path):
    path = tmp_path / "x.safetensors"
    save_networks(path, dtype=torch.float16, G_ema=networks["G"], D=networks["D"])
    assert load_file(path)["D.b4.out.weight"].dtype == torch.float16
    again = read_networks(path)["D"].b4.out.weight
    torch.testing.assert_close(again, networks["D"].b4.out.weight.half().float())


def test_a_file_without_arguments_is_read_by_its_shapes(networks, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({f"{n}.{k}": v for n, m in networks.items() for k, v in m.state_dict().items()}, path)
    assert_same(read_networks(path)["G_ema"], networks["G_ema"])


def test_the_shipped_weights_are_read():
    read = read_networks(shipped_weights("toy_faces_64"))
    assert set(read) == {"G_ema", "D"}
    assert read["G_ema"].init_kwargs["channel_base"] == 2048
    assert shipped_weights("nothing") is None


@pytest.mark.parametrize("flat", [False, True])
def test_a_released_pytorch_file_becomes_networks(networks, tmp_path, flat):
    content = released_content(networks["G"], networks["D"], flat=flat)
    read = read_networks(write(tmp_path / "x.pkl", content))
    assert set(read) == {"G", "D", "G_ema"}
    assert_same(read["G_ema"], networks["G"])
    assert_same(read["D"], networks["D"])
    assert read["D"].init_kwargs["mbstd_group_size"] == 2
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(read["D"](images), networks["D"](images))


def test_a_conditional_released_file_becomes_networks(tmp_path):
    G, D = Generator(**SMALL_G, c_dim=3), Discriminator(**SMALL_D, c_dim=3)
    read = read_networks(write(tmp_path / "x.pkl", released_content(G, D)))
    z, c = torch.randn(3, 8), torch.eye(3)
    assert torch.equal(read["G_ema"](z, c, noise_mode="const"), G(z, c, noise_mode="const"))


def test_a_tensorflow_file_becomes_networks(networks, tmp_path):
    G, D = networks["G"], networks["D"]
    content = (tf_generator(G), tf_discriminator(D), tf_generator(networks["G_ema"]))
    read = read_networks(write(tmp_path / "x.pkl", content))
    z, images = torch.randn(2, 8), torch.randn(2, 3, 16, 16)
    # A style's bias was stored less 1, and so rounded once.
    torch.testing.assert_close(read["G"](z, noise_mode="const"), G(z, noise_mode="const"))
    assert torch.equal(read["D"](images), D(images))
    assert_same(read["G_ema"].mapping, networks["G_ema"].mapping)


def test_released_tensors_must_fit_their_arguments(networks):
    state = dict(networks["D"].state_dict())
    arguments = {"c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 16}
    assert_same(build_released("D", arguments, state), networks["D"])
    state["b4.out.weight"] = torch.ones(2, 16)
    state["extra"] = state.pop("b4.out.bias")
    message = r"b4\.out\.bias is missing; extra is not part.*; b4\.out\.weight is \[2, 16\], not \[1, 16\]"
    with pytest.raises(ValueError, match=message):
        build_released("D", arguments, state)
    with pytest.raises(ValueError, match="colour"):
        build_network("D", {"colour": 1}, state)


def test_a_released_group_size_of_none_is_the_whole_batch(networks):
    state, arguments = networks["D"].state_dict(), {"img_resolution": 16, "channel_base": 128, "channel_max": 16}
    groups = ({"epilogue_kwargs": {"mbstd_group_size": size}} for size in (None, 8))
    whole, eight = (build_released("D", arguments | group, state) for group in groups)
    images = torch.randn(8, 3, 16, 16)
    assert torch.equal(whole(images), eight(images))


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": 1},
        {"num_mapping_layers": 10**12},
        {"img_resolution": 2**5000},
        {"img_resolution": "large"},
        {"img_resolution": 24},
        {"channel_base": -1},
        {"w_dim": 10**30},
        {"num_half_res": -(10**6)},
        {"num_half_res": 10**9},
    ],
)
def test_impossible_arguments_in_a_file(networks, tmp_path, wrong):
    path = tmp_path / "x.safetensors"
    tensors = {f"G_ema.{key}": tensor for key, tensor in networks["G"].state_dict().items()}
    save_file(tensors, path, {"networks": json.dumps({"G_ema": SMALL_G | wrong})})
    with pytest.raises(ValueError, match=r"x\.safetensors, G_ema: its (arguments|tensors)"):
        read_networks(path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"G_ema": 5}', "[" * 200_000])
def test_metadata_that_is_no_arguments(networks, tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file({f"G_ema.{key}": tensor for key, tensor in networks["G"].state_dict().items()}, path, {"networks": text})
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged"):
        read_networks(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("name", ["synthesis.b16.conv1.weight", "synthesis.b4.conv1.affine.weight", "mapping.w_avg"])
def test_a_number_where_a_tensor_should_be(networks, tmp_path, suffix, name):
    """What tells the arguments may have any shape in a file."""
    path = tmp_path / f"x.{suffix}"
    state = networks["G"].state_dict() | {name: torch.tensor(1.0)}
    if suffix == "pt":
        torch.save({"G_ema": state}, path)
    else:
        save_file({f"G_ema.{key}": tensor for key, tensor in state.items()}, path)
    with pytest.raises(ValueError, match=rf"x\.{suffix}, G_ema: its .*tensors"):
        read_networks(path)


# ---- .pt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("G", "D", "G_ema"), ("g", "d", "g_ema")])
def test_state_dicts_are_read(networks, tmp_path, names):
    torch.save({name: networks[ours].state_dict() for name, ours in zip(names, ("G", "D", "G_ema"))}, tmp_path / "x.pt")
    read = read_networks(tmp_path / "x.pt")
    assert set(read) == {"G", "D", "G_ema"}
    for name in read:
        assert_same(read[name], networks[name])


def test_a_generators_state_dict_alone_is_read(networks, tmp_path):
    torch.save(networks["G"].state_dict(), tmp_path / "x.pt")
    read = read_networks(tmp_path / "x.pt")
    assert set(read) == {"G_ema"}
    assert_same(read["G_ema"], networks["G"])


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_hostile_state_dict_does_not_run(tmp_path):
    torch.save({"G": Touch(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"asks for posix\.system.*refused") as caught:
        read_networks(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)  # no advice to switch the safety off
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_refused(networks, tmp_path):
    """100 MB of zeros, deflated."""
    torch.save({"G": networks["G"].state_dict()}, tmp_path / "good.pt")
    good = zipfile.ZipFile(tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in good.infolist():
            big = entry.filename.endswith("/data/0")
            archive.writestr(entry.filename, bytes(10**8) if big else good.read(entry))
    with pytest.raises(ValueError, match="unpack to more than its"):
        read_networks(tmp_path / "x.pt")


class Claim:
    """A tensor of a storage of four numbers."""

    def __init__(self, size, stride):
        self.size, self.stride = size, stride

    def __reduce__(self):
        storage = torch.storage.TypedStorage(wrap_storage=FOUR, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.size, self.stride, False, {})


FOUR = torch.ones(4).untyped_storage()


@pytest.mark.parametrize(("size", "stride"), [((2**30,), (0,)), ((2**30,), (1,)), ((4, 4), (2, 1))])
def test_tensors_larger_than_their_storage_are_refused(networks, tmp_path, size, stride):
    state = networks["G"].state_dict()
    state["mapping.w_avg"] = Claim((4,), (1,))
    torch.save({"G": state}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"w_avg is \[4\], not \[12\]"):  # that much is in order
        read_networks(tmp_path / "x.pt")
    state["mapping.w_avg"] = Claim(size, stride)
    torch.save({"G": state}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"claims tensors larger|storage that is not resizable"):
        read_networks(tmp_path / "x.pt")


def test_other_torch_files_say_what_is_in_them(tmp_path):
    for content, message in (
        ({"g_ema": {"style.1.weight": torch.ones(2, 2)}}, r"other names .*style\.1\.weight \[2, 2\]"),
        ({"g_ema": {5: torch.ones(2)}}, r"other names .*5 \[2\]"),
        ({"epoch": 3, "optimizer": {}}, "holds epoch, optimizer, but no G_ema"),
        ({"G": 5}, "no state dict"),
        ({"G": {"x": 1}}, "no state dict"),
        ([1], "holds a list"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            read_networks(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript"):
        read_networks(tmp_path / "script.pt")
    torch.save({}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"older than torch 1\.6"):
        read_networks(tmp_path / "old.pt")


# ---- wrong files -------------------------------------------------------------------------------


def test_wrong_safetensors(networks, tmp_path):
    path = tmp_path / "x.safetensors"
    save_networks(path, **networks)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:100], b"", b"text", b"\xff" * 8 + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.safetensors is damaged, cut short"):
            read_networks(path)
    save_file({"layer.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"holds layer\.weight"):
        read_networks(path)
    save_networks(path, D=networks["D"])
    with pytest.raises(ValueError, match=r"x\.safetensors holds no generator"):
        read_networks(path)


def test_missing_files_and_other_kinds(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_networks(tmp_path / "x.pkl")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be a \.safetensors, \.pkl, \.pt file"):
        read_networks(tmp_path / "photo.jpg")
