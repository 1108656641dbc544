"""Packed pixels: all images of a table as one memory-mapped uint8 array, built once per content and
resolution.

The file's address is a hash of what is in it (the images' sha256s in row order, the resolution, the fit),
so it is never stale: other labels or splits share it, other pixels get another file. Deleting the cache
costs time only.
"""

import hashlib
import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from acne_lab.data.photo import Fit, fit_square, read_photo
from acne_lab.data.table import BadData, ImageTable

VERSION = 1  # change it with anything that changes the pixels: decoding, resize kernel, padding colour


def pack(table: ImageTable, *, resolution: int, fit: Fit, cache_dir: str | Path, num_workers: int) -> np.memmap:
    """The table's images as one array, from the cache if they are there.

    Args:
        table: whose images.
        resolution: side in pixels.
        fit: how a photograph that is not square becomes so (`photo.fit_square`).
        cache_dir: where packed arrays are kept, as `<key>/images.npy`.
        num_workers: decoding threads (Pillow releases the interpreter's lock while it decodes and resizes).

    Returns:
        uint8 [N, resolution, resolution, 3] in the table's row order, memory-mapped and read-only.

    Raises:
        BadData: files have vanished or changed since the table was made; names them.
        ValueError: the disk has no room.
    """
    path = Path(cache_dir) / pack_key(table, resolution=resolution, fit=fit) / "images.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name("lock")):
            if not path.exists():  # another process may have built it while this one waited
                _build(table, path, resolution, fit, num_workers)
    return np.load(path, mmap_mode="r")


def pack_key(table: ImageTable, *, resolution: int, fit: Fit) -> str:
    """16 hex digits of what decides the packed pixels."""
    content = [VERSION, resolution, fit, table.rows["sha256"].tolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _build(table: ImageTable, path: Path, resolution: int, fit: Fit, num_workers: int) -> None:
    """Fill the array under another name, then rename it: a build that is cut off leaves nothing at `path`."""
    shape = (len(table), resolution, resolution, 3)
    _require_space(path.parent, int(np.prod(shape)))
    aside = path.with_name("images.npy.part")
    pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)

    def fill(item: tuple[int, str, str]) -> str | None:
        index, file_name, sha256 = item
        try:
            content = (table.root / file_name).read_bytes()
        except OSError as error:
            return f"{file_name}: cannot be read ({error.strerror})"
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{file_name}: has changed since the table was made"
        # A JPEG decoded at no less than twice the target leaves the resize enough to filter.
        photo = read_photo(io.BytesIO(content), draft_side=2 * resolution)
        pixels[index] = fit_square(photo, resolution, fit)
        return None

    items = list(zip(range(len(table)), table.rows["file_name"], table.rows["sha256"]))
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        bar = tqdm(pool.map(fill, items), total=len(items), desc=f"pack {resolution} px", unit="img", delay=1)
        problems = [problem for problem in bar if problem]
    if problems:
        aside.unlink()
        raise BadData(problems, "put the files back, or run `acne-lab prepare` again to make a new table")
    pixels.flush()
    os.replace(aside, path)


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"packing needs {num_bytes / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free: "
            "make room, lower data.resolution, or put the cache elsewhere (data.cache_dir)"
        )
