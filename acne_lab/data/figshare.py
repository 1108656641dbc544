"""Download the files of a public figshare article: resumed where they broke off, compared with their checksums.

    for file in article_files(25033928):
        download(file, folder)             # whole and checked, or not there

It uses two parts of figshare's public API (https://docs.figshare.com, version 2), without an account: the list of an
article's files, and the download of one. What is in a file is not its question.
"""

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from tqdm import tqdm

from acne_lab import __version__

API = "https://api.figshare.com/v2"

T = TypeVar("T")

_TIMEOUT = 30  # seconds without a byte
_LONGEST_WAIT = 120  # seconds, whatever the server asks for
_PAGE_SIZE = 100  # files in one answer
_CHUNK = 2**18
_BUSY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be better next time


class Unavailable(ValueError):
    """The article or a file of it cannot be had. The message says why, and leaves what to do instead to the caller."""


class _Again(Exception):
    """What the next try may bring; `seconds` is how long the server asks to be left alone."""

    def __init__(self, reason: str, *, seconds: float = 0) -> None:
        self.seconds = seconds
        super().__init__(reason)


@dataclass(frozen=True)
class RemoteFile:
    """A file of an article.

    Args:
        name: without folders.
        size: bytes.
        md5: hexadecimal; "" where figshare has none, and the size must do.
        urls: where it can be had; where one refuses, the next is asked.
    """

    name: str
    size: int
    md5: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Patience:
    """How often a server that is busy or breaks off is asked, and with which pauses.

    Args:
        num_tries: in a row, without a new byte.
        wait: seconds before the second try; they double with each one, up to two minutes.
    """

    num_tries: int = 6
    wait: float = 1.0

    def __call__(self, attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """`attempt()`, made again while it raises _Again. A try after which `progress()` has grown counts as none."""
        failed = 0
        while True:
            before = progress()
            try:
                return attempt()
            except _Again as error:
                failed = 1 if progress() > before else failed + 1
                if failed >= self.num_tries:
                    raise Unavailable(f"{error}; tried {failed} times") from error
                time.sleep(min(max(error.seconds, self.wait * 2 ** (failed - 1)), _LONGEST_WAIT))


PATIENT = Patience()


def article_files(article: int, *, api: str = API, patience: Patience = PATIENT) -> list[RemoteFile]:
    """The files of the newest version of a public article.

    Args:
        article: its number, the last part of its address.
        api: root of the API.

    Raises:
        Unavailable: there is no such public article, no network, or no answer that the API promises.
    """
    listed: dict[int, RemoteFile] = {}
    for page in range(1, 1000):
        url = f"{api}/articles/{article}/files?page={page}&page_size={_PAGE_SIZE}"
        answer = patience(lambda url=url: _read(url))
        try:
            files = {int(entry["id"]): _remote_file(entry, api) for entry in json.loads(answer)}
        except Unavailable:
            raise
        except (ValueError, TypeError, KeyError) as error:  # no JSON, or a number that is none
            raise Unavailable(f"{url} does not answer as figshare's API does ({error!r})") from error
        is_last = len(files) < _PAGE_SIZE or not files.keys() - listed.keys()  # a server may not know pages
        listed |= files
        if is_last:
            break
    if not listed:
        raise Unavailable(f"article {article} of {api} has no files")
    return list(listed.values())


def download(file: RemoteFile, folder: Path, *, patience: Patience = PATIENT) -> Path:
    """Fetch a file into `folder`, going on where an earlier call broke off; one that is there is only checked.

    Returns:
        its path. The file is there whole, with the size and the checksum that figshare lists, or not at all.

    Raises:
        Unavailable: no address gives it, or what they give is something else.
        ValueError: another file of that name is in the folder, or the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    # Of another version of the file nothing is taken over: the checksum is in the name.
    part = folder / f".{file.name}.{file.md5 or file.size}.part"
    with FileLock(folder / f".{file.name}.lock"):
        if target.exists():
            if wrong := _difference(target, file):
                raise ValueError(f"{target} is not figshare's file of that name ({wrong}): move it away and repeat")
            return target
        refusals = []
        for url in file.urls:
            try:
                _require_room(file.size - _size(part), folder)
                _fetch(url, file, part, patience)
                if wrong := _difference(part, file):
                    part.unlink()
                    raise Unavailable(f"{url} gives another file ({wrong})")
            except Unavailable as error:
                refusals.append(str(error))
            else:
                os.replace(part, target)
                return target
    raise Unavailable("; ".join(refusals))


def _fetch(url: str, file: RemoteFile, part: Path, patience: Patience) -> None:
    """Make `part` as long as the file."""
    with tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, unit_divisor=1024, delay=1) as bar:

        def attempt() -> None:
            if _size(part) > file.size:
                part.unlink()
            start = _size(part)
            if start == file.size and part.exists():
                return
            with _network(url), _open(url, start=start) as response:
                start = bar.n = _start_of(response, url, asked=start, size=file.size)
                with part.open("ab" if start else "wb") as out:
                    while chunk := response.read(_CHUNK):
                        out.write(chunk)
                        bar.update(len(chunk))
                        if out.tell() > file.size:
                            raise Unavailable(f"{url} sends more than the {file.size:,} bytes that figshare lists")
            if _size(part) < file.size:
                raise _Again(f"{url} broke off after {_size(part):,} of {file.size:,} bytes")

        patience(attempt, progress=lambda: _size(part))


def _start_of(response: http.client.HTTPResponse, url: str, *, asked: int, size: int) -> int:
    """At which byte the answer begins: where it was asked to, or at 0 if the server does not know ranges."""
    if response.status == 206:
        unit, _, place = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = place.partition("/")
        if unit != "bytes" or span.partition("-")[0] != str(asked) or total not in (str(size), "*"):
            raise Unavailable(f"{url} was asked for bytes from {asked} of {size} and sends {unit} {place}")
        return asked
    length = response.headers.get("Content-Length")
    if length is not None and length != str(size):
        raise Unavailable(f"{url} sends {length} bytes, not the {size} that figshare lists")
    return 0


def _read(url: str) -> bytes:
    with _network(url), _open(url) as response:
        return response.read()


def _open(url: str, *, start: int = 0) -> http.client.HTTPResponse:
    """A GET of the bytes from `start`; the answer has status 200 or 206. To be used within `_network`."""
    if not url.startswith(("https://", "http://")):  # urllib would also open local files
        raise Unavailable(f"{url} is no web address")
    headers = {"User-Agent": f"acne-lab/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"{url} answers {error.code} {error.reason}"
        if error.code in _BUSY:
            asked = error.headers.get("Retry-After", "")
            raise _Again(said, seconds=int(asked) if asked.isdecimal() else 0) from error
        raise Unavailable(said) from error
    if response.status not in (200, 206):  # 202: a page that asks whether a person is there
        response.close()
        raise Unavailable(f"{url} answers {response.status} {response.reason}")
    return response


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Failures of the network in this block say which address they are about, and whether another try may help."""
    try:
        yield
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        said = f"{url} cannot be reached ({reason})"
        # Without a network no name is known, and a certificate does not get better.
        if isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError):
            raise Unavailable(said) from error
        raise _Again(said) from error


def _remote_file(entry: dict, api: str) -> RemoteFile:
    name = str(entry["name"])
    if entry.get("is_link_only"):
        raise Unavailable(f"{name} is not kept by figshare, but at {entry['download_url']}")
    if not name or name.startswith(".") or {"/", "\\"} & set(name):
        raise Unavailable(f"figshare lists {name!r}, which is not the name of a file")
    return RemoteFile(
        name=name,
        size=int(entry["size"]),
        md5=str(entry.get("computed_md5") or entry.get("supplied_md5") or "").lower(),
        # The API's own address gives the file to programs; the one for browsers may ask whether a person is there.
        urls=(f"{api}/file/download/{int(entry['id'])}", str(entry["download_url"])),
    )


def _difference(path: Path, file: RemoteFile) -> str:
    """How the file at `path` differs from what figshare lists; "" where it does not."""
    if _size(path) != file.size:
        return f"{_size(path):,} bytes, not {file.size:,}"
    with path.open("rb") as content:
        md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"md5 {md5}, not {file.md5}" if file.md5 and md5 != file.md5 else ""


def _require_room(num_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder} has room for {free / 2**30:,.1f} GiB and needs {num_bytes / 2**30:,.1f}: make room and repeat"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
