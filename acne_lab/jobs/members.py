"""The members of a swept study as one study: their arms, backbones and seeds side by side.

`acne-lab study study=cnn_benchmark -m backbone=a,b arm=real,edited seed=range(5)` runs twenty studies of one grader
each, which share their data, GANs and edits. Members on other tables, of other sizes or protocols have another key, and
so a page of their own (`sweep_page`).
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from acne_lab.runs import Run

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
    stories = stories_of(runs_dir).values()
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
    stories = [story for folder, story in stories_of(runs_dir).items() if members is None or folder in members]
    stories = [story for story in stories if story.get("sweep", {}).get("key") == key]
    all_graders = [grader for story in stories for grader in graders_of(story)]
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


def graders_of(story: dict) -> Iterator[Grader]:
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
    others = {grader.run for story in stories for grader in graders_of(story)} - kept
    entries = [
        (story["sweep"]["backbone"], stage, entry)
        for story in stories
        if any(grader.run in kept for grader in graders_of(story))
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


def stories_of(runs_dir: Path) -> dict[str, dict]:
    """Folder -> study.json of all studies, those that were asked for last at the end."""
    files = sorted(runs_dir.glob("study/*/study.json"), key=lambda path: path.stat().st_mtime)
    return {path.parent.name: json.loads(path.read_text()) for path in files}
