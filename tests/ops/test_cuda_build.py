"""nvcc compiles the CUDA operators, and torch loads them; a GPU is not needed for either."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acne_lab.ops import recipes
from acne_lab.ops.recipes import CSRC, CUDA_FLAGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
]

KERNELS = sorted(path.name for path in (CSRC / "cuda").glob("*.cu"))
OLDEST, NEWEST = 70, 100


def architectures() -> list[int]:
    """The first of every generation that this nvcc knows, Volta to Blackwell: its code runs on the others, too.

    CUDA 12 begins with sm_70, CUDA 13 with sm_75.
    """
    listed = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = sorted({int(number) for number in re.findall(r"compute_(\d+)", listed)} & set(range(OLDEST, NEWEST + 1)))
    return [number for number in known if number == known[0] or number % 10 == 0]


@pytest.mark.parametrize("source", KERNELS)
def test_kernels_compile_for_every_generation(source, tmp_path):
    """No array of a thread lies in memory instead of registers (the taps alone are 64 bytes).

    A few bytes of spills are the compiler's choice, for one more block in a multiprocessor.
    """
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures()]
    assert len(targets) >= 3
    command = ["nvcc", *CUDA_FLAGS, *targets, f"-I{CSRC}", "-fatbin", "-Werror=all-warnings", "-Xptxas=-v"]
    done = subprocess.run(
        [*command, CSRC / "cuda" / source, "-o", tmp_path / "kernels.fatbin"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled = re.findall(r"Compiling entry function '\w+' for 'sm_(\d+)'", done.stderr)
    assert {int(number) for number in compiled} == set(architectures())
    frames = [int(number) for number in re.findall(r"(\d+) bytes stack frame", done.stderr)]
    assert len(frames) >= len(compiled)
    assert max(frames) <= 16


def test_library_is_built_and_loaded(tmp_path):
    """By the recipe that users get, for one architecture; all operators are there."""
    code = """
import torch
from acne_lab.ops import extension
from acne_lab.ops.schemas import SCHEMAS
assert extension.native(torch.device("cuda"), "native")
names = [schema.split("(")[0] for schema in SCHEMAS if not schema.startswith("cpu_")]
assert len(names) >= 6
for name in names:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"acne_lab::{name}", "CUDA"), name
"""
    environment = {**os.environ, "ACNE_LAB_CACHE": str(tmp_path), "TORCH_CUDA_ARCH_LIST": f"{architectures()[-1] / 10}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_recipe_takes_every_source(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    sources = {Path(source).name for source in recipes.recipe("cuda").sources}
    assert sources == {*KERNELS, "operators.cpp"}
