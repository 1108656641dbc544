"""Run folders: `runs/<job>/<name>-<key>/`, done or resumable or absent, never half.

The key is a hash of what determines the result: the resolved config without what cannot change it, and the
keys of the runs and tables it reads. The code version is recorded in `environment.json`, not hashed.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from acne_lab.processes import SECONDS_BETWEEN_LOOKS, meeting, rank

# Top-level nodes that say where things lie and how to show them, or name inputs, whose keys are hashed instead.
NOT_IN_KEY = {"name", "runs_dir", "logger", "callbacks", "num_threads", "num_workers", "batch_size"}
NOT_IN_KEY |= {"init_from", "run", "test"}
NOT_IN_KEY |= {"balance", "edit"}  # the rows that they add
NOT_IN_KEY |= {"allow_unknown_parents"}  # a permission
DATA_IN_KEY = ("resolution", "fit")  # the rest of `data` is in the table's key
DEVICES = {"accelerator", "devices", "num_nodes", "strategy"}  # of the trainer: where it runs, not what
JOURNAL = "journal.jsonl"  # of a run that is made piece by piece: the pieces that are done
PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "timm",
    "torchmetrics",
    "numpy",
    "acne-lab",
)


# What a run can hold, as errors name it.
TABLE, GAN, GRADER, PICTURES, STUDY = "an image table", "a GAN", "a grader", "pictures", "a study"
REFINER = "a refiner"


class NoSuchRun(ValueError):
    """Nothing has that name."""


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name.rsplit("-", 1)[1]

    @property
    def job(self) -> str:
        return self.path.parent.name

    @property
    def names(self) -> tuple[str, str, str]:
        """What it can be called: `gan_mild`, `gan_mild-<key>`, `train/gan_mild-<key>`."""
        return self.path.name.rsplit("-", 1)[0], self.path.name, f"{self.job}/{self.path.name}"

    @property
    def holds(self) -> str:
        """What a later job can take from it, finished or not."""
        if self.job == "train":
            return {"gan": GAN, "grader": GRADER, "refiner": REFINER}[self.config["task"]]
        if self.job == "generate":
            return PICTURES if self.config["mode"] else TABLE
        return {"prepare": TABLE, "balance": TABLE, "study": STUDY}.get(self.job, self.job)

    @property
    def done(self) -> bool:
        return (self.path / "DONE").exists()

    @property
    def seconds(self) -> float:
        """Wall time of the command that finished it."""
        return json.loads((self.path / "DONE").read_text())["seconds"]

    @property
    def config(self) -> dict:
        """The resolved config it was made with."""
        return yaml.safe_load((self.path / "config.yaml").read_text())

    @property
    def metrics(self) -> dict:
        return json.loads((self.path / "metrics.json").read_text())

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if it has one."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.exists() else None

    def write_metrics(self, metrics: dict) -> None:
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def run_key(config: dict, inputs: Sequence[str] = ()) -> str:
    """Ten hex digits of the config, as far as it determines the result, and of the inputs' keys in order."""
    evaluation = (config.get("callbacks") or {}).get("evaluation")  # it chooses the tick that a run ends with
    named_inputs = NOT_IN_KEY | ({"table"} if isinstance(config.get("table"), str) else set())  # else a description
    config = {name: node for name, node in config.items() if name not in named_inputs}
    if evaluation:
        config["evaluation"] = evaluation
    if "data" in config:
        # A refiner sees photographs in their own size.
        config["data"] = {name: config["data"][name] for name in DATA_IN_KEY if config.get("task") != "refiner"}
    if "trainer" in config:
        config["trainer"] = {name: value for name, value in config["trainer"].items() if name not in DEVICES}
    text = json.dumps([config, list(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def file_key(path: Path) -> str:
    """Sixteen hex digits of a file's content: the key of an input that is no run."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@contextmanager
def open_run(config: dict, *, job: str, inputs: Sequence[str] = ()) -> Iterator[Run]:
    """Lock the run that `config` and `inputs` name, and mark it DONE when the block ends without an error.

    A second process that wants the same run waits here until the first is through and then finds it done:
    check `run.done` first thing. A run that was interrupted keeps its files, so that the block can resume it.
    Of several processes that train together, the first keeps the lock and the files. The others come in when it has
    them, and find the run done if it does.
    """
    key = run_key(config, inputs)
    folder = Path(config["runs_dir"]).resolve() / job
    together = "strategy" in config.get("trainer", {})
    others = meeting() if together else None
    if together and rank() > 0:
        is_done = others is not None and others.listen() == "done"
        while is_done and not Run(_folder_of(folder, config["name"], key)).done:
            time.sleep(SECONDS_BETWEEN_LOOKS)  # a shared file system may be slow to show it here
        yield Run(_folder_of(folder, config["name"], key))
        return
    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".locks" / f"{key}.lock")
    try:
        holding = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process works on {job} {key}: waiting for it", file=sys.stderr)
        holding = lock.acquire()
    with holding:
        run = Run(_folder_of(folder, config["name"], key))
        if others:
            others.announce("done" if run.done else "train")
        if run.done:
            yield run
            return
        started = time.perf_counter()
        run.path.mkdir(parents=True, exist_ok=True)
        write_text(run.path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        write_text(run.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        try:
            yield run
        except ValueError:  # the user's input is wrong: leave nothing behind but the work of hours
            if not _has_work(run):
                shutil.rmtree(run.path)
            raise
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = time.perf_counter() - started
        write_text(run.path / "DONE", json.dumps({"finished": finished, "seconds": round(seconds, 1)}) + "\n")


def _has_work(run: Run) -> bool:
    """Whether it holds what took its time: a checkpoint, a curve, pieces that a journal names, or images of its own."""
    images = run.path / "table" / "images"  # or a link to the user's
    is_made = not images.is_symlink() and any(path.is_file() for path in images.rglob("*.*"))
    return bool(run.last_checkpoint or is_made or any((run.path / name).exists() for name in ("metrics.csv", JOURNAL)))


def _folder_of(folder: Path, name: str, key: str) -> Path:
    """The name is not in the key: a run that was made under another name is the same run."""
    found = sorted(folder.glob(f"*-{key}"))
    return found[0] if found else folder / f"{name}-{key}"


def find_run(reference: str | Path, runs_dir: str | Path, *, holds: str) -> Run:
    """The finished run at a path, or the newest of a name: `gan_mild`, `gan_mild-<key>`, or how these begin.

    Args:
        holds: what the run must hold, e.g. `GAN`; others of that name are passed over.

    Raises:
        NoSuchRun: nothing has that name.
        ValueError: what has it holds something else, or is not finished.
    """
    path = Path(reference)
    if (path / "config.yaml").exists():
        named = [Run(path.resolve())]
        matches = [run for run in named if run.holds == holds]
    else:
        named = named_runs(str(reference), Path(runs_dir).resolve())
        exact = [run for run in named if str(reference) in run.names]
        matches = [run for run in exact if run.holds == holds] or [run for run in named if run.holds == holds]
        named = exact or named
    if not named:
        raise NoSuchRun(f"there is no run {reference}: give the path of a run folder (acne-lab runs lists them)")
    if not matches:
        raise ValueError(
            f"{reference} names {named[-1].holds} ({named[-1].path}), not {holds}: give the name or the path of "
            "one (acne-lab runs lists them)"
        )
    run = ([run for run in matches if run.done] or matches)[-1]
    if len(matches) > 1:
        print(f"{reference} names {len(matches)} runs: taking the newest, {run.path}", file=sys.stderr)
    if not run.done:
        raise ValueError(f"the run {run.path} is not finished: repeat the command that made it, it goes on")
    return run


def named_runs(beginning: str, runs_dir: Path) -> list[Run]:
    """The runs whose names begin so, the newest last."""
    configs = sorted(runs_dir.glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime)
    runs = [Run(config.parent) for config in configs]
    return [run for run in runs if any(name.startswith(beginning) for name in run.names)]


def find_table(reference: str, runs_dir: str | Path) -> Path:
    """The folder of an image table: one that is no run's, or that of the run that `find_run` finds."""
    path = Path(reference)
    is_run = (path / "config.yaml").exists() and not (path / "metadata.csv").exists()
    return path if path.is_dir() and not is_run else find_run(reference, runs_dir, holds=TABLE).path


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that it is whole or absent."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)


def environment() -> dict:
    """What the run was made with: versions, processor, code. No user or host name."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "code": _code_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _code_version() -> str:
    """Commit of the checkout, with a + if it has changes; the package's version where there is no checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return version("acne-lab")

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
