"""One function over many things, in several processes, in order."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

Job, Result = TypeVar("Job"), TypeVar("Result")


def in_order(function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int) -> Iterator[Result]:
    """The results of the jobs in their order, from `num_workers` processes (0 or 1: this one)."""
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, min(16, len(jobs) // (4 * num_workers))))


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next job for ever, with all its memory."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
