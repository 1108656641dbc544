"""Swept studies: what their members are together."""

import json
import os
import shutil

import pytest
from fake_study import StudyWriter
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from acne_lab.jobs.members import merged, newest_sweep, shared_seeds, sweep_of
from acne_lab.jobs.sweep_page import MergedPage
from acne_lab.report.collect import read_study

PLAN = {
    "name": "bench",
    "arms": {"real": "real_{seed}", "edited": "edited_{seed}"},
    "baseline": "real",
    "backbone": "resnet50",
    "epochs": 5,
    "seeds": [0],
    "stages": {},
}


@pytest.fixture
def member(tmp_path):
    """member(backbone, seed, *arms): writes the study.json of a finished member; later ones are newer.

    It returns the key of the member's sweep. With `looks` the member has a stage that looks at each grader.
    """

    def write(backbone, seed, *arms, plan=PLAN, table="t1", run="", looks=False):
        stages = {"table": entry("prepare/toy-t1"), "edits": entry("balance/edits-e1", reused=seed > 0)}
        stages |= {f"{arm}_{seed}": entry(f"train/{arm}_{seed}-{backbone}{run or seed}") for arm in arms}
        if looks:
            graders = [(arm, stages[f"{arm}_{seed}"]["run"]) for arm in arms]
            stages |= {
                f"looks_{arm}": entry(f"explain/{arm}-{run.split('-')[1]}", f"run='/r/{run}'") for arm, run in graders
            }
        for stage in stages.values():
            (tmp_path / stage["run"]).mkdir(parents=True, exist_ok=True)
            (tmp_path / stage["run"] / "DONE").touch()
        story = {
            "name": "bench",
            "seed": seed,
            "seeds": [seed],
            "baseline": None,
            "question": "Which?",
            "stages": stages,
            "arms": {arm: [f"{arm}_{seed}"] for arm in arms},
            "sweep": sweep_of(plan | {"backbone": backbone, "seeds": [seed], "arm": list(arms)}, table),
        }
        number = len(list(tmp_path.glob("study/bench-?")))
        folder = tmp_path / "study" / f"bench-{number}"
        folder.mkdir(parents=True)
        (folder / "study.json").write_text(json.dumps(story))
        os.utime(folder / "study.json", (number, number))
        return story["sweep"]["key"]

    return write


def entry(run, words="", *, reused=False):
    return {"job": run.split("/")[0], "run": run, "command": f"acne-lab {words}", "seconds": 1.0, "reused": reused}


def test_members_share_a_key_whatever_they_vary(member, tmp_path):
    keys = {member("resnet50", 0, "real"), member("resnet50", 1, "real", "edited"), member("vgg16", 0, "edited")}
    assert len(keys) == 1
    assert newest_sweep("bench", tmp_path) in keys
    assert newest_sweep("other", tmp_path) is None
    longer = member("resnet50", 0, "real", plan=PLAN | {"epochs": 9})
    elsewhere = member("resnet50", 0, "real", table="t2")
    assert len({*keys, longer, elsewhere}) == 3
    assert newest_sweep("bench", tmp_path) == elsewhere


def test_seeds_of_one_backbone_become_one_arm(member, tmp_path):
    for seed in (1, 0):
        key = member("resnet50", seed, "edited", "real")
    story = merged(key, tmp_path)
    assert story["arms"] == {"real": ["real_0", "real_1"], "edited": ["edited_0", "edited_1"]}  # the plan's order
    assert (story["seeds"], story["baseline"], story["left_out"]) == ([0, 1], "real", [])
    assert set(story["stages"]) == {"table", "edits", "real_0", "real_1", "edited_0", "edited_1"}
    assert not story["stages"]["edits"]["reused"]  # the record of the member that made them


def test_each_backbone_has_its_own_arms_and_baseline(member, tmp_path):
    member("vgg16", 0, "edited")
    member("resnet50", 0, "real")
    key = member("resnet50", 0, "edited")
    story = merged(key, tmp_path)
    assert story["arms"] == {
        "resnet50, real": ["real_0, resnet50"],
        "resnet50, edited": ["edited_0, resnet50"],
        "vgg16, edited": ["edited_0, vgg16"],
    }
    assert story["stages"]["edited_0, vgg16"]["run"] == "train/edited_0-vgg160"
    assert story["members"]["resnet50, edited"] == {"backbone": "resnet50", "arm": "edited"}
    assert story["baseline"] == "real"


@pytest.mark.parametrize(
    ("seeds", "shared"),
    [
        ({"real": {0, 1}, "edited": {1, 0}}, [0, 1]),
        ({"real": {0, 1, 2}, "edited": {0, 1, 2}, "focal": {8}}, [0, 1, 2]),  # tried once, with another seed
        ({"real": {0, 1, 2}, "edited": {0, 1, 2}, "focal": {0}}, [0, 1, 2]),
        ({"real": {0, 1, 2}, "edited": {0, 1}}, [0, 1]),  # two arms at least
        ({"real": {0, 1, 2}}, [0, 1, 2]),
        ({"a": {0, 1, 2, 3, 4}, "b": {0, 1, 2, 3, 4}, "c": {0, 1, 2, 3}, "d": {0, 1, 2, 3}}, [0, 1, 2, 3]),
        ({"a": {0, 1, 2}, "b": {1, 2, 3}, "c": {1, 2}}, [1, 2]),  # nobody's own seeds
    ],
)
def test_the_page_is_about_the_seeds_with_which_the_most_graders_compare(seeds, shared):
    assert shared_seeds(seeds) == shared


def test_arms_that_lack_seeds_are_left_out_and_named(member, tmp_path):
    for seed in (0, 1):
        member("resnet50", seed, "real", "edited")
    member("resnet50", 2, "real")
    plan = PLAN | {"arms": PLAN["arms"] | {"focal": "focal_{seed}"}}
    key = member("resnet50", 8, "focal", plan=plan, looks=True)
    story = merged(key, tmp_path)
    assert (story["seeds"], story["left_out"]) == ([0, 1], ["real_2", "focal_8"])
    assert story["arms"] == {"real": ["real_0", "real_1"], "edited": ["edited_0", "edited_1"]}
    assert set(story["stages"]) == {"table", "edits", "real_0", "real_1", "edited_0", "edited_1"}


def test_what_looks_at_a_grader_goes_and_stays_with_it(member, tmp_path):
    for seed in (0, 1):
        member("resnet50", seed, "real")
        key = member("resnet50", seed, "edited")
    key = member("resnet50", 0, "real", "leaked", plan=PLAN | {"arms": PLAN["arms"] | {"leaked": "x"}}, looks=True)
    story = merged(key, tmp_path)
    assert story["left_out"] == ["leaked_0"]
    assert {stage for stage in story["stages"] if "looks" in stage} == {"looks_real"}


def test_a_stage_of_which_backbones_have_runs_of_their_own_is_named_after_each(member, tmp_path):
    for backbone in ("vgg16", "resnet50"):
        key = member(backbone, 0, "real", "edited", looks=True)
    stages = merged(key, tmp_path)["stages"]
    assert stages["looks_real, vgg16"]["run"] == "explain/real-vgg160"
    assert stages["looks_real, resnet50"]["run"] == "explain/real-resnet500"
    assert {stage for stage in stages if "," not in stage} == {"table", "edits"}


def test_a_backbone_that_lacks_seeds_is_left_out(member, tmp_path):
    for seed in (0, 1, 2):
        member("resnet50", seed, "real", "edited")
    key = member("vgg16", 5, "real")
    story = merged(key, tmp_path)
    assert list(story["arms"]) == ["real", "edited"]
    assert story["left_out"] == ["real_5, vgg16"]


def test_a_grader_whose_run_is_gone_is_left_out_and_named(member, tmp_path):
    for seed in (0, 1, 2):
        key = member("resnet50", seed, "real", "edited")
    shutil.rmtree(tmp_path / "train" / "real_1-resnet501")
    story = merged(key, tmp_path)
    assert (story["seeds"], story["left_out"]) == ([0, 2], ["real_1", "edited_1"])
    assert story["removed"] == ["real_1"]
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(ValueError, match="no grader whose run is still there: repeat"):
        merged(key, tmp_path)


def test_of_a_sweep_only_its_own_members_count(member, tmp_path):
    member("resnet50", 0, "real", run="before")
    member("resnet50", 0, "edited")
    key = member("resnet50", 1, "edited")
    story = merged(key, tmp_path, members=["bench-1", "bench-2"])
    assert story["arms"] == {"edited": ["edited_0", "edited_1"]}
    assert (story["baseline"], story["left_out"]) == ("real", [])  # which was not run


def test_of_two_graders_of_one_seed_the_newer_counts(member, tmp_path):
    member("resnet50", 0, "real")
    key = member("resnet50", 0, "real", run="again")
    story = merged(key, tmp_path)
    assert story["stages"]["real_0"]["run"] == "train/real_0-resnet50again"


def test_arms_without_a_common_seed_cannot_be_compared(member, tmp_path):
    member("resnet50", 0, "real")
    key = member("resnet50", 1, "edited")
    with pytest.raises(ValueError, match=r"no two arms have a seed in common.*real: 0; .*edited: 1.*same seeds: -m"):
        merged(key, tmp_path)


# -------------------------------------------------------------------------------- the page after a sweep


@pytest.fixture
def sweep(tmp_path):
    """sweep(graders): what Hydra tells the callback of a sweep, whose members have those runs: {folder: story}."""

    def run(stories, *, runs_dir):
        page = MergedPage()
        config = OmegaConf.create({"runs_dir": str(runs_dir), "logger": None})
        page.on_multirun_start(config)
        for folder in stories:
            page.on_job_end(config, JobReturn(_return_value=runs_dir / "study" / folder, status=JobStatus.COMPLETED))
        page.on_multirun_end(config)
        assert list((runs_dir / "study").glob(".sweeps/*")) == []

    return run


@pytest.fixture
def swept(tmp_path):
    """Members with graders that have left predictions: two arms and two seeds with each of two protocols."""
    writer = StudyWriter(tmp_path)
    writer.prepare()
    for protocol in ("subject", "ldl"):
        for arm in ("real", "edited"):
            for seed in (0, 1):
                writer.grader(f"{protocol} {arm}", skill=0.6)
                stage = writer.arms[f"{protocol} {arm}"][-1]
                plan = PLAN | {"protocol": protocol, "seeds": [seed]}
                story = {
                    "name": "bench",
                    "seed": seed,
                    "seeds": [seed],
                    "baseline": "real",
                    "question": "Which?",
                    "stages": {name: writer.stages[name] for name in ("prepare", stage)},
                    "arms": {arm: [stage]},
                    "sweep": sweep_of(plan, "t1"),
                }
                folder = writer.runs_dir / "study" / f"bench-{protocol}{arm}{seed}"
                folder.mkdir(parents=True)
                (folder / "study.json").write_text(json.dumps(story))
    return writer.runs_dir


def pages(printed):
    return [line.removeprefix("all members: ") for line in printed.splitlines() if line.startswith("all members: ")]


def test_each_key_of_a_sweep_has_its_page_and_other_commands_have_none(swept, sweep, capsys):
    everything = sorted(path.name for path in (swept / "study").iterdir())
    sweep(everything, runs_dir=swept)
    assert len(set(pages(capsys.readouterr().out))) == 2  # a page for each protocol
    repeated = [name for name in everything if name.startswith("bench-ldl")]
    for name in everything:  # those of the other protocol were written last
        os.utime(swept / "study" / name / "study.json", (9, 9) if "ldl" in name else None)
    sweep(repeated, runs_dir=swept)
    [page] = pages(capsys.readouterr().out)
    folder = swept / "study" / page.split("/")[-2]
    assert folder.name.endswith(sweep_of(PLAN | {"protocol": "ldl"}, "t1")["key"])
    assert read_study(folder, swept).seeds == (0, 1)


def test_an_earlier_try_is_not_on_the_page_of_a_sweep(swept, sweep, capsys):
    sweep([f"bench-subject{arm}0" for arm in ("real", "edited")], runs_dir=swept)
    said = capsys.readouterr().out
    assert "not on it: 2 graders of earlier commands; acne-lab report study=bench takes all" in said
    study = read_study(swept / "study" / pages(said)[0].split("/")[-2], swept)
    assert (study.seeds, [arm.name for arm in study.arms]) == ((0,), ["real", "edited"])


def test_figures_are_those_of_the_page_not_what_the_runs_logged(swept, sweep, capsys):
    for path in swept.glob("train/*/metrics.json"):
        logged = json.loads(path.read_text())
        path.write_text(json.dumps(logged | {"test": logged["test"] | {"balanced_accuracy": 0.999}}))
    names = [f"bench-subject{arm}{seed}" for arm in ("real", "edited") for seed in (0, 1)]
    sweep(names, runs_dir=swept)
    folder = swept / "study" / pages(capsys.readouterr().out)[0].split("/")[-2]
    figures = json.loads((folder / "metrics.json").read_text())["arms"]
    for arm in read_study(folder, swept).arms:
        assert figures[arm.name]["balanced_accuracy"] == arm.test["balanced_accuracy"] < 0.999
        assert len(figures[arm.name]["by_seed"]["accuracy"]) == 2


def test_a_sweep_without_a_page_fails(swept, sweep, capsys):
    with pytest.raises(SystemExit, match="2"):
        sweep(["bench-subjectreal0", "bench-subjectedited1"], runs_dir=swept)
    assert "error: no two arms have a seed in common" in capsys.readouterr().err


def test_nothing_is_compared_without_the_baseline_and_the_arm_to_add_is_named(swept, sweep, capsys):
    for path in swept.glob("study/bench-subject*/study.json"):
        story = json.loads(path.read_text())
        story["sweep"]["baseline"] = story["baseline"] = "oversampled"
        path.write_text(json.dumps(story))
    sweep([f"bench-subject{arm}{seed}" for arm in ("real", "edited") for seed in (0, 1)], runs_dir=swept)
    said = capsys.readouterr().out
    assert "“oversampled”, the baseline, was not run" in said
    study = read_study(swept / "study" / pages(said)[0].split("/")[-2], swept)
    assert (study.compared.arms, study.compared.labels) == ({}, {})
    assert [study.role(arm) for arm in study.arms] == ["", ""]


def test_a_sweep_of_studies_without_arms_has_no_page(tmp_path, sweep, capsys):
    sweep([], runs_dir=tmp_path)
    MergedPage().on_job_end(OmegaConf.create({}), JobReturn(_return_value=None, status=JobStatus.COMPLETED))
    assert capsys.readouterr().out == ""
