"""Unpack a zip file that somebody else has made: nothing lands outside of its folder, and no more than was agreed.

It knows zip alone, and not what the files in it are.
"""

import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

MAX_NESTING = 3  # zip files in zip files: real sets have one level, and a file that contains itself has no end
MAX_BYTES = 64 * 2**30  # unpacked: far above any set of images here, far below what fills a server


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack `archive` as `folder`, which is there whole or not at all. One that is there already is left as it is.

    Hidden files are left out, and with them what macOS adds.

    Raises:
        ValueError: the archive is damaged, asks for a password, is larger than `max_bytes` or than the disk, or has an
            entry that is a link or would lie outside of `folder`. Nothing of it is written then, or nothing is left.
    """
    if folder.exists():
        return folder
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():  # by another process that wanted it too
            _unpack(archive, folder, max_bytes)
    return folder


def unpack_all(find: Callable[[], Iterable[Path]], *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack each zip file beside itself, then those that were in them.

    Args:
        find: the zip files that are there now.
        max_bytes: of all of them together, unpacked.

    Raises:
        ValueError: as `unpack`, or they are nested in more than `MAX_NESTING` levels.
    """
    unpacked: set[Path] = set()
    for _ in range(MAX_NESTING):
        archives = sorted(set(find()) - unpacked)
        for archive in archives:
            folder = unpack(archive, archive.with_suffix(""), max_bytes=max_bytes)
            max_bytes -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        unpacked |= set(archives)
    if left := sorted(set(find()) - unpacked):
        raise ValueError(f"{left[0]} lies in more than {MAX_NESTING} zip files: unpack it by hand, if you trust it")


def _unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.unpacking")
    try:
        with zipfile.ZipFile(archive) as file:
            files = _safe_files(file, archive)
            _require_room(sum(entry.file_size for entry, _ in files), folder.parent, archive, max_bytes)
            aside.mkdir(parents=True)
            for entry, name in tqdm(files, desc=f"unpack {archive.name}", unit="file", delay=1):
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # It never reads on behind the size that the entry declares, so the sum above holds whatever is in it.
                with file.open(entry) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
        aside.rename(folder)
    # RuntimeError: a password; NotImplementedError: a compression that Python does not know.
    # FileExistsError, NotADirectoryError: one entry is a file and a folder of others.
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        FileExistsError,
        NotADirectoryError,
        IsADirectoryError,
    ) as error:
        raise ValueError(
            f"{archive} cannot be unpacked ({error}): remove it and get it again, or unpack it by other means"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _safe_files(file: zipfile.ZipFile, archive: Path) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files to unpack, each with its place below the folder."""
    files = []
    for entry in file.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/"))  # as Windows writes them
        if not name.parts:  # "./": the folder itself
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"{archive} holds a link ({entry.filename}): unpack it by hand, if you trust it")
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ValueError(f"{archive} holds {entry.filename}, which would lie outside of its folder: do not use it")
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
        if not hidden and not entry.filename.endswith(("/", "\\")):
            files.append((entry, name))
    return files


def _require_room(num_bytes: int, folder: Path, archive: Path, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ValueError(
            f"{archive} would unpack to {num_bytes / 2**30:,.1f} GiB, more than {max_bytes / 2**30:,.1f} GiB: "
            "unpack it by hand, if you trust it"
        )
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{archive} unpacks to {num_bytes / 2**30:,.1f} GiB, but {folder} has room for {free / 2**30:,.1f} GiB: "
            "make room and repeat the command"
        )
