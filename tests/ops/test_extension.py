"""What decides between kernels and reference, with libraries of one operator in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from acne_lab.ops import extension, recipes
from acne_lab.ops.compiler import Unavailable

TINY = Path(__file__).parent / "tiny"
CPU = torch.device("cpu")

START = """
import json, sys, warnings
from pathlib import Path
import torch
from acne_lab.ops import extension, recipes
recipes.CSRC = Path(sys.argv[1])
cpu = torch.device("cpu")
"""


def python(code: str, cache: Path, csrc: Path = TINY, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", START + code, csrc],
        env={**os.environ, "ACNE_LAB_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fresh(monkeypatch, tmp_path) -> Path:
    """A process that has asked for nothing, as it were, with an empty cache, which is returned."""
    monkeypatch.setattr(extension, "_problems", {})
    monkeypatch.setattr(extension, "_warned", set())
    monkeypatch.setattr(extension, "_process_impl", "auto")
    monkeypatch.setattr(recipes, "CSRC", TINY)
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACNE_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_threads_of_a_library_are_those_of_torch(tmp_path):
    """One OpenMP runtime in the process: torch's number of threads holds for kernels, too."""
    code = """
torch.set_num_threads(3)
assert extension.native(cpu)
maps = Path("/proc/self/maps").read_text().split()
runtimes = sorted({word for word in maps if "gomp" in word or "iomp" in word})
print(json.dumps([torch.ops.acne_lab.cpu_instruction_set(), runtimes]))
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    said, runtimes = json.loads(done.stdout)
    assert said == "tiny, 3 threads"
    assert len(runtimes) == 1
    assert Path(runtimes[0]).is_relative_to(Path(torch.__file__).parent.parent)
    assert re.fullmatch(r"compiling CPU kernels, once: about \d+ s\n", done.stderr)


def test_another_torch_is_another_library(fresh, monkeypatch):
    before = extension.prepare("cpu")
    assert extension.find("cpu") == before
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert extension.find("cpu") is None
    after = extension.prepare("cpu")
    assert after.library != before.library
    assert before.library.exists()


def test_the_reference_for_a_process(tmp_path):
    """Nothing is compiled, nothing is written, nothing is imported that is not needed."""
    code = """
assert not extension.native(cpu)
assert not {"acne_lab.ops.schemas", "setuptools", "torch._dynamo"} & set(sys.modules)
"""
    done = python(code, tmp_path / "cache", ACNE_LAB_OPS="reference")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cache").exists()


def test_operators_work_without_a_compiler(tmp_path):
    code = """
from acne_lab.ops.bias_act import bias_act
from acne_lab.ops.upfirdn2d import upfirdn2d
assert not extension.native(cpu)
for _ in range(2):
    y = bias_act(-torch.ones(1, 1, 2, 2), act="relu")
    y = upfirdn2d(y + 1, torch.ones(2, 2))
print(y.item())
"""
    done = python(code, tmp_path / "cache", CXX="no-such-c++")
    assert (done.returncode, done.stdout) == (0, "4.0\n"), done.stderr
    assert done.stderr.count("there is no compiler no-such-c++") == 1
    assert not (tmp_path / "cache").exists()


def test_use_decides_for_a_block(fresh, monkeypatch):
    monkeypatch.setattr(extension, "_problems", {"cpu": None})
    assert extension.native(CPU)
    with extension.use("reference"):
        assert not extension.native(CPU)
        assert extension.native(CPU, "native")
        with extension.use("native"):
            assert extension.native(CPU)
        assert not extension.native(CPU)
    with pytest.raises(KeyError), extension.use("reference"):
        raise KeyError
    assert extension.native(CPU)
    assert not extension.native(CPU, "reference")


def test_no_such_implementation(fresh):
    message = "no implementation 'natve': impl and ACNE_LAB_OPS are one of auto, native, reference"
    with pytest.raises(ValueError, match=message):
        extension.native(CPU, "natve")
    with extension.use("natve"), pytest.raises(ValueError, match=message):
        extension.native(CPU)


def test_one_warning_then_the_reference(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-c++")
    with pytest.warns(RuntimeWarning, match=r"no compiled operators for cpu.*: there is no compiler no-such-c\+\+"):
        assert not extension.native(CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not extension.native(CPU)
    with pytest.raises(RuntimeError, match=r"no compiled operators for cpu: there is no compiler no-such-c\+\+"):
        extension.native(CPU, "native")


def test_devices_without_kernels(fresh):
    """Nobody has promised them any: no warning."""
    meta = torch.device("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not extension.native(meta)
    with pytest.raises(RuntimeError, match="there are kernels for cpu and cuda only"):
        extension.native(meta, "native")


def test_sources_that_do_not_compile(fresh, monkeypatch, tmp_path, capfd):
    (tmp_path / "csrc" / "cpu").mkdir(parents=True)
    (tmp_path / "csrc" / "cpu" / "bad.cpp").write_text("#error as it had to come\n")
    monkeypatch.setattr(recipes, "CSRC", tmp_path / "csrc")
    for _ in range(2):
        monkeypatch.setattr(extension, "_problems", {})
        with pytest.raises(RuntimeError, match=r"compiling failed \(`acne-lab ops info` shows how"):
            extension.native(CPU, "native")
        assert "as it had to come" in extension.find("cpu").error
    assert capfd.readouterr().err.count("compiling CPU kernels") == 1
    extension.prepare("cpu", retry=True)
    assert capfd.readouterr().err.count("compiling CPU kernels") == 1


def test_a_library_that_cannot_be_loaded(fresh, monkeypatch, tmp_path):
    (tmp_path / "csrc" / "cpu").mkdir(parents=True)
    (tmp_path / "csrc" / "cpu" / "bad.cpp").write_text("int missing();\nint x = missing();\n")
    monkeypatch.setattr(recipes, "CSRC", tmp_path / "csrc")
    with pytest.raises(RuntimeError, match="undefined symbol: _Z7missingv"):
        extension.native(CPU, "native")


def test_an_installation_without_sources(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "CSRC", tmp_path)
    with pytest.raises(RuntimeError, match=r"there are no sources in .*: install acne_lab again"):
        extension.native(CPU, "native")


def test_clang_is_refused(fresh, monkeypatch, tmp_path):
    clang = tmp_path / "clang++"
    clang.write_text("#!/bin/sh\necho Debian clang version 19.1.7\n")
    clang.chmod(0o755)
    monkeypatch.setenv("CXX", str(clang))
    with pytest.raises(Unavailable, match=r"is clang, whose OpenMP runtime is not torch's: set CXX=g\+\+"):
        recipes.compiler_of("cpu")


def test_cpu_sources(fresh, monkeypatch, tmp_path):
    (tmp_path / "cpu").mkdir()
    for name in ("a.cpp", "a.avx2.cpp", "a.avx512.cpp", "a.h"):
        (tmp_path / "cpu" / name).touch()
    monkeypatch.setattr(recipes, "CSRC", tmp_path)
    monkeypatch.setattr(recipes.platform, "machine", lambda: "x86_64")
    here = recipes.recipe("cpu")
    assert list(here.sources) == ["cpu/a.avx2.cpp", "cpu/a.avx512.cpp", "cpu/a.cpp"]
    assert [("-mavx2" in flags, "-mavx512f" in flags) for flags in here.sources.values()] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    monkeypatch.setattr(recipes.platform, "machine", lambda: "aarch64")
    elsewhere = recipes.recipe("cpu")
    assert list(elsewhere.sources) == ["cpu/a.cpp"]
    assert elsewhere.key != here.key


def test_cuda_sources(fresh, monkeypatch, tmp_path):
    (tmp_path / "cuda").mkdir()
    for name in ("a.cu", "b.cpp", "c.cuh", "d.h"):
        (tmp_path / "cuda" / name).touch()
    monkeypatch.setattr(recipes, "CSRC", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert list(recipes.recipe("cuda").sources) == ["cuda/a.cu", "cuda/b.cpp"]


def nvcc_of(folder: Path, release: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "nvcc").write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.88\n")
    (folder / "bin" / "nvcc").chmod(0o755)
    return folder


def test_what_cuda_kernels_are_compiled_for(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(Unavailable, match="torch sees no CUDA device"):
        recipes.recipe("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    [flags] = recipes.recipe("cuda").sources.values()
    assert flags[len(recipes.CUDA_FLAGS) :] == ("-gencode=arch=compute_90,code=sm_90",)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;12.0+PTX")
    [flags] = recipes.recipe("cuda").sources.values()
    assert flags[len(recipes.CUDA_FLAGS) :] == (
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
        "-gencode=arch=compute_80,code=sm_80",
    )
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Ampere")
    with pytest.raises(Unavailable, match=r"TORCH_CUDA_ARCH_LIST=Ampere: give numbers, as in 8.0;9.0\+PTX"):
        recipes.recipe("cuda")

    monkeypatch.setenv("CUDA_HOME", str(nvcc_of(tmp_path / "good", "13.2")))
    tool = recipes.compiler_of("cuda")
    assert tool.command[1:] == ("-ccbin", recipes.compiler_of("cpu").command[0])
    assert tool.version.startswith("release 13.2, V13.2.88, ")
    monkeypatch.setenv("CUDA_HOME", str(nvcc_of(tmp_path / "old", "12.9")))
    with pytest.raises(Unavailable, match="is not of CUDA 13, which this torch is built with: set CUDA_HOME"):
        recipes.compiler_of("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Unavailable, match="this torch is built without CUDA"):
        recipes.recipe("cuda")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("nvcc") and torch.version.cuda), reason="needs nvcc and a torch with CUDA")
def test_a_cuda_library_uses_the_runtime_of_torch(tmp_path):
    code = """
import ctypes
library = ctypes.CDLL(extension.prepare("cuda").library)
assert library.fill_32
maps = Path("/proc/self/maps").read_text().split()
print(json.dumps(sorted({word for word in maps if "libcudart" in word})))
"""
    done = python(code, tmp_path, TORCH_CUDA_ARCH_LIST="8.0;9.0")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert done.stderr == "compiling CUDA kernels, once: about 11 s\n"


@pytest.mark.slow
@pytest.mark.parametrize("cxx", ["c++", "no-such-c++"])
def test_first_asked_while_torch_compiles(tmp_path, cxx):
    """The whole graph is traced, whichever way it goes."""
    code = """
x = torch.zeros(1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = torch.compile(lambda x: x + 1 if extension.native(x.device) else x + 2, fullgraph=True, backend="eager")(x)
print(json.dumps([y.item(), [str(warning.message) for warning in caught]]))
"""
    done = python(code, tmp_path, CXX=cxx)
    assert done.returncode == 0, done.stderr
    y, messages = json.loads(done.stdout)
    if cxx == "c++":
        assert (y, messages) == (1.0, [])
    else:
        assert y == 2.0
        assert [re.search("there is no compiler", message) is not None for message in messages] == [True]
