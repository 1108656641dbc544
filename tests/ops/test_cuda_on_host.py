"""The host's stand-in for CUDA finds the faults that it is there to find."""

import shutil
import subprocess
from pathlib import Path

import pytest

HOST = Path(__file__).parent / "cuda_on_host"
CSRC = Path(__file__).parents[2] / "acne_lab" / "ops" / "csrc"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("broken") / "broken"
    flags = ["-std=c++20", "-O0", f"-I{HOST}", f"-I{CSRC}"]
    subprocess.run([compiler, *flags, HOST / "broken.cpp", "-o", program], check=True)
    return program


@pytest.mark.parametrize(
    ("kernel", "outcome"),
    [
        ("correct", str(sum(i * i for i in range(64)))),
        ("sum_of_a_warp", str(sum(range(32)) * sum(range(1, 33)) + sum(range(32, 64)) * sum(range(33, 65)))),
        ("no_barrier", "depends on the order of threads"),
        ("barrier_for_some", "threads of a block wait at a barrier that the others never reach"),
        ("ended_thread_in_a_shuffle", "threads of a block wait at a barrier that the others never reach"),
        ("write_past_the_end", "a block wrote past its shared memory"),
    ],
)
def test_faults_are_found(broken, kernel, outcome):
    assert subprocess.run([broken, kernel], capture_output=True, text=True, check=True).stdout == outcome
