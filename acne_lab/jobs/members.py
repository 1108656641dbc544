"""The members of a swept study as one: their arms, backbones and seeds side by side on one page.

`acne-lab study study=cnn_benchmark -m backbone=a,b arm=real,edited seed=range(5)` runs twenty studies of one grader
each, which share their data, GANs and edits. After the last, and again with `acne-lab report study=cnn_benchmark`, all
members that are finished are written as `runs/study/<name>-all-<key>`: those on the same table, of the same size and
protocol, whichever command has run them. That folder is written anew each time: it is as complete as the sweep is.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from acne_lab.build import run_logger
from acne_lab.metrics.statistics import t_interval
from acne_lab.report.collect import read_study
from acne_lab.report.page import write_report
from acne_lab.report.reading import summary_lines
from acne_lab.runs import Run, write_text
from acne_lab.tracking import log_and_finish

FIGURES = ("balanced_accuracy", "accuracy", "macro_f1", "num_test")
# Of a plan, what members on one page may differ in.
VARIED = ("arm", "arms", "backbone", "baseline", "by_name", "seeds", "stages")


def sweep_of(plan: dict, table_key: str) -> dict:
    """What study.json says of a member: the `key` that members on one page share, its backbone, and the plan's arms."""
    shared = {name: value for name, value in plan.items() if name not in VARIED}
    text = json.dumps([shared, table_key], sort_keys=True)
    return {
        "key": hashlib.sha256(text.encode()).hexdigest()[:10],
        "backbone": plan.get("backbone"),
        "arms": list(plan["arms"]),
        "baseline": plan["baseline"],
    }


def newest_sweep(name: str, runs_dir: Path) -> str | None:
    """The key of the members of that study of which one was finished last; None: no member is."""
    keys = [story["sweep"]["key"] for story in _stories(runs_dir) if story["name"] == name and "sweep" in story]
    return keys[-1] if keys else None


def merged(key: str, runs_dir: Path) -> dict:
    """The study.json of all finished members with this key.

    Arms are named `resnet50, real` where the members have several backbones, else as they are, and hold the graders of
    the seeds that every arm has, of two graders of one seed the newer; `left_out` names graders of other seeds.
    `members` tells each arm's backbone, arm and baseline, which is of its own backbone.

    Raises:
        ValueError: no seed is in all arms.
    """
    stories = [story for story in _stories(runs_dir) if story.get("sweep", {}).get("key") == key]
    several = len({story["sweep"]["backbone"] for story in stories}) > 1
    stages: dict[str, dict] = {}
    graders: dict[str, dict[int, str]] = {}  # of an arm: seed -> stage
    members: dict[str, dict] = {}
    for story in stories:
        backbone = story["sweep"]["backbone"]
        own = {stage for names in story["arms"].values() for stage in names}
        named = {stage: f"{stage}, {backbone}" if several and stage in own else stage for stage in story["stages"]}
        for stage, entry in story["stages"].items():
            known = stages.get(named[stage])
            if known is None or known["run"] != entry["run"] or known["reused"]:  # the record of who did the work
                stages[named[stage]] = entry
        for arm, names in story["arms"].items():
            name = f"{backbone}, {arm}" if several else arm
            seeds = story["seeds"] if len(story["seeds"]) == len(names) else [story["seed"]]
            graders.setdefault(name, {}).update(zip(seeds, (named[stage] for stage in names), strict=True))
            members[name] = {"backbone": backbone, "arm": arm}
    common = sorted(set.intersection(*map(set, graders.values())))
    if not common:
        lines = [f"{arm}: {', '.join(map(str, sorted(stages)))}" for arm, stages in graders.items()]
        raise ValueError("no seed is in all arms, so nothing can be compared; there are " + "; ".join(lines))
    sweep = stories[-1]["sweep"]
    names = sorted(graders, key=lambda name: (members[name]["backbone"], sweep["arms"].index(members[name]["arm"])))
    for about in members.values():
        baseline = f"{about['backbone']}, {sweep['baseline']}" if several else sweep["baseline"]
        about["baseline"] = baseline if baseline in graders else None
    return {
        "name": stories[-1]["name"],
        "seed": stories[-1]["seed"],
        "seeds": common,
        "baseline": next((members[name]["baseline"] for name in names), None),
        "question": stories[-1]["question"],
        "stages": stages,
        "arms": {name: [graders[name][seed] for seed in common] for name in names},
        "members": {name: members[name] for name in names},
        "left_out": [stage for name in names for seed, stage in sorted(graders[name].items()) if seed not in common],
    }


def write_merged(key: str, runs_dir: Path, *, logger: dict | None = None) -> Path:
    """Write the folder of all finished members with this key, and its page; return the folder."""
    story = merged(key, runs_dir)
    run = Run(runs_dir / "study" / f"{story['name']}-all-{key}")
    run.path.mkdir(parents=True, exist_ok=True)
    config = {"name": f"{story['name']}-all", "runs_dir": str(runs_dir), "logger": logger, "members": story["members"]}
    write_text(run.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    figures = {arm: summary(tests) for arm, tests in arm_tests(story, runs_dir).items()}
    run.write_metrics({"arms": figures})
    write_text(run.path / "study.json", json.dumps(story, indent=2) + "\n")
    write_report(run.path, runs_dir)
    seconds = sum(stage["seconds"] or 0 for stage in story["stages"].values())
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_text(run.path / "DONE", json.dumps({"finished": finished, "seconds": round(seconds, 1)}) + "\n")
    log_and_finish(run_logger(config, run), {f"{arm}/{k}": figures[arm][k] for arm in figures for k in FIGURES})
    return run.path


class MergedPage(Callback):
    """Hydra's callback that writes the page of all members after a sweep."""

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        runs_dir = Path(config.runs_dir).resolve()
        if (key := newest_sweep(config.study.name, runs_dir)) is None:
            return
        try:
            logger = OmegaConf.to_container(config.logger, resolve=True) if config.logger else None
            folder = write_merged(key, runs_dir, logger=logger)
        except ValueError as error:  # the members are done, and stay
            print(f"error: {error}", file=sys.stderr)
            return
        for line in summary_lines(read_study(folder, runs_dir)):
            print(line)
        print(f"all members: {folder / 'report.html'}", flush=True)


def arm_tests(story: dict, runs_dir: Path) -> dict[str, list[dict]]:
    """arm -> what the test split said of each of its graders."""

    def test(stage: str) -> dict:
        return Run(runs_dir / story["stages"][stage]["run"]).metrics["test"]

    return {arm: [test(stage) for stage in stages] for arm, stages in story["arms"].items()}


def summary(tests: list[dict]) -> dict:
    """What metrics.json says of an arm: its figures; of several seeds the means, 95 % intervals and each seed's."""
    if len(tests) == 1:
        return {name: tests[0][name] for name in FIGURES}
    values = {name: [test[name] for test in tests] for name in FIGURES}
    estimates = {name: t_interval(values[name]) for name in FIGURES[:-1]}
    return {
        **{name: estimate.mean for name, estimate in estimates.items()},
        "num_test": tests[0]["num_test"],
        "interval": {name: [e.mean - e.half_width, e.mean + e.half_width] for name, e in estimates.items()},
        "by_seed": values,
    }


def _stories(runs_dir: Path) -> list[dict]:
    """study.json of all studies, those that were written last at the end."""
    files = sorted(runs_dir.glob("study/*/study.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in files]
