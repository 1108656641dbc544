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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for glibc")
def test_what_is_kept_can_be_returned():
    script = """
import re
import torch
from pathlib import Path
from acne_lab.jobs.malloc import keep_freed_memory, return_freed_memory

def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

keep_freed_memory()
before = resident_mb()
x = torch.ones(64 * 2**20)  # 256 MiB
y = torch.ones(1)
del x
kept = resident_mb()
return_freed_memory()
print(kept - before, resident_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 200
    assert left < 50
