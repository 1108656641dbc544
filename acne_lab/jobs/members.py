"""The members of a swept study as one: their arms, backbones and seeds side by side on one page.

`acne-lab study study=cnn_benchmark -m backbone=a,b arm=real,edited seed=range(5)` runs twenty studies of one grader
each, which share their data, GANs and edits. After the last they are written together, and nothing that an earlier
command has tried: `runs/study/<name>-all-<key>`. Members on other tables, of other sizes or protocols have another key,
and so a page of their own. `acne-lab report study=cnn_benchmark` writes that folder anew from all members that are
finished, whichever command has run them, as far as their seeds can be compared.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from acne_lab.build import run_logger
from acne_lab.jobs.study_figures import arm_figures, numbers
from acne_lab.report.collect import read_study
from acne_lab.report.page import write_report
from acne_lab.report.parts import counted
from acne_lab.report.reading import summary_lines
from acne_lab.runs import Run, write_text
from acne_lab.tracking import log_and_finish

# Of a plan, what members on one page may differ in.
VARIED = ("arm", "arms", "backbone", "baseline", "by_name", "seeds", "stages")


class Grader(NamedTuple):
    """A grader as its member tells of it."""

    backbone: str | None
    arm: str
    seed: int
    stage: str
    run: str

    def name(self, *, several: bool) -> str:
        """That of its arm, where the page has several backbones or one."""
        return f"{self.backbone}, {self.arm}" if several else self.arm


def sweep_of(plan: dict, images: str) -> dict:
    """What study.json says of a member: the `key` that members on one page share, its backbone, and the plan's arms.

    Args:
        plan: of the study.
        images: key of its table, and how graders are shown its images.
    """
    shared = {name: value for name, value in plan.items() if name not in VARIED}
    text = json.dumps([shared, images], sort_keys=True)
    return {
        "key": hashlib.sha256(text.encode()).hexdigest()[:10],
        "backbone": plan.get("backbone"),
        "arms": list(plan["arms"]),
        "baseline": plan["baseline"],
    }


def newest_sweep(name: str, runs_dir: Path) -> str | None:
    """The key of the members of that study of which one was asked for last; None: no member is finished."""
    stories = _stories(runs_dir).values()
    keys = [story["sweep"]["key"] for story in stories if story["name"] == name and "sweep" in story]
    return keys[-1] if keys else None


def shared_seeds(seeds: Mapping[str, Collection[int]]) -> list[int]:
    """The seeds that the page is about: those with which the most graders can be compared; of as many, more seeds.

    An arm that lacks one of them is left out, so that an arm that was once tried with one seed does not take the other
    seeds from all the others. Two arms at least have them all, unless there is one arm.

    Args:
        seeds: arm -> the seeds of its graders.

    Raises:
        ValueError: there is no arm, or no two arms have a seed in common.
    """
    if not seeds:
        raise ValueError("there is no grader whose run is still there: repeat the study's command")
    candidates = {frozenset(own) for own in seeds.values()}
    while more := {one & other for one in candidates for other in candidates} - candidates:
        candidates |= more

    def num_arms(common: frozenset[int]) -> int:
        return sum(common <= set(own) for own in seeds.values())

    possible = [common for common in candidates if common and num_arms(common) >= min(2, len(seeds))]
    if not possible:
        there = "; ".join(f"{arm}: {', '.join(map(str, sorted(own)))}" for arm, own in seeds.items())
        raise ValueError(
            f"no two arms have a seed in common, so nothing can be compared; there are {there}. Run the arms with the "
            "same seeds: -m arm=A,B seed=0,1,2"
        )
    return sorted(max(possible, key=lambda common: (num_arms(common) * len(common), len(common), sorted(common))))


def merged(key: str, runs_dir: Path, *, members: Collection[str] | None = None) -> dict:
    """The study.json of the finished members with this key.

    Arms are named `resnet50, real` where they have several backbones, else as they are, and hold the graders of
    `shared_seeds`, of two graders of one seed the newer. `left_out` names the stages of the others, `removed` those of
    them whose runs are gone; neither they nor what looks at them is among the stages. A stage of which backbones have
    runs of their own is named as arms are: `looks_0, resnet50`.

    Args:
        key: as `sweep_of` says it.
        runs_dir: the folder of all runs.
        members: names of the members' folders; None: all that are there.

    Raises:
        ValueError: no two arms have a seed in common.
    """
    stories = [story for folder, story in _stories(runs_dir).items() if members is None or folder in members]
    stories = [story for story in stories if story.get("sweep", {}).get("key") == key]
    all_graders = [grader for story in stories for grader in _graders(story)]
    graders = {(grader.backbone, grader.arm, grader.seed): grader for grader in all_graders}.values()
    removed = [grader for grader in graders if not Run(runs_dir / grader.run).done]
    seeds: dict[str, set[int]] = {}
    for grader in graders:
        if grader not in removed:
            seeds.setdefault(grader.name(several=True), set()).add(grader.seed)
    common = shared_seeds(seeds)
    full = {name for name, own in seeds.items() if own >= set(common)}
    kept = [g for g in graders if g.name(several=True) in full and g.seed in common and g not in removed]
    left_out = [grader for grader in graders if grader not in kept]

    several = len({grader.backbone for grader in kept}) > 1
    order = list(dict.fromkeys(arm for story in reversed(stories) for arm in story["sweep"]["arms"]))
    kept.sort(key=lambda grader: (grader.backbone or "", order.index(grader.arm), grader.seed))
    stages, names = _stages(stories, {grader.run for grader in kept}, several=several)
    arms: dict[str, list[str]] = {}
    for grader in kept:
        arms.setdefault(grader.name(several=several), []).append(names[grader.backbone, grader.stage])

    def outside(graders: list[Grader]) -> list[str]:
        mixed = len({grader.backbone for grader in all_graders}) > 1
        return [f"{grader.stage}, {grader.backbone}" if mixed else grader.stage for grader in graders]

    return {
        "name": stories[-1]["name"],
        "seed": stories[-1]["seed"],
        "seeds": common,
        "baseline": stories[-1]["sweep"]["baseline"],
        "question": stories[-1]["question"],
        "stages": stages,
        "arms": arms,
        "members": {g.name(several=several): {"backbone": g.backbone, "arm": g.arm} for g in kept},
        "left_out": outside(left_out),
        "removed": outside(removed),
    }


def _graders(story: dict) -> Iterator[Grader]:
    """The graders of a member's arms."""
    for arm, names in story["arms"].items():
        seeds = story["seeds"] if len(story["seeds"]) == len(names) else [story["seed"]]
        for seed, stage in zip(seeds, names, strict=True):
            yield Grader(story["sweep"]["backbone"], arm, seed, stage, story["stages"][stage]["run"])


def _stages(
    stories: list[dict], kept: set[str], *, several: bool
) -> tuple[dict[str, dict], dict[tuple[str | None, str], str]]:
    """The stages of members with a grader whose run is kept, by their names on the page, and these names.

    Graders that are not kept are not among them, nor is a stage whose command names the run of one.
    """
    others = {grader.run for story in stories for grader in _graders(story)} - kept
    entries = [
        (story["sweep"]["backbone"], stage, entry)
        for story in stories
        if any(grader.run in kept for grader in _graders(story))
        for stage, entry in story["stages"].items()
        if not any(run == entry["run"] or run in entry["command"] for run in others)
    ]
    runs: dict[str, set[str]] = {}
    for _, stage, entry in entries:
        runs.setdefault(stage, set()).add(entry["run"])
    stages, names = {}, {}
    for backbone, stage, entry in entries:
        is_own = several and (entry["run"] in kept or len(runs[stage]) > 1)
        names[backbone, stage] = name = f"{stage}, {backbone}" if is_own else stage
        known = stages.get(name)
        if known is None or known["run"] != entry["run"] or known["reused"]:  # the record of who did the work
            stages[name] = entry
    return stages, names


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
        stories = {folder: story for folder, story in _stories(runs_dir).items() if "sweep" in story}
        failed = False
        for key in dict.fromkeys(story["sweep"]["key"] for folder, story in stories.items() if folder in members):
            try:
                logger = OmegaConf.to_container(config.logger, resolve=True) if config.logger else None
                folder = write_merged(key, runs_dir, members=members, logger=logger)
            except (ValueError, OSError) as error:  # the members are done, and stay
                print(f"error: {error}", file=sys.stderr)
                failed = True
                continue
            study = read_study(folder, runs_dir)
            earlier = [s for name, s in stories.items() if s["sweep"]["key"] == key and name not in members]
            more = {grader.run for story in earlier for grader in _graders(story)} - {each.run for each in study.stages}
            lines = summary_lines(study)
            if more:
                graders = counted(len(more), "grader")
                lines.append(f"not on it: {graders} of earlier commands; acne-lab report study={study.name} takes all")
            print("\n".join([*lines, f"all members: {folder / 'report.html'}"]), flush=True)
        if failed:
            sys.exit(2)


def _stories(runs_dir: Path) -> dict[str, dict]:
    """Folder -> study.json of all studies, those that were asked for last at the end."""
    files = sorted(runs_dir.glob("study/*/study.json"), key=lambda path: path.stat().st_mtime)
    return {path.parent.name: json.loads(path.read_text()) for path in files}
