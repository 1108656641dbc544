"""`acne-lab study study=demo`: run a graph of jobs, each stage once, then compare its arms and write the report.

A stage is a job with overrides; `@stage` in them stands for the run of an earlier stage, and one that is `like`
another takes over its job and the overrides that it does not give itself. Before the first one the study prepares
its data: `@table`. A stage named `x_{severity}` becomes one stage for each class of that table, one named `x_{seed}`
one for each of the study's `seeds`; an arm that names `x_{seed}` holds all of these graders, and the report compares
the arms' means. Stages that are done are reused, also those of other studies and of other sweep members.

A study whose plan has an `arm` runs the arms asked for, and what they need. It may be swept over arms, backbones,
protocols and seeds (`-m backbone=a,b arm=real,edited seed=range(5)`): `sweep_page` then writes the page of all of them.
"""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from acne_lab.build import resolved, run_logger, table_overrides
from acne_lab.data.table import ImageTable
from acne_lab.grade.backbone import require_weights
from acne_lab.jobs.arms import asked_arms, onlookers, require_configs, with_needs
from acne_lab.jobs.members import sweep_of
from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.study_figures import arm_figures, numbers
from acne_lab.report.collect import read_study
from acne_lab.report.page import write_report
from acne_lab.report.reading import summary_lines
from acne_lab.runs import DATA_IN_KEY, Run, open_run, write_text
from acne_lab.tracking import log_and_finish

REFERENCE = re.compile(r"@([\w-]+)")
JOBS = ("train", "generate", "balance", "evaluate", "explain")


def study(config: dict) -> Run:
    """Run what is missing of the study; return its run, with report.html in it."""
    runs_dir = Path(config["runs_dir"]).resolve()
    if not config.get("study"):
        names = GlobalHydra.instance().config_loader().get_group_options("study")
        raise ValueError(f"choose a study: study=demo, or another one of {', '.join(names)}")
    plan = config["study"]
    name = plan["name"]
    if config["logger"]:
        config["logger"]["group"] = name
    started = time.perf_counter()
    seeds, baseline = plan.get("seeds") or [], plan.get("baseline")
    if baseline is not None and baseline not in plan["arms"]:
        raise ValueError(f"study.baseline={baseline} is no arm; there are {', '.join(plan['arms'])}")
    asked = asked_arms(plan)
    require_configs(plan)
    if missing := missing_weights(plan):
        print(f"warning: graders that are not finished cannot be trained: {missing}", file=sys.stderr)

    table_path, records = data_stage(config, runs_dir)
    done = {"table": table_path}
    stages = in_order(expand(plan["stages"], ImageTable.read(table_path).classes, seeds))
    arms = {arm: stages_of(pattern, stages, seeds) for arm, pattern in asked.items()}
    if "arm" in plan:
        wanted, needs = [name for names in arms.values() for name in names], waits_for(stages)
        wanted += onlookers(stages, with_needs(stages, wanted, needs), needs)
        stages = with_needs(stages, wanted, needs)
    jobs = {verb: job(verb) for verb in {node["job"] for node in stages.values()}}
    for number, (stage, node) in enumerate(stages.items(), start=1):
        overrides = [fill(text, done) for text in node["overrides"]]
        overrides += [
            f"name={stage}",
            f"runs_dir={runs_dir}",
            f"num_threads={config['num_threads'] or 'null'}",
        ]
        if node["job"] == "train":
            overrides += [f"data.{key}={config['data'][key]}" for key in ("fit", "num_workers")]
        overrides += logger_overrides(config["logger"])
        print(f"[{number}/{len(stages)}] {stage}", file=sys.stderr)
        was_done = {p.parent for p in (runs_dir / node["job"]).glob("*/DONE")}
        run = jobs[node["job"]](resolved(compose(node["job"], overrides=table_overrides(overrides))))
        done[stage] = run.path
        records[stage] = record(run, runs_dir, overrides, reused=run.path in was_done)

    inputs = [Run(path).key for stage, path in done.items() if stage in stages]
    about = {"name": name, "runs_dir": str(runs_dir), "seed": config["seed"], "study": plan}
    with open_run(about, job="study", inputs=inputs) as run:
        if not run.done or not all(stage["reused"] for stage in records.values()):
            images = " ".join([ImageTable.read(table_path).key, *(str(config["data"][each]) for each in DATA_IN_KEY)])
            story = {
                "name": name,
                "seed": config["seed"],
                "seeds": seeds,
                "baseline": baseline,  # also where it is not among the arms: then nothing is compared
                "question": plan["question"],
                "stages": records,
                "arms": arms,
                **({"sweep": sweep_of(plan, images)} if "arm" in plan else {}),
            }
            write_text(run.path / "study.json", json.dumps(story, indent=2) + "\n")
            figures = arm_figures(read_study(run.path, runs_dir))
            run.write_metrics({"arms": figures})
            write_report(run.path, runs_dir)
            log_and_finish(run_logger(config, run), numbers(figures))
        (run.path / "study.json").touch()  # `acne-lab report` takes the study that was asked for last
    read = read_study(run.path, runs_dir)
    for line in summary_lines(read):
        print(line)
    print(f"this command: {time.perf_counter() - started:.0f} s; report: {run.path / 'report.html'}")
    return run


def missing_weights(plan: dict) -> str | None:
    """Why the weights that a plan's graders start from cannot be had, said before hours of GANs; None: they can."""
    if not plan.get("backbone"):
        return None
    given = {"experiment": plan.get("experiment", "grader"), "backbone": plan["backbone"]}
    given |= {"protocol": plan.get("protocol"), "model.pretrained": plan.get("pretrained")}
    words = [f"{name}={value}" for name, value in given.items() if value not in (None, "")]
    model = compose("train", overrides=words).model
    try:
        require_weights({"backbone": model.backbone, "pretrained": model.pretrained})
    except ValueError as error:
        return str(error)
    return None


def job(verb: str) -> Callable[[dict], Run]:
    """The function of a verb; a study imports the jobs that it has."""
    if verb not in JOBS:
        raise ValueError(f"a stage's job must be {', '.join(JOBS)}, not {verb}")
    return getattr(import_module(f"acne_lab.jobs.{verb}"), verb)


def data_stage(config: dict, runs_dir: Path) -> tuple[Path, dict]:
    """Prepare the study's data, or take the table that it names; the folder and the stage's record."""
    if "source" not in config["data"]:
        return Path(config["data"]["root"]), {}
    was_done = {p.parent for p in (runs_dir / "prepare").glob("*/DONE")}
    run = prepare(config)
    overrides = [text for text in HydraConfig.get().overrides.task if text.startswith("data")]
    overrides = overrides or [f"data={config['data']['name']}"]
    overrides += [f"runs_dir={runs_dir}"]
    return run.path, {"table": record(run, runs_dir, overrides, reused=run.path in was_done)}


def logger_overrides(logger: dict | None) -> list[str]:
    """What gives a stage the logger of the study."""
    if logger is None:
        return ["logger=none"]
    given = {name: value for name, value in logger.items() if not name.startswith("_") and value is not None}
    return ["logger=wandb", *(f"logger.{name}={json.dumps(value)}" for name, value in given.items())]


def record(run: Run, runs_dir: Path, overrides: list[str], *, reused: bool) -> dict:
    """What study.json says of a stage."""
    command = shlex.join(["acne-lab", run.job, *overrides])
    return {
        "job": run.job,
        "run": str(run.path.relative_to(runs_dir)),
        "command": command,
        "seconds": run.seconds,
        "reused": reused,
    }


def likened(stages: dict) -> dict:
    """The stages with what they take over from the ones that they are `like`; an override of their own wins.

    Raises:
        ValueError: there is no such stage, or two are like each other.
    """

    def complete(name: str, seen: tuple[str, ...]) -> dict:
        node = stages[name]
        if "like" not in node:
            return node
        if node["like"] not in stages or node["like"] in seen:
            raise ValueError(f"stage {name} is like {node['like']}: name another one of {', '.join(stages)}")
        model = complete(node["like"], (*seen, node["like"]))
        overrides = {text.partition("=")[0]: text for text in [*model["overrides"], *node.get("overrides", [])]}
        own = {name: value for name, value in node.items() if name != "like"}
        return {**own, "job": model["job"], "overrides": list(overrides.values())}

    return {name: complete(name, (name,)) for name in stages}


def expand(stages: dict, classes: tuple[str, ...], seeds: Sequence[int] = ()) -> dict:
    """Replace each stage whose name holds {severity} by one for each class, and {seed} by one for each seed.

    In the overrides of a stage with seeds, `{seed}` is the stage's own, also in `@x_{seed}`. In any override,
    `@prefix_{severity}` is the stage of the same class, `{severity:prefix}` becomes `{mild:@prefix_mild,...}`, one
    run for each class, and `{num_classes}` their number. An override without a value is left out. Stages are named
    after classes with an underscore for every character that a folder's name should not hold.
    """
    suffixes = {severity: re.sub(r"\W", "_", severity) for severity in classes}
    if len(set(suffixes.values())) < len(classes):
        raise ValueError(f"the classes {', '.join(classes)} differ in punctuation only: rename one of them")
    if any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"study.seeds must be different whole numbers from 0, e.g. [0,1,2,3,4], not {list(seeds)}")
    result = {}
    for name, node in _for_each_seed(likened(stages), seeds).items():
        for severity in classes if "{severity}" in name else [None]:
            overrides = [_all_severities(text, suffixes) for text in node["overrides"]]
            overrides = [
                re.sub(r"(@\w+)\{severity\}", rf"\g<1>{suffixes.get(severity, '')}", text) for text in overrides
            ]
            overrides = [text.replace("{severity}", f"'{severity}'") for text in overrides]
            overrides = [text.replace("{num_classes}", str(len(classes))) for text in overrides]
            stage = name.replace("{severity}", suffixes.get(severity, ""))
            result[stage] = {**node, "overrides": [text for text in overrides if not text.endswith("=")]}
    return result


def _for_each_seed(stages: dict, seeds: Sequence[int]) -> dict:
    result = {}
    for name, node in stages.items():
        if "{seed}" not in name and any("{seed}" in text for text in node["overrides"]):
            raise ValueError(f"stage {name} has {{seed}} in its overrides: put it into the name too, {name}_{{seed}}")
        if "{seed}" in name and not seeds:
            raise ValueError(f"stage {name} is one for each seed: give study.seeds, e.g. [0,1,2,3,4]")
        for seed in seeds if "{seed}" in name else [None]:
            overrides = [text.replace("{seed}", str(seed)) for text in node["overrides"]]
            result[name.replace("{seed}", str(seed))] = {**node, "overrides": overrides}
    return result


def stages_of(pattern: str, stages: dict, seeds: Sequence[int]) -> list[str]:
    """The stages that an arm holds: the one it names, or `x_{seed}` of every seed.

    Raises:
        ValueError: there is no such stage.
    """
    names = [pattern.replace("{seed}", str(seed)) for seed in seeds] if "{seed}" in pattern else [pattern]
    if unknown := [name for name in names if name not in stages]:
        raise ValueError(f"an arm names {', '.join(unknown)}; the stages are {', '.join(stages)}")
    return names


def waits_for(stages: dict) -> dict[str, set[str]]:
    """stage -> those that it refers to, and those that it says to run `after`."""
    return {
        name: {*REFERENCE.findall(" ".join(node["overrides"])), *node.get("after", ())} for name, node in stages.items()
    }


def in_order(stages: dict) -> dict:
    """The stages, each behind those it waits for.

    Raises:
        ValueError: stages wait for one another, or for one that does not exist.
    """
    needs = waits_for(stages)
    for name, needed in needs.items():
        if unknown := needed - {"table", *stages}:
            there = ", ".join(["table", *stages])
            raise ValueError(f"stage {name} refers to {', '.join(sorted(unknown))}; there are {there}")
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ValueError(f"these stages wait for one another: {', '.join(error.args[1])}") from None
    return {name: stages[name] for name in order if name in stages}


def _all_severities(text: str, suffixes: dict[str, str]) -> str:
    def one_for_each(match: re.Match) -> str:
        return "{" + ",".join(f"{severity}:@{match[1]}_{suffix}" for severity, suffix in suffixes.items()) + "}"

    return re.sub(r"\{severity:(\w+)\}", one_for_each, text)


def fill(text: str, done: dict[str, Path]) -> str:
    """Put the run folders in the place of `@stage`."""
    return REFERENCE.sub(lambda match: f"'{done[match[1]]}'", text)
