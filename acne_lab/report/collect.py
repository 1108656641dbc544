"""Gather what a study has left behind: study.json, and the run folder of each of its stages.

Everything here is reading. A stage that has not been started, or that stopped half-way, is a stage with fewer
things in it, never an error: what a run does not have is None or empty, and the page leaves that section out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from acne_lab.data.table import ImageTable
from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions, read_predictions
from acne_lab.report.arms import Arm
from acne_lab.report.comparison import Contrasts, baselines, compare

# A slash that begins a word and another one after it: /home/ann/photos/1.jpg, not loss/G, not https://host/page.
_ABSOLUTE_PATH = re.compile(r"(?:file://|(?<![\w./~…-]))/(?:[^\s/'\",:;()\[\]{}]+/)+([^\s/'\",:;()\[\]{}]*)")
# C:\photos\1.jpg and \\server\share\1.jpg, also as YAML and JSON write them, with each backslash twice.
_WINDOWS_PATH = re.compile(r"(?:\b[A-Za-z]:[\\/]+|\\\\+)(?:[^\s\\/'\",:;()\[\]{}]+[\\/]+)*([^\s\\/'\",:;()\[\]{}]*)")


@dataclass(frozen=True)
class Stage:
    """One job of the study and the run it left.

    Args:
        name: as the study calls it.
        job: the verb: prepare, train, generate, ...
        run: the run's folder relative to the runs folder; "" while it is unknown.
        command: what repeats this stage, absolute paths shortened.
        seconds: wall time of the run; None if it is unknown.
        reused: True where the study found the run already done.
        state: "done", "unfinished" (a folder without DONE) or "not run" (no folder).
        config: resolved config of the run; {} without one.
        config_text: the same as YAML, absolute paths shortened.
        curves: metrics.csv; None without one, or while it has no row.
        metrics: metrics.json; {} without one.
        environment: environment.json; {} without one.
        samples: pictures in samples/, sorted by name.
        table: the image table a prepare or generate run made; None for the others.
        predictions: what a grader's run said of every validation and test image; None without.
        has_broken_predictions: they are there, and cannot be read.
    """

    name: str
    job: str
    run: str
    command: str
    seconds: float | None
    reused: bool
    state: str
    config: dict
    config_text: str
    curves: pd.DataFrame | None
    metrics: dict
    environment: dict
    samples: tuple[Path, ...]
    table: ImageTable | None
    predictions: Predictions | None
    has_broken_predictions: bool

    @property
    def is_gan(self) -> bool:
        return self.curves is not None and "loss/G" in self.curves

    @property
    def is_grader(self) -> bool:
        return "test" in self.metrics or (self.curves is not None and "val/balanced_accuracy" in self.curves)

    @property
    def ticks(self) -> tuple[Path, ...]:
        """Sample grids of a GAN, oldest first."""
        return tuple(path for path in self.samples if path.name.startswith("tick"))


@dataclass(frozen=True)
class Study:
    """A study as it lies on disk.

    Args:
        name: as in conf/study.
        question: what it asks, in one sentence.
        seed: of all stages that are not one for each seed; None if study.json does not say.
        seeds: those that its arms were repeated with; () for a study of one seed.
        backbones: of a study that has its arms with several; () for the others.
        baseline: name or label of the arm that the others are compared with, the first one if study.json does not say.
            Where no arm has it, it was not run, and nothing is compared: another one would answer another question.
        run: the study's own folder, relative to the folder that holds runs/, for people to find it.
        stages: in the order in which they run.
        arms: in the study's order, which is not a ranking.
        left_out: graders that nothing here speaks of, so that all arms have the same seeds.
    """

    name: str
    question: str
    seed: int | None
    seeds: tuple[int, ...]
    backbones: tuple[str, ...]
    baseline: str
    run: str
    stages: tuple[Stage, ...]
    arms: tuple[Arm, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def compared(self) -> Contrasts:
        """Every arm against its baseline."""
        return compare(self.arms, self.baseline)

    def is_baseline(self, arm: Arm) -> bool:
        """Whether the arm is the one that others, of its backbone, are compared with."""
        return baselines(self.arms, self.baseline).get(arm.group) is arm

    def role(self, arm: Arm) -> str:
        """What an arm is for: "baseline", "null" and "leaked" (both test the instrument), or "": it is in question."""
        if self.is_baseline(arm) and len(self.arms) > 1:
            return "baseline"
        if arm.null:
            return "null"
        return "leaked" if arm.is_leaked else ""

    @cached_property
    def gans(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.is_gan)

    @cached_property
    def graders(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.is_grader)

    @cached_property
    def realism(self) -> dict[str, dict]:
        """What each `evaluate` stage measured on its edited table, by the stage's name: {figure: value, low, high}."""
        return {stage.name: stage.metrics["realism"] for stage in self.stages if "realism" in stage.metrics}

    @cached_property
    def explained(self) -> tuple[Stage, ...]:
        """The `explain` stages that are done."""
        return tuple(stage for stage in self.stages if "explain" in stage.metrics)

    @cached_property
    def real(self) -> Stage | None:
        """The stage that prepared the images everything else starts from."""
        tables = (stage for stage in self.stages if stage.table is not None)
        return next((stage for stage in tables if _sources(stage) & {"real", "toy"}), None)

    @cached_property
    def synthetic(self) -> tuple[Stage, ...]:
        """Stages that made images: generated or edited."""
        tables = (stage for stage in self.stages if stage.table is not None)
        return tuple(stage for stage in tables if _sources(stage) & {"generated", "edited"})

    @cached_property
    def uses_toy_images(self) -> bool:
        return any("toy" in _sources(stage) for stage in self.stages if stage.table is not None)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Severities from mild to very severe, from the first arm or table that names them."""
        named = [arm.classes for arm in self.arms] + [s.table.classes for s in self.stages if s.table is not None]
        return next((classes for classes in named if classes), ())

    def inputs(self, stage: Stage) -> tuple[Stage, ...]:
        """The stages whose runs this one names in its config or command."""
        text = f"{json.dumps(stage.config, default=str)}\n{stage.command}"
        return tuple(other for other in self.stages if other.run and other is not stage and other.run in text)

    def named(self, name: str) -> Stage | None:
        """The stage of that name, or None if there is none."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def made(self, run_key: str) -> Stage | None:
        """The stage whose run ends in this key or path, or None."""
        return next((stage for stage in self.stages if run_key and stage.run and _names(run_key, stage.run)), None)


def read_study(study_dir: Path, runs_dir: Path) -> Study:
    """Read the study in `study_dir`, whose stages lie under `runs_dir`.

    Raises:
        ValueError: `study_dir` has no study.json.
    """
    if not (study_dir / "study.json").is_file():
        raise ValueError(
            f"{study_dir} is not a study: it has no study.json. "
            "Give the folder of a study run, or run one with `acne-lab study study=<name>`."
        )
    about = json.loads((study_dir / "study.json").read_text(encoding="utf-8"))
    stages = tuple(_read_stage(name, entry, runs_dir) for name, entry in about["stages"].items())
    reported = _read_json(study_dir / "metrics.json").get("arms", {})
    by_name, members = {stage.name: stage for stage in stages}, about.get("members", {})
    arms = tuple(
        _read_arm(name, names, about.get("seeds") or (), by_name, reported.get(name, {}), members.get(name, {}))
        for name, names in about["arms"].items()
    )
    study_dir, runs_dir = study_dir.resolve(), runs_dir.resolve()
    inside = study_dir.is_relative_to(runs_dir)
    return Study(
        name=about["name"],
        question=about.get("question") or about["name"],
        seed=about.get("seed"),
        seeds=tuple(about.get("seeds") or ()),
        backbones=tuple(dict.fromkeys(arm.group for arm in arms if arm.group)),
        baseline=about.get("baseline") or next(iter(about["arms"]), ""),
        run=f"{runs_dir.name}/{study_dir.relative_to(runs_dir).as_posix()}" if inside else study_dir.name,
        stages=stages,
        arms=arms,
        left_out=tuple(about.get("left_out", ())),
    )


def without_machine_paths(text: str, runs_dir: Path) -> str:
    """`text` with the runs folder written as `runs` and every other absolute path cut to its last part.

    A report is mailed around: where somebody keeps patients' photographs is nobody else's business.
    """
    text = text.replace(str(runs_dir.resolve()), "runs").replace(str(runs_dir.absolute()), "runs")
    return _ABSOLUTE_PATH.sub(r"…/\1", _WINDOWS_PATH.sub(r"…/\1", text))


def init_from(config: dict) -> str | None:
    """The `init_from` of a config at whatever depth: a run, a shipped file, or None (random weights)."""
    return next((str(value) for key, value in _leaves(config) if key == "init_from" and value), None)


def _read_stage(name: str, entry: dict, runs_dir: Path) -> Stage:
    run = entry.get("run") or ""
    run_dir = runs_dir / run
    if not run or not run_dir.is_dir():
        state = "not run"
    else:
        state = "done" if (run_dir / "DONE").is_file() else "unfinished"
    config_text = _read_text(run_dir / "config.yaml") if run else ""
    has_table = bool(run) and (run_dir / "table" / "metadata.csv").is_file()
    predictions = run_dir / "predictions.parquet"
    has_predictions = state == "done" and predictions.is_file()
    kept = _read_predictions(predictions) if has_predictions else None
    return Stage(
        name=name,
        job=entry["job"],
        run=run,
        command=without_machine_paths(entry.get("command") or "", runs_dir),
        seconds=entry.get("seconds"),
        reused=bool(entry.get("reused")),
        state=state,
        config=yaml.safe_load(config_text) or {},
        config_text=without_machine_paths(config_text, runs_dir),
        curves=_read_curves(run_dir / "metrics.csv") if run else None,
        metrics=_read_json(run_dir / "metrics.json") if run else {},
        environment=_read_json(run_dir / "environment.json") if run else {},
        samples=tuple(sorted((run_dir / "samples").glob("*.png"))) if run else (),
        table=_read_table(run_dir, runs_dir) if has_table else None,
        predictions=kept,
        has_broken_predictions=has_predictions and kept is None,
    )


def _read_arm(
    name: str, names: str | list[str], seeds: Sequence[int], stages: Mapping[str, Stage], reported: dict, member: dict
) -> Arm:
    """The test figures recomputed from predictions; without these the graders' own metrics.json, or what the study
    noted of those whose runs have been removed."""
    names = [names] if isinstance(names, str) else names
    graders = [stages.get(stage) for stage in names]
    metrics = [grader.metrics if grader is not None else {} for grader in graders]
    predictions = [_of_test(grader.predictions) if grader is not None else None for grader in graders]
    by_seed = reported.get("by_seed", {key: [value] for key, value in reported.items()})
    noted = [{key: values[i] for key, values in by_seed.items()} for i in range(len(names))]
    known = next((each for each in metrics if each), {})
    config = next((grader.config for grader in graders if grader is not None and grader.config), {})
    permuted = config.get("balance", {}).get("permute_labels")
    if len(seeds) != len(names):  # an arm that has not one grader for each of the study's
        seeds = range(len(names))
    return Arm(
        name=name,
        label=member.get("arm", name),
        backbone=member.get("backbone") or config.get("model", {}).get("backbone") or "",
        stages=tuple(names),
        seeds=tuple(seeds),
        tests=tuple(
            figures(kept) if kept is not None else {**of_study, **of_run.get("test", {})}
            for kept, of_study, of_run in zip(predictions, noted, metrics, strict=True)
        ),
        predictions=tuple(predictions),
        train=known.get("train", {}),
        lineage=known.get("lineage", {}),
        classes=tuple(known.get("classes", ())),
        null="added" if permuted is True else permuted or "",
        is_leaked=bool(config.get("leak")),
    )


def _read_predictions(path: Path) -> Predictions | None:
    """None of a damaged file: the figures that the run has noted are left."""
    try:
        return read_predictions(path)
    except ValueError:
        return None


def _of_test(predictions: Predictions | None) -> Predictions | None:
    """Those of the test split, None where it has not been graded."""
    is_test = None if predictions is None else predictions.frame["split"] == "test"
    return predictions.where(is_test.to_numpy()) if is_test is not None and is_test.any() else None


def _read_table(run_dir: Path, runs_dir: Path) -> ImageTable:
    """The run's image table, with the paths in its parents and in its report shortened."""
    table = ImageTable.read(run_dir)
    parents = [without_machine_paths(parent, runs_dir) for parent in table.rows["parent"]]
    report = json.loads(without_machine_paths(json.dumps(table.report), runs_dir))
    return replace(table, rows=table.rows.assign(parent=parents), report=report)


def _read_curves(path: Path) -> pd.DataFrame | None:
    # A run that is being written may end in half a line.
    if not path.is_file() or path.stat().st_size == 0:
        return None
    curves = pd.read_csv(path, on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    return None if curves.empty else curves


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _leaves(config: object) -> Iterator[tuple[str, object]]:
    """(key, value) of every mapping in a nest of dicts and lists."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield str(key), value
            yield from _leaves(value)
    elif isinstance(config, list):
        for value in config:
            yield from _leaves(value)


def _sources(stage: Stage) -> set[str]:
    return set(stage.table.rows["source"])


def _names(run_key: str, run: str) -> bool:
    """Whether `run_key` (a key, a folder name, a path, or file in it) means the run folder `run`."""
    return run in run_key or run.endswith((f"-{run_key}", f"/{run_key}"))
