"""Writes files of the released forms out of our networks, for the readers' tests. All text in them is inert.

The forms are those that are documented: persistent objects that reduce to one function with (meta,), and
TensorFlow networks as 3-tuples of objects with a state. No module of theirs exists; each class and function here
only lends its name to the pickle, and the function fails if anything calls it.
"""

import json
import pickle
import sys
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
from torch import nn

from acne_lab.gan import Discriminator, Generator

# Names and shapes of nine released configurations, and the arguments of ours that they have.
FACTS = json.loads((Path(__file__).parent / "gan" / "stylegan2_param_shapes.json").read_text())
AUTO = {"channel_base": 16384, "num_mapping_layers": 2}
RELEASED = {
    "auto64": {"img_resolution": 64, **AUTO},
    "auto128": {"img_resolution": 128, **AUTO},
    "auto256": {"img_resolution": 256, **AUTO},
    "auto256_c4": {"img_resolution": 256, "c_dim": 4, **AUTO},
    "paper256": {"img_resolution": 256, "channel_base": 16384},
    "auto512": {"img_resolution": 512, "num_mapping_layers": 2},
    "stylegan2_1024": {"img_resolution": 1024},
    "cifar_c10": {"img_resolution": 32, "c_dim": 10, "num_mapping_layers": 2},
    "gray64": {"img_resolution": 64, "img_channels": 1, **AUTO},
}
SMALL_G = {
    "img_resolution": 16,
    "z_dim": 8,
    "w_dim": 12,
    "num_mapping_layers": 2,
    "channel_base": 128,
    "channel_max": 16,
    "conv_clamp": 256.0,
}
SMALL_D = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "conv_clamp": 256.0, "mbstd_group_size": 2}


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the function of the released code was called")


class EasyDict(dict):
    pass


class Network:
    def __init__(self, state):
        self.__dict__.update(state)


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"
Network.__module__ = "dnnlib.tflib.network"


class Persistent:
    """Pickles as a persistent module."""

    def __init__(self, meta):
        self.meta = meta

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


@contextmanager
def names_exist():
    """While pickling, the names above can be looked up where the released code has them."""
    modules = {name: ModuleType(name) for name in ("torch_utils", "dnnlib", "dnnlib.tflib")}
    for thing in (_reconstruct_persistent_obj, EasyDict, Network):
        module = modules.setdefault(thing.__module__, ModuleType(thing.__module__))
        setattr(module, thing.__name__, thing)
    with mock.patch.dict(sys.modules, modules):
        yield


def dumps(content, protocol: int = 4) -> bytes:
    with names_exist():
        return pickle.dumps(content, protocol=protocol)


def write(path: Path, content, protocol: int = 4) -> Path:
    path.write_bytes(dumps(content, protocol))
    return path


# ---- PyTorch -----------------------------------------------------------------------------------


def generator_arguments(*, flat: bool = False, **ours) -> EasyDict:
    """What a released file records of SMALL_G (and `ours`), its synthesis arguments in their dict or outside it."""
    given = {**SMALL_G, **ours}
    synthesis = {"channel_base": given["channel_base"], "channel_max": given["channel_max"], "num_fp16_res": 0}
    synthesis |= {"conv_clamp": given["conv_clamp"], "architecture": given.get("architecture", "skip")}
    arguments = EasyDict(
        c_dim=given.get("c_dim", 0),
        img_resolution=given["img_resolution"],
        img_channels=given.get("img_channels", 3),
        z_dim=given["z_dim"],
        w_dim=given["w_dim"],
        mapping_kwargs=EasyDict(num_layers=given["num_mapping_layers"]),
    )
    return EasyDict(**arguments, **synthesis) if flat else EasyDict(**arguments, synthesis_kwargs=EasyDict(synthesis))


def discriminator_arguments(**ours) -> EasyDict:
    given = {**SMALL_D, **ours}
    return EasyDict(
        c_dim=given.get("c_dim", 0),
        img_resolution=given["img_resolution"],
        img_channels=given.get("img_channels", 3),
        channel_base=given["channel_base"],
        channel_max=given["channel_max"],
        num_fp16_res=0,
        conv_clamp=given["conv_clamp"],
        architecture=given.get("architecture", "resnet"),
        cmap_dim=None,
        block_kwargs=EasyDict(freeze_layers=0),
        mapping_kwargs=EasyDict(),
        epilogue_kwargs=EasyDict(mbstd_group_size=given["mbstd_group_size"]),
    )


def persistent(module: nn.Module, init_kwargs: dict, source: str = "this is text", **state) -> Persistent:
    """A module as a released file holds it, each of its modules persistent itself."""
    meta = EasyDict(
        type="class",
        version=6,
        module_src=source,
        class_name=type(module).__name__,
        state={
            "training": False,
            "_parameters": OrderedDict(module._parameters),
            "_buffers": OrderedDict(module._buffers),
            "_non_persistent_buffers_set": set(),
            "_forward_hooks": OrderedDict(),
            "_modules": OrderedDict((name, persistent(m, {}, source)) for name, m in module._modules.items()),
            "_init_args": (),
            "_init_kwargs": init_kwargs,
            "act_gain": np.sqrt(2),
            **state,
        },
    )
    return Persistent(meta)


def released_content(G: Generator, D: Discriminator, *, flat: bool = False, **kwargs) -> dict:
    """What a PyTorch file holds."""
    return {
        "G": persistent(G, generator_arguments(flat=flat, c_dim=G.c_dim), **kwargs),
        "D": persistent(D, discriminator_arguments(c_dim=D.c_dim), **kwargs),
        "G_ema": persistent(G, generator_arguments(flat=flat, c_dim=G.c_dim), **kwargs),
        "augment_pipe": None,
        "training_set_kwargs": EasyDict(path="somewhere", max_size=np.int64(7), use_labels=False),
    }


# ---- TensorFlow --------------------------------------------------------------------------------


def array(tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def kernel(weight) -> np.ndarray:
    """OIHW -> HWIO."""
    return array(weight).transpose(2, 3, 1, 0).copy()


def modulated(scope: str, layer: nn.Module, *, flip: bool = False) -> list[tuple[str, np.ndarray]]:
    weight = kernel(layer.weight)
    return [
        (f"{scope}/weight", weight[::-1, ::-1].copy() if flip else weight),
        (f"{scope}/bias", array(layer.bias)),
        (f"{scope}/mod_weight", array(layer.affine.weight).T.copy()),
        (f"{scope}/mod_bias", array(layer.affine.bias) - 1),
    ]


def tf_generator(G: Generator, **static) -> Network:
    mapping, synthesis, noises = [], [("lod", np.float32(0))], []
    for i in range(G.mapping.num_layers):
        layer = getattr(G.mapping, f"fc{i}")
        mapping += [(f"Dense{i}/weight", array(layer.weight).T.copy()), (f"Dense{i}/bias", array(layer.bias))]
    for r in G.synthesis.resolutions:
        block, scope = getattr(G.synthesis, f"b{r}"), f"{r}x{r}"
        if r == 4:
            synthesis.append(("4x4/Const/const", array(block.const)[None]))
            layers = {"Conv": block.conv1}
        else:
            layers = {"Conv0_up": block.conv0, "Conv1": block.conv1}
        for name, layer in layers.items():
            synthesis += modulated(f"{scope}/{name}", layer, flip=name == "Conv0_up")
            synthesis.append((f"{scope}/{name}/noise_strength", array(layer.noise_strength)))
            noises.append(array(layer.noise_const)[None, None])
        synthesis += modulated(f"{scope}/ToRGB", block.torgb)
    synthesis += [(f"noise{i}", noise) for i, noise in enumerate(noises)]
    components = {"mapping": tf_network(mapping), "synthesis": tf_network(synthesis)}
    arguments = {
        "num_channels": G.img_channels,
        "resolution": G.img_resolution,
        "label_size": 0,
        "latent_size": SMALL_G["z_dim"],
        "dlatent_size": SMALL_G["w_dim"],
        "mapping_fmaps": SMALL_G["w_dim"],
        "mapping_layers": SMALL_G["num_mapping_layers"],
        "fmap_base": SMALL_G["channel_base"] // 2,
        "fmap_max": SMALL_G["channel_max"],
        "truncation_psi": 0.5,
        **static,
    }
    return tf_network([("dlatent_avg", array(G.mapping.w_avg))], arguments, components)


def tf_discriminator(D: Discriminator) -> Network:
    variables = []
    for r in D.resolutions:
        block, scope = getattr(D, f"b{r}"), f"{r}x{r}"
        layers = {"Conv0": block.conv0, "Conv1_down": block.conv1, "Skip": block.skip}
        if r == D.img_resolution:
            layers["FromRGB"] = block.fromrgb
        for name, layer in layers.items():
            variables.append((f"{scope}/{name}/weight", kernel(layer.weight)))
            if layer.bias is not None:
                variables.append((f"{scope}/{name}/bias", array(layer.bias)))
    variables += [("4x4/Conv/weight", kernel(D.b4.conv.weight)), ("4x4/Conv/bias", array(D.b4.conv.bias))]
    for name, layer in (("4x4/Dense0", D.b4.fc), ("Output", D.b4.out)):
        variables += [(f"{name}/weight", array(layer.weight).T.copy()), (f"{name}/bias", array(layer.bias))]
    arguments = {
        "num_channels": D.img_channels,
        "resolution": D.img_resolution,
        "label_size": 0,
        "fmap_base": SMALL_D["channel_base"] // 2,
        "fmap_max": SMALL_D["channel_max"],
        "mbstd_group_size": SMALL_D["mbstd_group_size"],
    }
    return tf_network(variables, arguments)


def tf_network(variables: list, static_kwargs: dict | None = None, components: dict | None = None) -> Network:
    return Network(
        {
            "version": 4,
            "name": "network",
            "static_kwargs": EasyDict(static_kwargs or {}),
            "components": EasyDict(components or {}),
            "build_module_src": "this is text",
            "build_func_name": "function",
            "variables": variables,
        }
    )
