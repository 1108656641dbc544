"""The page of a sweep's members, written after the last of them: `runs/study/<name>-all-<key>`.

It holds the members of that command, and nothing that an earlier one has tried. `acne-lab report study=cnn_benchmark`
writes the folder anew from all members that are finished, whichever command has run them, as far as their seeds can be
compared.
"""

import json
import shutil
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from acne_lab.build import run_logger
from acne_lab.jobs.members import graders_of, merged, stories_of
from acne_lab.jobs.study_figures import arm_figures, numbers
from acne_lab.report.collect import read_study
from acne_lab.report.page import write_report
from acne_lab.report.parts import counted
from acne_lab.report.reading import summary_lines
from acne_lab.runs import Run, write_text
from acne_lab.tracking import log_and_finish


def write_merged(
    key: str, runs_dir: Path, *, members: Collection[str] | None = None, logger: dict | None = None
) -> Path:
    """Write the folder of the finished members with this key, and its page; return the folder. Args: `merged`."""
    story = merged(key, runs_dir, members=members)
    if left_out := [stage for stage in story["left_out"] if stage not in story["removed"]]:
        seeds = ", ".join(map(str, story["seeds"]))
        print(
            f"left out, for all arms need the same seeds, here {seeds}: {', '.join(left_out)}. Run the seeds that an "
            "arm lacks to have it on the page",
            file=sys.stderr,
        )
    if story["removed"]:
        gone = ", ".join(story["removed"])
        print(f"left out, for their runs are gone: {gone}. Repeat the command that made them", file=sys.stderr)
    run = Run(runs_dir / "study" / f"{story['name']}-all-{key}")
    run.path.mkdir(parents=True, exist_ok=True)
    config = {"name": f"{story['name']}-all", "runs_dir": str(runs_dir), "logger": logger, "members": story["members"]}
    write_text(run.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    run.write_metrics({"arms": {}})  # those of the page before may be of other seeds
    write_text(run.path / "study.json", json.dumps(story, indent=2) + "\n")
    figures = arm_figures(read_study(run.path, runs_dir))
    run.write_metrics({"arms": figures})
    write_report(run.path, runs_dir)
    seconds = sum(stage["seconds"] or 0 for stage in story["stages"].values())
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_text(run.path / "DONE", json.dumps({"finished": finished, "seconds": round(seconds, 1)}) + "\n")
    log_and_finish(run_logger(config, run), numbers(figures))
    return run.path


class MergedPage(Callback):
    """Hydra's callback that writes the page of a sweep's members after the last, one for each of their keys."""

    def __init__(self) -> None:
        self.notes: Path | None = None  # a folder with the names of this sweep's members; None: no sweep

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        # On disk: a launcher may run the members in other processes, each of which has a copy of this object.
        self.notes = Path(config.runs_dir).resolve() / "study" / ".sweeps" / uuid4().hex

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: object) -> None:
        if self.notes is None or job_return.status is not JobStatus.COMPLETED or job_return.return_value is None:
            return
        self.notes.mkdir(parents=True, exist_ok=True)
        (self.notes / job_return.return_value.name).touch()

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        members = [path.name for path in self.notes.glob("*")]
        shutil.rmtree(self.notes, ignore_errors=True)
        runs_dir = Path(config.runs_dir).resolve()
        stories = {folder: story for folder, story in stories_of(runs_dir).items() if "sweep" in story}
        logger = OmegaConf.to_container(config.logger, resolve=True) if config.logger else None
        failed = False
        for key in dict.fromkeys(story["sweep"]["key"] for folder, story in stories.items() if folder in members):
            same_key = {name: story for name, story in stories.items() if story["sweep"]["key"] == key}
            try:
                folder = write_merged(key, runs_dir, members=members, logger=logger)
            except (ValueError, OSError) as error:  # the members are done, and stay
                print(f"error: {error}", file=sys.stderr)
                failed = True
            else:
                say(folder, runs_dir, earlier=[same_key[name] for name in same_key if name not in members])
        if failed:
            sys.exit(2)


def say(folder: Path, runs_dir: Path, *, earlier: Sequence[dict]) -> None:
    """Print what the page in `folder` says, and how many graders of members of earlier commands are not on it."""
    study = read_study(folder, runs_dir)
    lines = summary_lines(study)
    tried = {grader.run for story in earlier for grader in graders_of(story)}
    if more := tried - {stage.run for stage in study.stages}:
        graders = counted(len(more), "grader")
        lines.append(f"not on it: {graders} of earlier commands; acne-lab report study={study.name} takes all")
    print("\n".join([*lines, f"all members: {folder / 'report.html'}"]), flush=True)
