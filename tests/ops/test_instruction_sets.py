"""The tests of the operators once more for each instruction set that this processor has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SETS = {"default": ("SSE2", "NEON", "baseline"), "avx2": ("AVX2",), "avx512": ("AVX-512",)}  # as torch names them


@pytest.mark.slow
@pytest.mark.parametrize("capability", SETS)
def test_operators(capability):
    here = torch.backends.cpu.get_cpu_capability().lower()
    if list(SETS).index(capability) > list(SETS).index(here):
        pytest.skip(f"this processor has {here}")
    files = [
        Path(__file__).parent / f"test_{name}.py"
        for name in ("bias_act", "upfirdn2d", "epilogue", "winograd", "convolution")
    ]
    code = f"""
import sys, pytest, torch
from acne_lab.ops import extension
extension.native(torch.device("cpu"), "native")
assert torch.ops.acne_lab.cpu_instruction_set() in {SETS[capability]}
sys.exit(pytest.main(sys.argv[1:]))
"""
    run = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(run, env={**os.environ, "ATEN_CPU_CAPABILITY": capability}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
