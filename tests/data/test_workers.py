"""Processes side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acne_lab.data.workers import in_order

SLEEPERS = "import time; from acne_lab.data.workers import in_order; list(in_order(time.sleep, [600] * 4, 2))"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs(num_workers):
    assert list(in_order(abs, list(range(-40, 0)), num_workers)) == list(range(40, 0, -1))


def test_a_process_that_is_ended_is_said_and_what_to_do():
    with pytest.raises(ChildProcessError, match=r"was ended from outside.*repeat the command"):
        list(in_order(os._exit, [1] * 4, 2))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_of_a_killed_process_end():
    process = subprocess.Popen([sys.executable, "-c", SLEEPERS])
    workers = wait_for(
        lambda: [pid for pid in children(process.pid) if "spawn_main" in command(pid)], lambda w: len(w) == 2
    )
    time.sleep(1)  # to be at work
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: [pid for pid in workers if "spawn_main" in command(pid)], lambda left: not left) == []


def wait_for(look, enough, seconds=30):
    for _ in range(10 * seconds):
        if enough(found := look()):
            break
        time.sleep(0.1)
    return found


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def command(pid):
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""
