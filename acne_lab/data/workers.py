"""Processes that work for this one. This module is light: what they load besides is their work's affair."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Job, Result = TypeVar("Job"), TypeVar("Result")


def in_order(function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int) -> Iterator[Result]:
    """The results of the jobs in their order, from `num_workers` processes (0 or 1: this one).

    Raises:
        ChildProcessError: one of the processes was ended.
    """
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    pool = start_workers(num_workers)
    try:
        yield from pool.map(function, jobs, chunksize=max(1, min(16, len(jobs) // (4 * num_workers))))
    except BrokenProcessPool as error:
        raise ended("shares this work") from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_workers(num_workers: int, initializer: Callable | None = None, *arguments: object) -> ProcessPoolExecutor:
    """Processes that are running, end when this one does, also when it is killed, and leave Ctrl-C to it.

    Args:
        num_workers: how many.
        initializer: called with `arguments` once in each.
    """
    # spawn: a forked process would hold copies of the network's threads' locks, in whatever state they were.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(initializer, *arguments))
    # They start with their first task. Ctrl-C reaches every process of a terminal: it is for this one alone.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(num_workers):
            pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pool


def ended(what: str) -> ChildProcessError:
    """In the place of BrokenProcessPool: `what` a process of the pool does, e.g. "edits"."""
    return ChildProcessError(
        f"a process that {what} was ended from outside, as it happens when memory runs short: repeat the command, "
        "it goes on (with num_workers=1 it needs less)"
    )


def _begin(initializer: Callable | None, *arguments: object) -> None:
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if initializer is not None:
        initializer(*arguments)
