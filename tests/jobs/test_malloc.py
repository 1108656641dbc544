"""Large blocks are used again without a page fault."""

import platform
import subprocess
import sys

import pytest

from acne_lab.jobs.malloc import keep_freed_memory

SCRIPT = """
import resource, sys
import torch
from acne_lab.jobs.malloc import keep_freed_memory
assert keep_freed_memory()
faults = []
for _ in range(40):  # in the first ones other, small blocks settle
    x = torch.ones(64 * 2**20 // 4)  # 64 MiB: 16384 pages
    del x
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-5])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for glibc")
def test_the_second_time_costs_nothing():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # 65536 without


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
