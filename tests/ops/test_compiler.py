"""Builds that are killed, hang, fail or meet: real processes, real compilers, sources of one line."""

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acne_lab.ops import compiler
from acne_lab.ops.compiler import Compiler, Recipe

CHILD = """
import ctypes, json, signal, sys
from pathlib import Path
from acne_lab.ops import compiler
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
root, cxx, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
compiler.PATIENCE = options.pop("patience", compiler.PATIENCE)
recipe = compiler.Recipe(name="tiny", root=root, sources={"one.cpp": ("-fPIC",), "two.cpp": ("-fPIC", "-O1")})
try:
    tool = compiler.find_compiler([cxx])
    found = compiler.find(recipe, tool)
    made = found or compiler.build(recipe, tool, announcement="compiling tiny", **options)
    answer = made.library and ctypes.CDLL(made.library).answer()
    print(json.dumps({"answer": answer, "library": str(made.library), "error": made.error}))
except compiler.Unavailable as problem:
    print(json.dumps({"unavailable": str(problem)}))
"""

WRAPPER = """#!/bin/sh
case "$*" in
--version) exec c++ --version ;;
*" -c "*)
    echo compile >> {log}
    if [ -e {slow} ]; then echo $$ >> {log}; exec sleep 60; fi ;;
esac
exec c++ "$@"
"""


class Place:
    """Sources, a cache and a compiler that counts its calls and hangs while the file `slow` exists."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.cache = folder, folder / "src", folder / "cache"
        self.root.mkdir(parents=True)
        (self.root / "one.cpp").write_text('#include "number.h"\nextern "C" int answer() { return NUMBER; }\n')
        (self.root / "two.cpp").write_text("int two() { return 2; }\n")
        (self.root / "number.h").write_text("#define NUMBER 42\n")
        self.slow, self.log, self.cxx = folder / "slow", folder / "log", folder / "cxx"
        self.log.touch()
        quoted = {"log": shlex.quote(str(self.log)), "slow": shlex.quote(str(self.slow))}
        self.cxx.write_text(WRAPPER.format(**quoted))
        self.cxx.chmod(0o755)
        self.environment = {**os.environ, "ACNE_LAB_CACHE": str(self.cache)}

    @property
    def num_compiles(self) -> int:
        return self.log.read_text().split().count("compile") // 2

    @property
    def hanging(self) -> list[int]:
        return [int(word) for word in self.log.read_text().split() if word.isdigit()]

    def start(
        self,
        cxx: str | None = None,
        python: str = sys.executable,
        preexec_fn: Callable[[], object] | None = None,
        **options,
    ) -> subprocess.Popen:
        arguments = [str(self.root), cxx or str(self.cxx), json.dumps(options)]
        return subprocess.Popen(
            [python, "-c", CHILD, *arguments],
            env=self.environment,
            preexec_fn=preexec_fn,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, **options) -> dict:
        return result(self.start(**options))


def result(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return {**json.loads(out), "stderr": err}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def as_anybody() -> None:
    """Take from root the right to write where it may not, from the next program on."""
    if os.getuid() == 0:
        drop_from_bounding_set, override_permissions = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions, 0, 0, 0) == 0


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def test_compiled_once(place):
    first = place.run()
    assert first["answer"] == 42
    assert first["stderr"] == "compiling tiny\n"
    again = place.run()
    assert again["library"] == first["library"]
    assert again["stderr"] == ""
    assert place.num_compiles == 1
    folder = Path(first["library"]).parent
    assert folder.parent == place.cache / "ops"
    assert sorted(path.name for path in folder.iterdir()) == ["library.so", "record.json"]


def test_a_changed_header_is_another_library(place):
    before = place.run()
    (place.root / "number.h").write_text("#define NUMBER 43\n")
    after = place.run()
    assert after["answer"] == 43
    assert after["library"] != before["library"]


CHANGES = {
    "name": {"name": "cuda"},
    "flags": {"sources": {"a.cpp": ("-O2",)}},
    "sources": {"sources": {"a.cpp": (), "b.cpp": ()}},
    "link_flags": {"link_flags": ("-s",)},
    "made_for": {"made_for": ("torch 2",)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_in_the_key(tmp_path, change):
    (tmp_path / "a.cpp").write_text("int a;")
    recipe = Recipe(name="cpu", root=tmp_path, sources={"a.cpp": ()}, made_for=("torch 1",))
    assert recipe.key == replace(recipe, include_dirs=(tmp_path,), library_dirs=(tmp_path,)).key
    assert recipe.key != replace(recipe, **change).key


def test_the_compiler_is_in_the_key():
    keys = {Compiler(("/a/c++",), "1").key, Compiler(("/b/c++",), "1").key, Compiler(("/a/c++",), "2").key}
    assert len(keys) == 3


def test_two_processes_at_once(place):
    processes = [place.start(), place.start()]
    results = [result(process) for process in processes]
    assert [one["answer"] for one in results] == [42, 42]
    assert place.num_compiles == 1


def test_the_second_process_waits_for_the_first(place):
    place.slow.touch()
    first = place.start()
    until(lambda: len(place.hanging) == 2)
    second = place.start()
    assert second.stderr.readline() == "compiling tiny (another process does it: waiting)\n"
    place.slow.unlink()
    for pid in place.hanging:
        os.kill(pid, signal.SIGKILL)
    assert "ended with status" in result(first)["error"]
    assert "ended with status" in result(second)["error"]  # the failure is the second one's, too
    assert place.num_compiles == 1


def test_killed_while_it_builds(place):
    place.slow.touch()
    first = place.start()
    until(lambda: len(place.hanging) == 2)
    first.kill()
    first.wait()
    place.slow.unlink()
    second = place.run()
    assert second["answer"] == 42
    assert second["stderr"] == "compiling tiny\n"  # it has not waited
    for pid in place.hanging:
        os.kill(pid, signal.SIGKILL)
    assert {path.suffix for path in (place.cache / "ops").iterdir()} == {"", ".lock"}


def test_a_suspended_builder_stops_nobody(place, tmp_path):
    place.environment["TMPDIR"] = str(tmp_path)
    place.slow.touch()
    first = place.start()
    until(lambda: len(place.hanging) == 2)
    first.send_signal(signal.SIGSTOP)
    place.slow.unlink()
    second = place.run(patience=0.5)
    for pid in (first.pid, *place.hanging):
        os.kill(pid, signal.SIGKILL)
    first.communicate()
    assert second["answer"] == 42
    assert Path(second["library"]).is_relative_to(tmp_path / f"acne_lab-{os.getuid()}")


def test_interrupted_while_it_builds(place):
    place.slow.touch()
    process = place.start()
    until(lambda: len(place.hanging) == 2)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    until(lambda: not any(map(is_alive, place.hanging)))
    assert [path.suffix for path in (place.cache / "ops").iterdir()] == [".lock"]


def test_a_hanging_compiler_is_stopped_and_remembered(place):
    place.slow.touch()
    hung = place.run(time_limit=1.5)
    assert hung["answer"] is None
    assert hung["error"].endswith("stopped: not done after 1.5 s")
    until(lambda: not any(map(is_alive, place.hanging)))
    place.slow.unlink()
    again = place.run()
    assert (again["error"], again["stderr"]) == (hung["error"], "")


def test_an_error_is_kept_until_somebody_retries(place):
    header = place.root / "number.h"
    header.write_text("#error there is no number\n")
    failed = place.run()
    assert "there is no number" in failed["error"]
    assert place.run()["error"] == failed["error"]
    assert place.num_compiles == 1


def test_a_retry_replaces_the_failure(place, monkeypatch):
    monkeypatch.setenv("ACNE_LAB_CACHE", str(place.cache))
    place.slow.touch()
    recipe = Recipe(name="tiny", root=place.root, sources={"one.cpp": ("-fPIC",)})
    tool = compiler.find_compiler([str(place.cxx)])
    failed = compiler.build(recipe, tool, announcement="", time_limit=0.3)
    assert failed.error
    place.slow.unlink()
    assert compiler.build(recipe, tool, announcement="") == failed
    made = compiler.build(recipe, tool, announcement="", retry=True)
    assert made.library.exists()
    assert compiler.find(recipe, tool) == made


@pytest.mark.parametrize("damage", ["truncated", "no library", "half a record"])
def test_a_damaged_library_is_compiled_again(place, damage):
    library = Path(place.run()["library"])
    if damage == "truncated":
        os.truncate(library, library.stat().st_size // 2)
    elif damage == "no library":
        library.unlink()
    else:
        record = library.with_name("record.json")
        os.truncate(record, record.stat().st_size // 2)
    assert place.run()["answer"] == 42
    assert place.num_compiles == 2
    assert place.run()["stderr"] == ""


def test_without_a_compiler(place, monkeypatch):
    assert place.run(cxx="no-such-c++") == {"unavailable": "there is no compiler no-such-c++", "stderr": ""}
    (place.folder / "broken").write_text("#!/bin/sh\nexit 3\n")
    (place.folder / "broken").chmod(0o755)
    assert "exit status 3" in place.run(cxx=str(place.folder / "broken"))["unavailable"]

    # What another machine has compiled into a shared cache is good.
    monkeypatch.setenv("ACNE_LAB_CACHE", str(place.cache))
    sources = {"one.cpp": ("-fPIC",), "two.cpp": ("-fPIC", "-O1")}
    recipe = Recipe(name="tiny", root=place.root, sources=sources)
    assert compiler.find(recipe, None) is None
    library = place.run()["library"]
    assert str(compiler.find(recipe, None).library) == library
    assert compiler.find(recipe, Compiler(("/another/c++",), "1")) is None


def test_without_ninja(place, tmp_path):
    """In an environment that has none, with an empty PATH."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    place.environment["PATH"] = str(tmp_path)
    site_packages = [path for path in sys.path if path.endswith("site-packages")]
    here = str(Path(compiler.__file__).parents[2])
    place.environment["PYTHONPATH"] = os.pathsep.join([here, *site_packages])
    said = place.run(python=str(tmp_path / "venv" / "bin" / "python"), cxx=shutil.which("c++"))
    assert said == {"unavailable": "there is no ninja: pip install ninja", "stderr": ""}


def test_paths_with_spaces_and_signs(tmp_path):
    place = Place(tmp_path / "it's $HOME & more")
    assert place.run()["answer"] == 42


def test_a_cache_that_cannot_be_made(place, tmp_path):
    place.environment["ACNE_LAB_CACHE"] = "/proc/acne_lab"
    place.environment["TMPDIR"] = str(tmp_path)
    made = place.run()
    assert made["answer"] == 42
    assert Path(made["library"]).is_relative_to(tmp_path / f"acne_lab-{os.getuid()}")
    assert place.run()["library"] == made["library"]
    assert place.num_compiles == 1


def test_a_temporary_folder_that_others_can_write_is_not_trusted(place, tmp_path):
    place.environment["ACNE_LAB_CACHE"] = "/proc/acne_lab"
    place.environment["TMPDIR"] = str(tmp_path)
    folder = tmp_path / f"acne_lab-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    said = place.run()["unavailable"]
    assert said.startswith("there is no folder to compile in (/proc/acne_lab/ops: ")
    assert said.endswith("set ACNE_LAB_CACHE to one")


def test_a_read_only_cache(place, tmp_path):
    """It is used as it is; what it does not hold goes into a temporary folder."""
    place.environment["TMPDIR"] = str(tmp_path)
    library = place.run()["library"]
    for folder in (place.cache, place.cache / "ops"):
        folder.chmod(0o555)
    touch = subprocess.run(["touch", place.cache / "ops" / "x"], preexec_fn=as_anybody, check=False)
    assert touch.returncode != 0
    found = place.run(preexec_fn=as_anybody)
    assert (found["library"], found["stderr"]) == (library, "")
    (place.root / "number.h").write_text("#define NUMBER 43\n")
    made = place.run(preexec_fn=as_anybody)
    assert made["answer"] == 43
    assert Path(made["library"]).is_relative_to(tmp_path / f"acne_lab-{os.getuid()}")


def test_a_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("ACNE_LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert compiler.cache_dir() == Path.home() / ".cache" / "acne_lab"
    monkeypatch.setattr(Path, "home", no_home)
    assert compiler.cache_dir().name == f"acne_lab-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compiler.cache_dir() == Path("/somewhere/acne_lab")
    monkeypatch.setenv("ACNE_LAB_CACHE", "here")
    assert compiler.cache_dir() == Path("here").absolute()


def test_a_full_disk_is_no_verdict_on_the_sources(place):
    """It is not remembered: the next process compiles."""
    full = place.folder / "full"
    full.write_text(
        f"#!/bin/sh\nif [ -e {shlex.quote(str(place.slow))} ]; then\n"
        'case "$*" in *" -c "*) echo "error writing to one.o: No space left on device" >&2; exit 1 ;;'
        '\nesac\nfi\nexec c++ "$@"\n'
    )
    full.chmod(0o755)
    place.slow.touch()
    assert "No space left on device" in place.run(cxx=str(full))["unavailable"]
    place.slow.unlink()
    assert place.run(cxx=str(full))["answer"] == 42
