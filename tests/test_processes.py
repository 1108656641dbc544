"""Processes that were started together: the others hear what the first has found."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from acne_lab import runs
from acne_lab.processes import Meeting, rank
from acne_lab.runs import open_run


def test_rank(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert rank() == 5
    monkeypatch.setenv("RANK", "3")  # torchrun inside of a Slurm job
    assert rank() == 3


@pytest.fixture
def meetings(monkeypatch):
    """Of three processes, which are threads here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # to be put back

    def launch(rank):
        return SimpleNamespace(main_address="127.0.0.1", main_port=port, global_rank=lambda: rank, world_size=lambda: 3)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(Meeting, map(launch, range(3))))


def test_all_hear_each_word_however_late(meetings):
    heard = []

    def listen(meeting):
        heard.append([meeting.listen() for _ in range(2)])

    threads = [threading.Thread(target=listen, args=[meeting]) for meeting in meetings[1:]]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert heard == []
    meetings[0].announce("train")
    meetings[0].announce("done")
    for thread in threads:
        thread.join(10)
    assert heard == [["train", "done"]] * 2


def test_the_first_stays_until_all_have_heard(meetings):
    with ThreadPoolExecutor(3) as pool:
        announcing = pool.submit(meetings[0].announce, "done")
        assert pool.submit(meetings[1].listen).result(10) == "done"
        time.sleep(0.3)
        assert not announcing.done()
        assert pool.submit(meetings[2].listen).result(10) == "done"
        announcing.result(10)


def test_others_find_a_run_done_where_the_first_does(tmp_path, monkeypatch):
    """Even where a shared file system shows DONE late; and not done where the first is about to train it."""
    config = {"name": "x", "runs_dir": str(tmp_path), "trainer": {"strategy": {}}}
    monkeypatch.setattr(runs, "meeting", lambda: None)
    with open_run(config, job="train") as run:
        pass
    (run.path / "DONE").unlink()
    monkeypatch.setattr(runs, "rank", lambda: 1)

    words = iter(["train", "done"])
    monkeypatch.setattr(runs, "meeting", lambda: SimpleNamespace(listen=lambda: next(words)))
    with open_run(config, job="train") as other:
        assert other == run
        assert not other.done
    threading.Timer(0.5, (run.path / "DONE").touch).start()
    with open_run(config, job="train") as other:
        assert other.done
