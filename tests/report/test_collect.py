"""A study is read as it lies there: finished, half-way, or not started."""

import json

import pytest
from fake_study import StudyWriter

from acne_lab.report.collect import init_from, read_study, without_machine_paths


def test_a_study_has_its_stages_in_order_with_what_each_left(full):
    study = read_study(full.study_dir, full.runs_dir)
    assert [stage.name for stage in study.stages] == list(full.stages)
    assert [arm.name for arm in study.arms] == [
        "real",
        "real + generated",
        "generated only",
        "real, oversampled",
    ]
    assert [stage.name for stage in study.gans] == [
        "base",
        "gan_mild",
        "gan_moderate",
        "gan_severe",
        "gan_very_severe",
    ]
    assert study.real.name == "prepare"
    assert len(study.real.table) == 347
    assert [len(stage.table) for stage in study.synthetic] == [12, 12, 12, 12]
    assert study.run == "runs/study/demo-0123456789abcdef"
    assert study.classes == ("mild", "moderate", "severe", "very severe")


def test_scores_are_those_of_the_graders_run(full):
    study = read_study(full.study_dir, full.runs_dir)
    arm = study.arms[0]
    written = json.loads((full.runs_dir / full.stages[arm.stages[0]]["run"] / "metrics.json").read_text())
    for name, value in written["test"].items():
        assert arm.test[name] == pytest.approx(value) if isinstance(value, float) else arm.test[name] == value
    assert arm.num_per_class == {"mild": 24, "moderate": 30, "severe": 12, "very severe": 9}
    assert arm.commonest_share == 30 / 75


def test_inputs_are_the_runs_that_a_config_names(full):
    study = read_study(full.study_dir, full.runs_dir)
    grader = study.named(full.arms["real + generated"][0])
    assert [stage.name for stage in study.inputs(grader)] == [
        "prepare",
        "generate_mild",
        "generate_moderate",
        "generate_severe",
        "generate_very_severe",
    ]


def test_a_parent_is_found_by_run_key_and_file(full):
    study = read_study(full.study_dir, full.runs_dir)
    run = full.stages["gan_mild"]["run"]
    for parent in (run, run.rsplit("-", 1)[1], f"runs/{run}/checkpoints/last.ckpt"):
        assert study.made(parent).name == "gan_mild"
    assert study.made("") is None
    assert study.made("elsewhere-00") is None


def test_stages_that_have_not_finished_are_marked(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.prepare()
    writer.gan("base", num_ticks=2, done=False)
    writer.stages["later"] = {"job": "train", "run": None, "command": None, "seconds": None, "reused": False}
    writer.stages["gone"] = {**writer.stages["base"], "run": "train/gone-0123456789abcdef"}
    writer.arms = {"real": "later"}
    curves = writer.runs_dir / writer.stages["base"]["run"] / "metrics.csv"
    curves.write_text(curves.read_text() + "12000,0.5,0.")  # killed while it wrote a line
    study = read_study(writer.write(), writer.runs_dir)
    assert [stage.state for stage in study.stages] == ["done", "unfinished", "not run", "not run"]
    assert study.named("base").curves["images_seen"].tolist() == [4000, 8000, 12000]
    assert study.arms[0].test == {}


def test_a_removed_grader_leaves_what_the_study_noted(full, tmp_path):
    writer = StudyWriter(tmp_path)
    writer.stages["grade"] = {
        "job": "train",
        "run": "train/x-00",
        "command": "",
        "seconds": 1.0,
        "reused": False,
    }
    writer.arms = {"real": "grade"}
    study_dir = writer.write()
    noted = {"balanced_accuracy": 0.5, "accuracy": 0.6, "macro_f1": 0.4, "num_test": 9}
    (study_dir / "metrics.json").write_text(json.dumps({"arms": {"real": noted}}))
    assert read_study(study_dir, writer.runs_dir).arms[0].test == noted
    writer.arms, writer.seeds = {"real": ["grade", "gone"]}, [0, 1]
    study_dir = writer.write()
    by_seed = {"balanced_accuracy": [0.5, 0.6], "num_test": [9, 9]}
    (study_dir / "metrics.json").write_text(json.dumps({"arms": {"real": {**noted, "by_seed": by_seed}}}))
    arm = read_study(study_dir, writer.runs_dir).arms[0]
    assert [test["balanced_accuracy"] for test in arm.tests] == [0.5, 0.6]
    assert arm.test == {"balanced_accuracy": 0.55, "num_test": 9}


def test_a_folder_without_study_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no study\.json"):
        read_study(tmp_path, tmp_path)


def test_machine_paths_are_cut(tmp_path):
    runs_dir = tmp_path / "runs"
    text = f"root: /home/ann/patients/1.jpg, {runs_dir}/train/a-1, loss/G, https://host/a/b, a=/x/y/ b file:///c/d/e"
    assert (
        without_machine_paths(text, runs_dir) == "root: …/1.jpg, runs/train/a-1, loss/G, https://host/a/b, a=…/ b …/e"
    )


def test_init_from_is_found_at_any_depth():
    assert init_from({"model": {"init_from": "base.safetensors"}}) == "base.safetensors"
    assert init_from({"callbacks": [{"init_from": None}], "init_from": None}) is None
