"""Networks in files: ours (safetensors), released ones (.pkl) and state dicts (.pt). Reading one executes nothing.

Ours holds the tensors of G_ema, D and, if there is one, G under `NETWORK.NAME`, and in its metadata each network's
constructor arguments, so that it is all that is needed to build them again.
"""

import json
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from acne_lab.gan.arguments import from_released, from_tensors
from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.foreign import is_foreign, renamed
from acne_lab.gan.generator import Generator
from acne_lab.gan.legacy import converted_arguments, converted_tensors
from acne_lab.gan.released import DAMAGE, read_released

NETWORKS_FILE = "networks.safetensors"
NETWORKS = {"G": Generator, "G_ema": Generator, "D": Discriminator}
SUFFIXES = (".safetensors", ".pkl", ".pt")
MAX_MAPPING_LAYERS = 64  # a file that asks for a billion would never be through
METADATA_KEY = "networks"  # one key: several would be written in any order, and runs are named by a file's bytes


def shipped_weights(name: str) -> Path | None:
    """The weights file of that name that comes with the package (e.g. `toy_faces_64`), if there is one."""
    path = Path(__file__).parent / "pretrained" / f"{name}.safetensors"
    return path if path.exists() else None


# ---- our own file ------------------------------------------------------------------------------


def save_networks(path: Path, *, dtype: torch.dtype | None = None, **networks: nn.Module) -> None:
    """Write networks, named G_ema, D or G, to one file, aside and renamed; `dtype` converts, None keeps theirs."""
    assert set(networks) <= set(NETWORKS)
    tensors = {
        f"{name}.{key}": tensor.to("cpu", dtype or tensor.dtype).clone(memory_format=torch.contiguous_format)
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
    metadata = {METADATA_KEY: json.dumps({name: network.init_kwargs for name, network in networks.items()})}
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside, metadata)
    aside.replace(path)


def _read_safetensors(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Any]]]:
    """State dicts and constructor arguments by network; older files have no arguments."""
    networks: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - it is not a dict
                name, _, rest = key.partition(".")
                if name not in NETWORKS:
                    raise ValueError(f"{path} holds {key}: not a file of G_ema and D, as `acne-lab train` writes it")
                networks.setdefault(name, {})[rest] = file.get_tensor(key).float()
            arguments = json.loads(metadata.get(METADATA_KEY, "{}"))
            return networks, {name: dict(arguments[name]) for name in arguments}
    except (SafetensorError, json.JSONDecodeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} is damaged, cut short or no .safetensors file ({error}): copy it again") from error


# ---- any file ----------------------------------------------------------------------------------


def read_networks(path: Path) -> dict[str, nn.Module]:
    """The networks of a .safetensors, .pkl or .pt file, built: "G_ema" and, as far as it has them, "G" and "D".

    A file with G alone gives it as G_ema.

    Raises:
        ValueError: there is no such file, it is damaged or hostile, or holds other networks than StyleGAN2's.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a {', '.join(SUFFIXES)} file: networks are not read from {path.suffix}")
    networks = {}
    if path.suffix == ".pkl":
        source, released = read_released(path)
        build = {"pytorch": build_released, "tensorflow": build_legacy}[source]
        for name, (init_kwargs, tensors) in released.items():
            with blame(path, name):
                networks[name] = build(kind_of(name), init_kwargs, tensors)
    else:
        states, arguments = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_state_dicts(path), {})
        for name, state in states.items():
            with blame(path, name):
                state = renamed(kind_of(name), state) if is_foreign(state) else state
                init_kwargs = arguments.get(name) or from_tensors(kind_of(name), state)
                networks[name] = build_network(kind_of(name), init_kwargs, state)
    if not networks.keys() & {"G", "G_ema"}:
        raise ValueError(f"{path} holds no generator")
    if "G_ema" not in networks:
        networks["G_ema"] = networks.pop("G")
    return networks


def kind_of(name: str) -> str:
    return "D" if name == "D" else "G"


@contextmanager
def blame(path: Path, name: str) -> Iterator[None]:
    """Say which network of which file was wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, {name}: {error}") from error


def build_released(kind: str, init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """A "G" or "D" from the constructor arguments that a released PyTorch file records, and its tensors.

    Raises:
        ValueError: an argument asks for what our networks do not do, or names or shapes do not match.
    """
    return build_network(kind, from_released(kind, init_kwargs), state)


def build_legacy(kind: str, static_kwargs: Mapping[str, Any], variables: Mapping[str, np.ndarray]) -> nn.Module:
    """A "G" or "D" from the static arguments and the variables of a TensorFlow file; errors as in `build_released`."""
    init_kwargs = from_released(kind, converted_arguments(static_kwargs))
    names = list(empty_network(kind, init_kwargs).state_dict())
    return build_network(kind, init_kwargs, converted_tensors(names, variables))


def build_network(kind: str, init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """A "G" or "D" of our constructor's arguments with these tensors, which it takes over: all of them, no other.

    Raises:
        ValueError: an argument is unknown, or names or shapes do not match.
    """
    network = empty_network(kind, init_kwargs)
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not part of the network" for name in state if name not in own]
    wrong += [
        f"{name} is {list(state[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"its tensors do not fit the network that its arguments describe: {'; '.join(wrong[:5])}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return network


def empty_network(kind: str, init_kwargs: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its tensors, which are to be replaced."""
    try:
        if init_kwargs.get("num_mapping_layers", 8) > MAX_MAPPING_LAYERS:
            raise ValueError(f"at most {MAX_MAPPING_LAYERS} mapping layers")
        with torch.device("meta"):
            return NETWORKS[kind](**init_kwargs)
    except (*DAMAGE, RuntimeError) as error:
        raise ValueError(f"its arguments are not those of our networks ({error})") from error


def _read_state_dicts(path: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts of a torch.save file: under G, G_ema, D (or g, g_ema, d), or one generator's alone.

    Raises:
        ValueError: the file holds more than tensors, is damaged, or would unpack to more than its own size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (*DAMAGE, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of torch.save, is older than torch 1.6, or damaged ({error})") from error
    size = path.stat().st_size
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"{path} would unpack to more than its {size} bytes: refused")
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ValueError(f"{path} is a TorchScript program: give the file that it was made from")
    try:
        with torch.serialization.safe_globals([Namespace]):  # training options, kept as data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, RuntimeError) as error:
        name = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's message is advice to run it all the same
        what = f"asks for {name[1]}, which a weights file does not need" if name else f"cannot be read ({error})"
        raise ValueError(f"{path} {what}: refused, nothing was run") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not state dicts")
    if any(str(name).startswith("synthesis.") for name in content):
        content = {"G_ema": content}
    ours = {"g": "G", "g_ema": "G_ema", "d": "D"}
    states = {ours[str(name).lower()]: state for name, state in content.items() if str(name).lower() in ours}
    if not states:
        raise ValueError(f"{path} holds {', '.join(map(str, content))[:300]}, but no G_ema, G or D")
    for name, state in states.items():
        tensors = state.values() if isinstance(state, dict) else [None]
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ValueError(f"{path}: {name} is no state dict")
        if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in tensors):
            raise ValueError(f"{path}: {name} claims tensors larger than what is stored")
    return states
