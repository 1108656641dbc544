"""Released files: both kinds are read exactly, and nothing hostile runs, fills the memory or gets by unnamed."""

import importlib
import io
import operator
import os
import pickle
import random
import struct
import subprocess

import numpy as np
import pytest
import torch
from released_files import (
    SMALL_D,
    SMALL_G,
    EasyDict,
    Persistent,
    dumps,
    persistent,
    released_content,
    tf_discriminator,
    tf_generator,
    tf_network,
    write,
)

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.released import Inert, array_of, read_released, unpickle


class Reduce:
    """Pickles as a call, perhaps of what another call returned, and then a state."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts

    def __call__(self):
        raise AssertionError("only what unpickles it is called")


class Reader:
    """A class of somebody's."""


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return Generator(**SMALL_G), Discriminator(**SMALL_D)


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pytorch_file_is_read(networks, tmp_path, protocol):
    G, D = networks
    kind, released = read_released(write(tmp_path / "x.pkl", released_content(G, D), protocol))
    assert kind == "pytorch"
    assert set(released) == {"G", "D", "G_ema"}
    for name, network in (("G", G), ("D", D), ("G_ema", G)):
        assert set(released[name].tensors) == set(network.state_dict())
        for key, tensor in network.state_dict().items():
            assert torch.equal(released[name].tensors[key], tensor), key
    assert released["G"].init_kwargs["synthesis_kwargs"]["channel_base"] == 128
    assert released["D"].init_kwargs["epilogue_kwargs"] == {"mbstd_group_size": 2}


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_tensorflow_file_is_read(networks, tmp_path, protocol):
    G, D = networks
    path = write(tmp_path / "x.pkl", (tf_generator(G), tf_discriminator(D), tf_generator(G)), protocol)
    kind, released = read_released(path)
    assert kind == "tensorflow"
    assert released["G_ema"].init_kwargs["fmap_base"] == 64
    arrays = released["G_ema"].tensors
    np.testing.assert_array_equal(arrays["synthesis/8x8/ToRGB/weight"], tf_array(G, "synthesis", "8x8/ToRGB/weight"))
    assert arrays["synthesis/8x8/Conv1/noise_strength"].shape == ()
    assert released["D"].tensors["Output/weight"].shape == (16, 1)


def tf_array(G, component, name):
    return dict(tf_generator(G).components[component].variables)[name]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_plain_type(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3).astype(dtype), order=order)
    read = array_of(unpickle(io.BytesIO(dumps(array, 4))))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("tensor", [torch.arange(12.0).reshape(3, 4).t(), torch.arange(6).half()[2:], torch.ones(0)])
def test_views_and_types_of_tensors(networks, tmp_path, tensor):
    G, _ = networks
    content = {"G": persistent(G, {}, _buffers={"x": tensor}, _parameters={}, _modules={})}
    read = read_released(write(tmp_path / "x.pkl", content))[1]["G"].tensors["x"]
    assert read.dtype == tensor.dtype
    assert torch.equal(read, tensor)


# ---- what would run ----------------------------------------------------------------------------


def hostile(sentinel):
    """Objects whose ordinary unpickling would create the sentinel, and what must be named when they are refused."""
    touch = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "os.system": (Reduce(os.system, touch), "posix.system"),
        "eval": (Reduce(eval, code), "builtins.eval"),
        "exec": (Reduce(exec, code), "builtins.exec"),
        "import_module": (Reduce(importlib.import_module, "antigravity"), "importlib.import_module"),
        "getattr chain": (Reduce(Reduce(getattr, Reduce(__import__, "os"), "system"), touch), "builtins.getattr"),
        "attrgetter": (
            Reduce(Reduce(operator.attrgetter, "system"), Reduce(importlib.import_module, "os")),
            "operator.attrgetter",
        ),
        "subprocess": (Reduce(subprocess.check_output, ["touch", str(sentinel)]), "subprocess.check_output"),
        "open": (Reduce(open, str(sentinel), "w"), "open"),
        "state": (Reduce(Reader, state={"x": Reduce(os.system, touch)}), "Reader"),
    }


HOSTILE = sorted(hostile("x"))
RUNS = [name for name in HOSTILE if name not in ("import_module", "attrgetter")]


@pytest.mark.parametrize("name", RUNS)
def test_the_hostile_files_are_live(tmp_path, name):
    """An ordinary load runs them, so the tests below test something."""
    sentinel = tmp_path / "ran"
    payload, _ = hostile(sentinel)[name]
    pickle.loads(dumps(payload))
    assert sentinel.exists()


def placed(content, payload, place):
    """A released file's content with a hostile object somewhere in it."""
    meta = content["G_ema"].meta
    if place == "alone":
        return payload
    if place == "beside":
        content["augment_pipe"] = payload
    elif place == "in the source":
        meta["module_src"] = payload
    elif place == "in the state":
        meta["state"]["anything"] = payload
    elif place == "as a tensor":
        meta["state"]["_buffers"] = {"x": payload}
    elif place == "deep inside":
        mapping = meta["state"]["_modules"]["mapping"].meta["state"]
        mapping["_modules"]["fc0"].meta["state"]["_init_kwargs"] = {"act": [payload]}
    return content


PLACES = ("alone", "beside", "in the source", "in the state", "as a tensor", "deep inside")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_hostile_runs(networks, tmp_path, name, place):
    sentinel = tmp_path / "ran"
    payload, refused = hostile(sentinel)[name]
    path = write(tmp_path / "x.pkl", placed(released_content(*networks), payload, place))
    with pytest.raises(ValueError, match=f"{refused}.*refused"):
        read_released(path)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", r"os\.system"),  # protocol 0
        (b"(S'touch ran'\nios\nsystem\n.", r"os\.system"),  # INST
        (b"(cos\nsystem\nS'touch ran'\no.", r"os\.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.", r"os\.system"),  # STACK_GLOBAL
        (b"\x80\x04\x8c\x05torch\x8c\x0dhub.os.system\x93.", r"torch\.hub\.os\.system"),  # dotted
        (b"\x80\x02\x82\x01.", "damaged"),  # the extension registry
        (b"Psomewhere\n.", "holds no networks"),  # a persistent id is text and nothing else
    ],
)
def test_hand_written_opcodes(tmp_path, monkeypatch, data, refused):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=refused):
        read_released(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


def test_the_embedded_source_is_never_run(networks, tmp_path):
    sentinel = tmp_path / "ran"
    source = f"open({str(sentinel)!r}, 'w').close()\nraise SystemExit"
    read_released(write(tmp_path / "x.pkl", released_content(*networks, source=source)))
    assert not sentinel.exists()


def test_a_pickle_cannot_change_the_reader():
    """BUILD may set attributes on whatever a name gives: that is a class of this one pickle."""
    named = b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93"
    patched = unpickle(io.BytesIO(named + b"N}\x8c\x05items\x8c\x03bads\x86b."))
    assert patched.items == "bad"
    assert unpickle(io.BytesIO(named + b")R.")).items() == {}.items()
    record = b"\x80\x04\x8c\x0ctorch._utils\x8c\x13_rebuild_parameter\x93N}\x8c\x04name\x8c\x03bads\x86b."
    with pytest.raises(ValueError, match="damaged"):
        unpickle(io.BytesIO(record))
    assert Inert.name == ""


def storage(dtype_name: str, length: int, data: bytes, *, kind: object = None) -> bytes:
    """A storage as torch writes one alone, with a length of choice."""
    stream = io.BytesIO()
    record = ("storage", kind or getattr(torch, dtype_name), "0", "cpu", length, None)
    for content in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(content, stream, protocol=2)
    pickler = pickle.Pickler(stream, protocol=2)
    pickler.persistent_id = lambda thing: thing if thing is record else None
    pickler.dump(record)
    pickle.dump(["0"], stream, protocol=2)
    return stream.getvalue() + struct.pack("<q", length) + data


def tensor(data: bytes, size: tuple, stride: tuple, offset: int = 0) -> Reduce:
    return Reduce(
        torch._utils._rebuild_tensor_v2, Reduce(torch.storage._load_from_bytes, data), offset, size, stride, False, {}
    )


def file_with(path, value) -> object:
    module = persistent(torch.nn.Identity(), {}, _buffers={"x": value}, _parameters={}, _modules={})
    return write(path, {"G": module})


def test_a_hostile_storage_does_not_run(tmp_path):
    """The bytes of a storage are pickles themselves."""
    sentinel = tmp_path / "ran"
    for data in (
        pickle.dumps(Reduce(os.system, f"touch {sentinel}")),
        storage("FloatStorage", 1, b"1234", kind=Reduce(os.system, f"touch {sentinel}")),
    ):
        path = file_with(tmp_path / "x.pkl", tensor(data, (1,), (1,)))
        with pytest.raises(ValueError, match=r"posix\.system.*refused"):
            read_released(path)
    assert not sentinel.exists()


# ---- what would fill the memory, or is broken --------------------------------------------------


def test_sizes_that_the_file_does_not_hold(tmp_path):
    """The first case is in order, so that the others are refused for what they are."""
    four = storage("FloatStorage", 4, bytes(16))
    good = file_with(tmp_path / "x.pkl", tensor(four, (2, 2), (2, 1)))
    assert read_released(good)[1]["G"].tensors["x"].shape == (2, 2)
    for value, message in (
        (tensor(four, (2, 3), (3, 1)), "claims a tensor"),
        (tensor(four, (2**40,), (0,)), "claims a tensor"),
        (tensor(four, (2, 2), (4, 1)), "beyond its storage"),
        (tensor(four, (4,), (1,), offset=1), "beyond its storage"),
        (tensor(four, (4,), (1,), offset=-1), "beyond its storage"),
        (tensor(storage("FloatStorage", 2**40, bytes(16)), (4,), (1,)), "claims a storage"),
        (tensor(storage("FloatStorage", -4, bytes(16)), (4,), (1,)), "claims a storage"),
        (tensor(four[:-9], (1,), (1,)), "claims a storage"),
        (tensor(four[:60], (1,), (1,)), "damaged"),
        (tensor(pickle.dumps(1), (1,), (1,)), "damaged"),
        (7, "where a tensor should be"),
    ):
        with pytest.raises(ValueError, match=message):
            read_released(file_with(tmp_path / "x.pkl", value))


def test_one_storage_many_times_is_refused(tmp_path):
    """10,000 tensors of one storage would take 10,000 times the file."""
    shared = tensor(storage("FloatStorage", 1000, bytes(4000)), (1000,), (1,))
    module = persistent(torch.nn.Identity(), {}, _parameters={}, _modules={})
    module.meta["state"]["_buffers"] = {str(i): shared for i in range(10_000)}
    with pytest.raises(ValueError, match="take more than its"):
        read_released(write(tmp_path / "x.pkl", {"G": module}))


def test_modules_within_each_other_are_refused(tmp_path):
    module = persistent(torch.nn.Identity(), {}, _parameters={}, _buffers={})
    child = persistent(torch.nn.Identity(), {})
    for modules in ({"a": child, "b": child}, {"a": 5}):
        module.meta["state"]["_modules"] = modules
        with pytest.raises(ValueError, match="not a module of its own"):
            read_released(write(tmp_path / "x.pkl", {"G": module}))
    state: dict = module.meta["state"]
    state["_modules"] = {"a": Persistent(EasyDict(state=state))}  # for ever deeper
    with pytest.raises(ValueError, match=r"not a module of its own|not built as"):
        read_released(write(tmp_path / "x.pkl", {"G": module}))


ROW, TEXT = [0] * 1000, "a" * 1000
LARGE_ARGUMENTS = {
    "a list a thousand times": ([ROW] * 1000, "more than 10000 items and letters"),
    "a dict a thousand times": ([{str(i): 0 for i in range(1000)}] * 1000, "more than 10000 items and letters"),
    "a text a thousand times": ([TEXT] * 1000, "more than 10000 items and letters"),
    "no text a million times": ([[""] * 1000] * 1000, "more than 10000 items and letters"),
    "a long name many times": ([{TEXT: 0}] * 1000, "more than 10000 items and letters"),
    "lists within lists": ([[[[[[[0]]]]]]], "more than 6 deep"),
    "tuples within a set": (frozenset({((0,) * 1000,) * 1000}), "a frozenset"),
}


@pytest.mark.parametrize("case", LARGE_ARGUMENTS)
def test_arguments_that_would_unfold_are_refused(tmp_path, case):
    """One object many times is stored once, but each of its places would become an object of its own."""
    value, message = LARGE_ARGUMENTS[case]
    module = persistent(torch.nn.Identity(), {"x": value}, _parameters={}, _buffers={}, _modules={})
    network = tf_network([], {"x": value})
    for content in ({"G": module}, (network, network, network)):
        path = write(tmp_path / "x.pkl", content)
        assert path.stat().st_size < 30_000
        with pytest.raises(ValueError, match=f"its arguments.* {message}"):
            read_released(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo"),  # would make room for 2^31 memo places
        (b"]p999999999\n.", "memo"),
        (b"\x80\x04\x8e\x00\x00\x00\x00\x00\x10\x00\x00abc.", "cut short"),  # 16 TB of bytes
        (b"\x80\x04\x96\x00\x00\x00\x00\x00\x10\x00\x00abc.", "cut short"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x10\x00].", "cut short"),
        (b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".", "holds no networks"),  # deep, and read all the same
        (b"", "cut short"),
        (b"not a pickle", "cut short"),
    ],
)
def test_bombs_and_rubbish(tmp_path, data, message):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_released(path)


def test_arrays_that_the_file_does_not_hold(tmp_path):
    reconstruct, state = np.arange(3.0).__reduce__()[0], np.arange(3.0).__reduce__()[2]
    for changed, message in (
        ((1, (2**40,), *state[2:]), "claims an array"),
        ((1, (-3,), *state[2:]), "claims an array"),
        ((1, (3,), np.dtype("O"), False, [1, 2, 3]), "only numbers are read"),
        ((1, (3,), np.dtype("M8[D]"), False, bytes(24)), "only numbers are read"),
    ):
        network = tf_network([("x", Reduce(reconstruct, np.ndarray, (0,), b"b", state=changed))])
        with pytest.raises(ValueError, match=message):
            read_released(write(tmp_path / "x.pkl", (network, network, network)))


def test_other_files_are_told_apart(networks, tmp_path):
    G, _ = networks
    torch.save({"G": G.state_dict()}, tmp_path / "zip.pkl")
    with pytest.raises(ValueError, match=r"rename it to \.pt"):
        read_released(tmp_path / "zip.pkl")
    old = tf_network([])
    old.version = 3
    for content, message in (
        ({"weights": 1, "epoch": 2}, "no networks .* but weights, epoch"),
        ([1, 2], "no networks .* but list"),
        ((old, old, old), "of version 3"),
        ({"G": persistent(G, {}, _init_args=(512,))}, "positional"),
        ({"G": Persistent(EasyDict(type="class"))}, "not built as released networks"),
    ):
        with pytest.raises(ValueError, match=message):
            read_released(write(tmp_path / "x.pkl", content))


def test_a_damaged_file_is_a_value_error(networks, tmp_path):
    """Cut anywhere or with bytes changed: a ValueError that names the file, or networks if it did not matter."""
    whole = dumps(released_content(*networks))
    rng = random.Random(0)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(30)]
    for _ in range(120):
        changed = bytearray(whole)
        for _ in range(3):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        damaged.append(bytes(changed))
    path, messages = tmp_path / "x.pkl", []
    for data in damaged:
        path.write_bytes(data)
        try:
            read_released(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) >= 30
    assert all(str(path) in message for message in messages)
