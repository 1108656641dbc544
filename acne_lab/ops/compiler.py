"""Compiles sources into a shared library once, and keeps it where every process of the user finds it.

    <cache>/ops/cpu-<recipe>-<compiler>/library.so
    <cache>/ops/cpu-<recipe>-<compiler>/record.json    the library's hash or, of a failure, the compiler's last lines
    <cache>/ops/cpu-<recipe>-<compiler>.lock           the operating system frees it when its holder dies

A folder is made aside and renamed when it is whole, its library is compared with the hash before anybody loads it, and
its name is a hash of whatever could change it: a killed build, a damaged file or a new torch lead to a new build and to
nothing else. A failure is kept like a library, so that not every process tries again.

torch.utils.cpp_extension.load is not used: it starts ninja in every process, waits for a hanging compiler without end,
remembers no failure, gives all sources the same flags, and would link an OpenMP runtime besides torch's. This module
knows nothing of torch, nor of what is in the library.
"""

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

TIME_LIMIT = 1800.0  # seconds for a build, which takes minutes on a busy machine
PATIENCE = TIME_LIMIT + 60  # seconds to wait for another process's build: it may be suspended
NUM_LAST_LINES = 25  # of a failed build's output are kept
KEY_DIGITS = 12


class Unavailable(Exception):
    """There is no library and none can be made; the message says why, and what would help."""


@dataclass(frozen=True)
class Recipe:
    """What a library is made from.

    Args:
        name: what it is called in the cache.
        root: a folder; the content of every file in it counts, headers too.
        sources: a file below `root` -> the flags that it is compiled with.
        include_dirs: folders of headers besides `root`.
        library_dirs: folders of libraries. Like those of headers they may move: `made_for` stands for what they hold.
        link_flags: for the linker.
        made_for: what else the library depends on: versions, kind of machine.
    """

    name: str
    root: Path
    sources: dict[str, tuple[str, ...]]
    include_dirs: tuple[Path, ...] = ()
    library_dirs: tuple[Path, ...] = ()
    link_flags: tuple[str, ...] = ()
    made_for: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        paths = sorted(path for path in self.root.rglob("*") if path.is_file())
        files = {path.relative_to(self.root).as_posix(): _file_hash(path) for path in paths}
        return f"{self.name}-{_digits(files, self.sources, self.link_flags, self.made_for)}"


@dataclass(frozen=True)
class Compiler:
    """A command, with its full path, that compiles (-c SOURCE -o OBJECT) and links (-shared OBJECTS -o LIBRARY)."""

    command: tuple[str, ...]
    version: str

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}: {self.version}"

    @cached_property
    def key(self) -> str:
        return _digits(self.command, self.version)


@dataclass(frozen=True)
class Build:
    """What became of a recipe: a library or, in `error`, the last lines that ninja and the compiler wrote."""

    folder: Path
    compiler: str
    seconds: float
    sha256: str | None
    error: str | None

    @property
    def library(self) -> Path | None:
        return None if self.error else self.folder / "library.so"


def cache_dir() -> Path:
    """ACNE_LAB_CACHE, else acne_lab in the user's cache folder, else (a user without a home) in the temporary one."""
    if "ACNE_LAB_CACHE" in os.environ:
        return Path(os.environ["ACNE_LAB_CACHE"]).absolute()
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"], "acne_lab")
    try:
        return Path.home() / ".cache" / "acne_lab"
    except RuntimeError:
        return _temporary_dir()


def find_compiler(command: Sequence[str], version: str = ".+") -> Compiler:
    """The compiler that `command` runs.

    Args:
        command: its name or path, and what always follows.
        version: a regular expression that finds the version in what it answers to --version.

    Raises:
        Unavailable: it is not there, or gives no such answer.
    """
    path = shutil.which(command[0])
    if path is None:
        raise Unavailable(f"there is no compiler {command[0]}")
    full = (path, *command[1:])
    try:
        told = subprocess.run([*full, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the compiler does not work: {error}") from error
    match = re.search(version, told)
    if match is None:
        raise Unavailable(f"{shlex.join(full)} --version tells no version")
    return Compiler(command=full, version=match[0])


def find(recipe: Recipe, compiler: Compiler | None) -> Build | None:
    """What is known of a recipe, without waiting or writing; without a compiler, any compiler's library."""
    pattern = f"{recipe.key}-{compiler.key if compiler else '?' * KEY_DIGITS}"
    for cache in _caches():
        for folder in sorted(cache.glob(pattern)):
            build = _read(folder)
            if build and (compiler or build.library):
                return build
    return None


def build(
    recipe: Recipe,
    compiler: Compiler,
    *,
    announcement: str,
    retry: bool = False,
    time_limit: float = TIME_LIMIT,
) -> Build:
    """Compile a recipe, unless another process has done so meanwhile.

    Args:
        recipe: what to compile.
        compiler: with what.
        announcement: written to standard error when compiling begins.
        retry: forget that it has failed.
        time_limit: in seconds; a build that takes longer has failed.

    Raises:
        Unavailable: there is no ninja, or no folder to compile in.
    """
    ninja = _find_ninja()
    refusals = []
    for cache in _caches(create=True):
        try:
            return _build_in(cache, recipe, compiler, ninja, announcement, retry, time_limit)
        except OSError as error:
            refusals.append(f"{cache}: {error.strerror or error}")
    raise Unavailable(f"there is no folder to compile in ({'; '.join(refusals)}): set ACNE_LAB_CACHE to one")


def _build_in(
    cache: Path,
    recipe: Recipe,
    compiler: Compiler,
    ninja: str,
    announcement: str,
    retry: bool,
    time_limit: float,
) -> Build:
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{recipe.key}-{compiler.key}"
    lock = FileLock(f"{folder}.lock")
    try:
        holding = lock.acquire(timeout=0)
    except Timeout:
        print(f"{announcement} (another process does it: waiting)", file=sys.stderr)
        holding = lock.acquire(timeout=PATIENCE)
    with holding:
        known = _read(folder)
        if known and not (known.error and retry):
            return known
        for left in cache.glob(f"{folder.name}.part-*"):  # by a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        part = cache / f"{folder.name}.part-{os.urandom(4).hex()}"
        part.mkdir()
        try:
            print(announcement, file=sys.stderr)
            _compile(recipe, compiler, ninja, part, time_limit)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        made = _read(folder)
        if made is None:
            raise OSError("what was written there cannot be read")
        return made


def _compile(recipe: Recipe, compiler: Compiler, ninja: str, part: Path, time_limit: float) -> None:
    """Leave library.so and record.json in `part`, or record.json alone."""
    workshop = part / "workshop"
    workshop.mkdir()
    (workshop / "build.ninja").write_text(_ninja_file(recipe, compiler))
    started = time.perf_counter()
    error = _run(ninja, workshop, time_limit)
    seconds = round(time.perf_counter() - started, 1)
    if error and os.strerror(errno.ENOSPC) in error:  # says nothing of the sources; another folder may have space
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sha256 = None
    if error is None:
        library = (workshop / "library.so").rename(part / "library.so")
        sha256 = _file_hash(library)
    shutil.rmtree(workshop, ignore_errors=True)
    record = {"compiler": str(compiler), "seconds": seconds, "sha256": sha256, "error": error}
    (part / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def _ninja_file(recipe: Recipe, compiler: Compiler) -> str:
    """Sources are no dependencies in it: the folder is fresh, and ninja is there to run what can run at once."""
    includes = [f"-I{recipe.root}"]
    for folder in recipe.include_dirs:
        includes += ["-isystem", str(folder)]
    lines = ["rule run", "  command = $words", "  description = $out"]

    def step(output: str, inputs: Sequence[str], words: Sequence[str]) -> None:
        text = shlex.join([*compiler.command, *words, "-o", output]).replace("$", "$$")
        lines.extend([f"build {output}: run {' '.join(inputs)}", f"  words = {text}"])

    objects = []
    for number, (source, flags) in enumerate(recipe.sources.items()):
        objects.append(f"{number}.o")
        step(objects[-1], [], [*flags, *includes, "-c", str(recipe.root / source)])
    library_dirs = [f"-L{folder}" for folder in recipe.library_dirs]
    step("library.so", objects, ["-shared", *objects, *library_dirs, *recipe.link_flags])
    return "\n".join(lines) + "\n"


def _run(ninja: str, folder: Path, time_limit: float) -> str | None:
    """Run ninja; return None, or the last lines that it wrote and how it ended."""
    output = folder / "output.txt"  # no pipe: a process that outlives the compiler would keep it open
    with output.open("wb") as file:
        process = subprocess.Popen(
            [ninja],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is for us, to end it in order
        )
    try:
        status = process.wait(time_limit)
        ending = f"{ninja} ended with status {status}"
    except subprocess.TimeoutExpired:
        status, ending = None, f"stopped: not done after {time_limit:g} s"
    finally:
        if process.poll() is None:
            process.terminate()  # ninja passes it on to what it has started
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    if status == 0:
        return None
    return "\n".join([*output.read_text(errors="replace").splitlines()[-NUM_LAST_LINES:], ending])


def _find_ninja() -> str:
    """The one that is installed beside this interpreter, which need not be on the PATH, or any other."""
    folders = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    ninja = shutil.which("ninja", path=folders)
    if ninja is None:
        raise Unavailable("there is no ninja: pip install ninja")
    return ninja


def _caches(*, create: bool = False) -> Iterator[Path]:
    """Where builds are looked for and made, best first."""
    yield cache_dir() / "ops"
    temporary = _temporary_dir()
    if create:
        with suppress(OSError):
            temporary.mkdir(mode=0o700, exist_ok=True)
    if _is_ours(temporary):
        yield temporary / "ops"


def _temporary_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"acne_lab-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put a library into it: its name is easy to guess."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _read(folder: Path) -> Build | None:
    """None if the folder is not there, or not whole."""
    try:
        build = Build(folder, **json.loads((folder / "record.json").read_text()))
        if build.library and _file_hash(build.library) != build.sha256:
            return None
    except (OSError, ValueError, TypeError):
        return None
    return build


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digits(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]
