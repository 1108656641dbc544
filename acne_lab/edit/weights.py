"""A refiner in a file: refiner.safetensors holds the network's tensors and, as metadata, its arguments and its window.

It is all that is needed to refine, and reading it executes nothing.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from acne_lab.edit.networks import Inpainter
from acne_lab.edit.refine import Refiner

REFINER_FILE = "refiner.safetensors"
METADATA_KEY = "refiner"


def save_refiner(path: Path, network: Inpainter, *, window: int) -> None:
    """Write the network, aside and renamed; `window` as of `Refiner`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside, {METADATA_KEY: json.dumps({"G": network.init_kwargs, "window": window})})
    aside.replace(path)


def read_refiner(path: Path) -> Refiner:
    """The refiner of a file.

    Raises:
        ValueError: there is no such file, it is damaged, or not one of a refiner.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, cut short or no .safetensors file ({error}): copy it again") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path} holds no refiner: give one that `acne-lab train experiment=refiner` wrote")
    try:
        with torch.device("meta"):
            network = Inpainter(**about["G"])
        own = network.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) + [
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ]
        if wrong:
            raise ValueError(f"{len(wrong)} tensors do not fit its arguments, e.g. {wrong[0]}")
        network.load_state_dict(state, assign=True)
        return Refiner(network.requires_grad_(False), window=about["window"])
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path} is no refiner that this version can build: {error}") from error
