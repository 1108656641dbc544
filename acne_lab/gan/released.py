"""Released StyleGAN2 files (.pkl) as data: an unpickler that imports nothing and calls nothing of theirs.

Such a file is a pickle whose ordinary load runs source code that it carries. Here every class and function that
it names becomes an `Inert` record of its arguments and state, and a name that a weights file does not need is
refused. Only then are networks, tensors and arrays read out of the records, none larger than the file.

It does not know networks: it returns constructor arguments and tensors under the names in the file.
"""

import io
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
TF_NETWORK = "dnnlib.tflib.network.Network"
DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
RECORDS = (
    PERSISTENT,
    TF_NETWORK,
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "builtins.set",  # how protocol 3 writes a set
)
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
ALLOWED = {*DICTS, *RECORDS, *STORAGES}
# What an unpickler may raise over broken bytes, besides its own error.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class Refused(ValueError):
    """The file asks for what no weights file needs."""


class Released(NamedTuple):
    """One network of a file."""

    init_kwargs: dict[str, Any]  # as its constructor got them, under the released names
    tensors: dict[str, Any]  # name -> Tensor (PyTorch) or array (TensorFlow)


class Inert:
    """What a pickle would have called: its name, the arguments and the state it was given."""

    name = ""
    args: tuple = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class SafeUnpickler(pickle.Unpickler):
    """Reads a pickle into dicts, lists, numbers, strings and `Inert` records.

    Every name gets a class of its own, made here and thrown away: a pickle can set attributes on what it names.
    """

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise Refused(f"it asks for {full}, which a weights file does not need: refused, nothing was run")
        return type("Dict", (dict,), {}) if full in DICTS else type("Record", (Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        return pid  # a storage describes itself so; see `storage_of`


def unpickle(stream: io.BytesIO) -> Any:
    """The next pickle of a stream as inert data.

    Raises:
        Refused: it names what is not allowed, or would take memory that its length does not explain.
        ValueError: it is damaged.
    """
    start = stream.tell()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > number:
                raise Refused(f"its memo has a place {argument} at step {number}, which would fill the memory: refused")
        stream.seek(start)
        return SafeUnpickler(stream).load()
    except Refused:
        raise
    except DAMAGE as error:
        raise ValueError(f"it is damaged or cut short ({error}): copy it again") from error


def read_released(path: Path) -> tuple[str, dict[str, Released]]:
    """("pytorch" or "tensorflow", {"G": ..., "D": ..., "G_ema": ...}), as far as the file has them.

    Raises:
        ValueError: the file is neither kind, is damaged, or asks for anything that networks do not need.
    """
    data = path.read_bytes()
    if data[:2] == b"PK":
        raise ValueError(f"{path} is a zip archive as torch.save writes it: rename it to .pt")
    try:
        content = unpickle(io.BytesIO(data))
        if isinstance(content, Mapping):
            modules = {name: content[name] for name in ("G", "D", "G_ema") if is_record(content.get(name), PERSISTENT)}
            if modules:
                return "pytorch", {name: read_module(module, limit=len(data)) for name, module in modules.items()}
        if isinstance(content, tuple) and len(content) == 3 and all(is_record(n, TF_NETWORK) for n in content):
            networks = zip(("G", "D", "G_ema"), content, strict=True)
            return "tensorflow", {name: read_tf_network(network, limit=len(data)) for name, network in networks}
        there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"it holds no networks (G, D, G_ema) but {there}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not built as released networks are ({type(error).__name__}: {error})") from error


def is_record(value: Any, name: str) -> bool:
    return isinstance(value, Inert) and value.name == name


# ---- PyTorch -----------------------------------------------------------------------------------


def read_module(module: Inert, *, limit: int) -> Released:
    """Constructor arguments and tensors of a persistent module; they may take `limit` bytes together."""
    state = module.args[0]["state"]
    if state.get("_init_args"):
        raise ValueError("its networks were made with positional arguments, which have no names to go by")
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    left = limit

    def collect(module: Inert, prefix: str) -> None:
        nonlocal left
        if not is_record(module, PERSISTENT) or id(module) in seen:
            raise ValueError(f"{prefix or 'its network'} is not a module of its own")
        seen.add(id(module))
        state = module.args[0]["state"]
        for name, value in [*state["_parameters"].items(), *state["_buffers"].items()]:
            if value is not None:
                tensors[prefix + name] = tensor_of(value)
                left -= tensors[prefix + name].nbytes
                if left < 0:
                    raise ValueError(f"its tensors take more than its {limit} bytes")
        for name, child in state["_modules"].items():
            if child is not None:
                collect(child, f"{prefix}{name}.")

    collect(module, "")
    return Released(plain(state["_init_kwargs"]), tensors)


def tensor_of(record: Inert) -> Tensor:
    """The tensor that a record describes; its elements must lie within its storage."""
    if is_record(record, "torch._utils._rebuild_parameter"):
        record = record.args[0]
    if not is_record(record, "torch._utils._rebuild_tensor_v2"):
        raise ValueError(f"it has {getattr(record, 'name', type(record).__name__)} where a tensor should be")
    storage, offset, size, stride = record.args[:4]
    if not is_record(storage, "torch.storage._load_from_bytes"):
        raise ValueError("it has a tensor without a storage")
    values = storage_of(*storage.args)
    if math.prod(size) > len(values):
        raise ValueError(f"it claims a tensor of {list(size)} in a storage of {len(values)} elements")
    try:
        return values.as_strided(size, stride, offset).contiguous()
    except RuntimeError as error:
        raise ValueError(f"it has a tensor that reaches beyond its storage ({error})") from error


def storage_of(data: bytes) -> Tensor:
    """A storage as torch saves one alone: magic number, version, system, description, keys, length, elements."""
    stream = io.BytesIO(data)
    *_, (_, kind, *_), _ = (unpickle(stream) for _ in range(5))
    dtype = STORAGES[kind.name]
    (length,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
    values = data[stream.tell() :]
    if length * dtype.itemsize != len(values):
        raise ValueError(f"it claims a storage of {length} elements in {len(values)} bytes")
    return torch.frombuffer(bytearray(values), dtype=dtype) if values else torch.empty(0, dtype=dtype)


# ---- TensorFlow --------------------------------------------------------------------------------


def read_tf_network(network: Inert, *, limit: int) -> Released:
    """Static arguments and variables of a legacy network, those of its components under `COMPONENT/`."""
    arrays: dict[str, np.ndarray] = {}
    seen: set[int] = set()
    left = limit

    def collect(network: Inert, prefix: str) -> None:
        nonlocal left
        if not is_record(network, TF_NETWORK) or id(network) in seen:
            raise ValueError(f"{prefix or 'its network'} is not a network of its own")
        seen.add(id(network))
        if network.state["version"] < 4:
            raise ValueError(f"its networks are of version {network.state['version']}: 4 and later can be read")
        for name, value in network.state["variables"]:
            arrays[prefix + name] = array_of(value)
            left -= arrays[prefix + name].nbytes
            if left < 0:
                raise ValueError(f"its variables take more than its {limit} bytes")
        for name, component in (network.state.get("components") or {}).items():
            collect(component, f"{prefix}{name}/")

    collect(network, "")
    return Released(plain(network.state["static_kwargs"]), arrays)


def array_of(record: Any) -> np.ndarray:
    """The array or number that a record describes."""
    if isinstance(record, int | float):
        return np.asarray(record, dtype=np.float32)
    kind = record.name.rsplit(".", 1)[1]
    if kind == "scalar":
        dtype, values = record.args
        shape, fortran = (), False
    elif kind == "_reconstruct":
        _, shape, dtype, fortran, values = record.state
    else:
        raise ValueError(f"it has {record.name} where an array should be")
    dtype = dtype_of(dtype)
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"it claims an array of {list(shape)} {dtype} in {len(values)} bytes")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")


MAX_DEPTH = 6  # of constructor arguments: theirs hold dicts of dicts of lists
MAX_ITEMS = 10_000  # of constructor arguments, and letters of their names and texts: theirs have a few hundred


def dtype_of(record: Inert) -> np.dtype:
    """A plain number type, e.g. args ("f4", False, True) and state (3, "<", ...)."""
    code = record.args[0]
    if not re.fullmatch("b1|[iu][1248]|f[248]", code):
        raise ValueError(f"it has an array of {code}: only numbers are read")
    order = record.state[1] if record.state else "|"
    return np.dtype(("<" if order in "|=" else order) + code)


def plain(arguments: Any) -> Any:
    """Constructor arguments as plain dicts, lists, texts and numbers.

    Raises:
        ValueError: they are larger or nested deeper than any network's: lists that hold one another twice would unfold
            to more than any memory holds.
    """
    left = MAX_ITEMS

    def unfold(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1 + (len(value) if isinstance(value, str) else 0)
        if left < 0:
            raise ValueError(f"its arguments hold more than {MAX_ITEMS} items and letters")
        if depth > MAX_DEPTH:
            raise ValueError(f"its arguments are nested more than {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value):
                raise ValueError("its arguments have names that are no text")
            return {unfold(name, depth): unfold(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [unfold(item, depth + 1) for item in value]
        if isinstance(value, Inert):
            return array_of(value).item()
        if value is None or isinstance(value, str | int | float):
            return value
        raise ValueError(f"its arguments hold a {type(value).__name__}, which no network takes")

    return unfold(arguments, depth=0)
