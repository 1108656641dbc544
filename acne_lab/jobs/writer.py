"""Writes pictures in other processes, so that the network draws the next ones meanwhile.

A file is whole or absent, whatever is killed and when. This module is all that those processes load: no torch.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType

from PIL import Image

from acne_lab.data.workers import ended, start_workers

FORMATS = {  # what Pillow is told for each suffix
    "png": {"format": "PNG", "compress_level": 1},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


class PictureWriter:
    """A context that ends when all its pictures are on the disk.

    Args:
        num_workers: processes that encode, at least 1.
        max_waiting: while so many pictures are not yet written, `put` waits.
    """

    def __init__(self, *, num_workers: int, max_waiting: int) -> None:
        self.num_workers, self.max_waiting = num_workers, max_waiting
        self.waiting: deque[Future] = deque()

    def __enter__(self) -> "PictureWriter":
        self.pool = start_workers(self.num_workers)
        return self

    def put(self, path: Path, picture: Image.Image) -> None:
        """Have a picture written to `path`, whose suffix is one of FORMATS.

        Raises:
            OSError: an earlier picture could not be written, or a process that writes them was ended.
        """
        while len(self.waiting) >= self.max_waiting:
            self._finish_oldest()
        try:
            self.waiting.append(self.pool.submit(write_picture, path, picture))
        except BrokenProcessPool as error:
            raise ended("writes pictures") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        try:
            while self.waiting and kind is None:
                self._finish_oldest()
        finally:
            self.pool.shutdown(cancel_futures=True)

    def _finish_oldest(self) -> None:
        try:
            self.waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ended("writes pictures") from error


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture in the format of its suffix, whole or not at all."""
    write_aside(path, lambda aside: picture.save(aside, **FORMATS[path.suffix[1:]]))


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside `path` and rename it; what a killed process leaves behind begins with a dot."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(aside)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}): make room and repeat the command, it goes on") from error
