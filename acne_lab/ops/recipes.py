"""How the libraries of `csrc/` are compiled: which sources, for what, by which compiler.

Every `csrc/cpu/*.cpp` goes into the library for the CPU, every `csrc/cuda/*.cu` and `*.cpp` into the one for CUDA;
other files are headers, which sources name relative to `csrc/`. The runtimes of OpenMP and CUDA are not linked: their
functions are found in those that libtorch has loaded, so that a process has one of each.
"""

import os
import platform
import re
import shlex
import sys
from pathlib import Path

import torch

from acne_lab.ops.compiler import Compiler, Recipe, Unavailable, find_compiler

KINDS = ("cpu", "cuda")  # of devices
CSRC = Path(__file__).parent / "csrc"

CPU_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fopenmp")
INSTRUCTION_SETS = {  # csrc/cpu/X.avx2.cpp is compiled for processors that have these
    ".avx2": ("-mavx2", "-mfma", "-mf16c"),
    ".avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
}
CPU_LINK_FLAGS = ("-lc10", "-ltorch_cpu")
CUDA_FLAGS = ("-std=c++20", "-O3", "-Xcompiler=-fPIC")
CUDA_LINK_FLAGS = (*CPU_LINK_FLAGS, "-lc10_cuda", "-ltorch_cuda", "-cudart=none")


def recipe(kind: str) -> Recipe:
    """What a library is made from.

    Raises:
        Unavailable: there are no kernels for this device.
    """
    if kind not in KINDS:
        raise Unavailable(f"there are kernels for {' and '.join(KINDS)} only")
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"the kernels are compiled on Linux only, not on {sys.platform}")
    sources = _cpu_sources() if kind == "cpu" else _cuda_sources()
    if not sources:
        raise Unavailable(f"there are no sources in {CSRC / kind}: install acne_lab again")
    versions = (torch.__version__, str(torch.version.git_version), str(os.confstr("CS_GNU_LIBC_VERSION")))
    torch_dir = Path(torch.__file__).parent
    return Recipe(
        name=kind,
        root=CSRC,
        sources=sources,
        include_dirs=(torch_dir / "include",),
        library_dirs=(torch_dir / "lib",),
        link_flags=CPU_LINK_FLAGS if kind == "cpu" else CUDA_LINK_FLAGS,
        made_for=(*versions, platform.machine()),
    )


def compiler_of(kind: str) -> Compiler:
    """The C++ compiler (CXX, else c++) or, with it, nvcc (of CUDA_HOME, else of the PATH).

    Raises:
        Unavailable: it is not there, or does not go with this torch.
    """
    cxx = find_compiler(shlex.split(os.environ.get("CXX", "")) or ["c++"])
    if "clang" in cxx.version:
        raise Unavailable(f"{cxx.command[0]} is clang, whose OpenMP runtime is not torch's: set CXX=g++")
    if kind == "cpu":
        return cxx
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = find_compiler([f"{home}/bin/nvcc" if home else "nvcc"], version=r"release .+")
    major = str(torch.version.cuda).split(".")[0]
    if not nvcc.version.startswith(f"release {major}."):
        raise Unavailable(f"{nvcc.command[0]} is not of CUDA {major}, which this torch is built with: set CUDA_HOME")
    host = [word for word in cxx.command if not word.startswith("-")][-1]  # behind a launcher, as ccache is
    return Compiler(command=(*nvcc.command, "-ccbin", host), version=f"{nvcc.version}, {cxx.version}")


def _cpu_sources() -> dict[str, tuple[str, ...]]:
    sources = {}
    for path in sorted((CSRC / "cpu").glob("*.cpp")):
        instruction_set = Path(path.stem).suffix
        if instruction_set in INSTRUCTION_SETS and platform.machine() != "x86_64":
            continue
        sources[f"cpu/{path.name}"] = (*CPU_FLAGS, *INSTRUCTION_SETS.get(instruction_set, ()))
    return sources


def _cuda_sources() -> dict[str, tuple[str, ...]]:
    flags = (*CUDA_FLAGS, *_cuda_targets())
    paths = [path for path in sorted((CSRC / "cuda").glob("*.*")) if path.suffix in (".cpp", ".cu")]
    return {f"cuda/{path.name}": flags for path in paths}


def _cuda_targets() -> list[str]:
    """nvcc's flags for TORCH_CUDA_ARCH_LIST or, without it, for the devices of this machine."""
    if torch.version.cuda is None:
        raise Unavailable("this torch is built without CUDA")
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    targets = set(re.split(r"[;,\s]+", given)) - {""}
    if not targets:
        devices = range(torch.cuda.device_count())
        targets = {"{}.{}".format(*torch.cuda.get_device_capability(device)) for device in devices}
    if not targets:
        raise Unavailable("torch sees no CUDA device (to compile for others: TORCH_CUDA_ARCH_LIST='8.0;9.0')")
    flags = []
    for target in sorted(targets):
        match = re.fullmatch(r"(\d+)\.(\d+a?)(\+PTX)?", target)
        if match is None:
            raise Unavailable(f"TORCH_CUDA_ARCH_LIST={given}: give numbers, as in 8.0;9.0+PTX")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
