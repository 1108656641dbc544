"""The study graph on the smallest data: whole, memoised, shared by a sweep, and on real photographs."""

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from tiny import TINY_GAN, TINY_GRADER, TOY, composed

from acne_lab.build import CONF_DIR
from acne_lab.data.table import ImageTable
from acne_lab.jobs.report import newest_study
from acne_lab.jobs.study import expand, fill, in_order, job, likened, missing_weights, stages_of, waits_for

ROOT = Path(__file__).parents[2]
GAN_OVERRIDES = [*TINY_GAN[:-3], "stage.batch_size=4", "stage.tick_images=8", "stage.num_images=16"]


def tiny_plan() -> str:
    """conf/study/demo.yaml with networks and budgets of the smallest size, as a Hydra override."""
    plan = composed("study", "study=demo")["study"]
    extra = {"gan_{severity}": GAN_OVERRIDES, "real_to_real": TINY_GRADER, "generated_to_real": TINY_GRADER}
    for name, stage in plan["stages"].items():
        overrides = [o for o in stage["overrides"] if not o.startswith(("stage.num_images", "trainer.", "seed"))]
        overrides = [o.replace("init_from=toy_faces_64", "init_from=null") for o in overrides]
        overrides = [re.sub(r"^num_images=\d+", "num_images=80", o) for o in overrides]
        stage["overrides"] = [*overrides, "data.resolution=32", "seed=${seed}", *extra.get(name, ())]
        if stage["job"] == "generate":
            stage["overrides"] = [o for o in stage["overrides"] if not o.startswith("data.")]
    return plan


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs `acne-lab study study=tiny OVERRIDES` in a folder of its own and returns its output lines."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "conf" / "study").mkdir(parents=True)
    text = "# @package study\n" + yaml.safe_dump({**tiny_plan(), "name": "tiny"}, sort_keys=False)
    (folder / "conf" / "study" / "tiny.yaml").write_text(text)

    def run(*overrides: str) -> list[str]:
        words = [sys.executable, "-m", "acne_lab.jobs", "study", "--config-dir", "conf", "study=tiny", *overrides]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    run.folder = folder
    return run


PRIVATE = (getpass.getuser() + "@", str(ROOT), sys.executable, "--config-dir")
HOST = b"j\x08acne_lab"  # protobuf: the field of the host's name, its length, its bytes


def check_offline_file(run: Path, folder: Path) -> None:
    """It names the run, and neither computer, user, command nor folders."""
    [offline] = (run / "wandb").glob("offline-run-*/*.wandb")
    sent = offline.read_bytes()
    assert run.name.encode() in sent and HOST in sent
    assert {word for word in (*PRIVATE, str(folder)) if word.encode() in sent} == set(), run


def study_of(lines, folder):
    path = folder / lines[-1]
    return path, json.loads((path / "study.json").read_text())


def test_whole_memoised_and_shared_by_a_sweep(command):
    first = command(*TOY, "logger=wandb", "logger.mode=offline")
    path, story = study_of(first, command.folder)
    assert not any(stage["reused"] for stage in story["stages"].values())
    assert set(story["stages"]) == {
        "table", "gan_mild", "gan_moderate", "gan_severe", "gan_very_severe",
        "generated", "real_to_real", "generated_to_real",
    }  # fmt: skip
    arms = json.loads((path / "metrics.json").read_text())["arms"]
    assert set(arms) == {"real -> real", "generated -> real"}
    for figures in arms.values():
        assert set(figures) == {"balanced_accuracy", "accuracy", "macro_f1", "num_test"}
        assert 0 <= figures["balanced_accuracy"] <= 1
    assert (path / "report.html").stat().st_size > 10_000
    assert newest_study("tiny", command.folder / "runs") == path
    for stage in story["stages"].values():
        check_offline_file(command.folder / "runs" / stage["run"], command.folder)
    check_offline_file(path, command.folder)

    second = command(*TOY)
    assert second[-1] == first[-1]
    assert study_of(second, command.folder) == (path, story)  # what each stage took stays on record
    runs = sorted(p.parent.name for p in (command.folder / "runs").glob("*/*/DONE"))

    command("-m", "seed=0,1", *TOY)
    more = sorted(p.parent.name for p in (command.folder / "runs").glob("*/*/DONE"))
    assert set(runs) < set(more)
    assert len([name for name in more if name.startswith("toy-")]) == 1  # both seeds share the data
    assert len([name for name in more if name.startswith("tiny-")]) == 2

    table = ImageTable.read(next((command.folder / "runs" / "generate").glob("generated-*")))
    assert set(table.rows["source"]) == {"generated"}
    assert table.rows.groupby("severity").size().to_dict() == dict.fromkeys(table.classes, 20)
    assert table.rows["parent"].str.match(r"train/gan_\w+-[0-9a-f]{10}").all()


def test_on_real_photographs(command):
    """Two ticks of the same study on a folder of real faces and the portrait that scikit-image ships."""
    data = pytest.importorskip("skimage.data")
    root = command.folder / "photographs"
    faces = (data.lfw_subset()[:100] * 255).astype(np.uint8)
    for number, face in enumerate(faces):
        path = root / ("clear" if number % 2 else "spotted") / f"face{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(path)
    Image.fromarray(data.astronaut()).save(root / "clear" / "astronaut.jpg")
    lines = command("data=folder", f"data.root={root}", "data.resolution=32")
    path, story = study_of(lines, command.folder)
    assert {"gan_clear", "gan_spotted"} < set(story["stages"])
    assert (path / "report.html").exists()


@pytest.mark.slow
def test_the_balancing_study_on_the_smallest_data(tmp_path):
    """All arms of conf/study/acne04_balancing.yaml with two seeds; edits are red dots, so that any face will do."""
    plan = composed("study", "study=acne04_balancing")["study"]
    grader = ["data.resolution=32", "loader.epoch_size=16", *TINY_GRADER]
    extra = {"gan_{severity}": [*GAN_OVERRIDES, "data.resolution=32", "init_from=null"], "classical_{seed}": grader}
    for name, stage in plan["stages"].items():
        overrides = [*stage.get("overrides", []), *extra.get(name, [])]
        stage["overrides"] = [re.sub(r": 300\b", ": 22", text).replace("budget=800", "budget=32") for text in overrides]
        if "balance=acnedit" in overrides:  # with none of the options that an editor of faces has
            stage["overrides"] = [text for text in stage["overrides"] if not text.startswith(("edit.", "edit="))]
            stage["overrides"] += ["edit=dots"]
    for group, name, node in (
        ("study", "tiny", plan | {"name": "tiny", "seeds": [0, 1]}),
        ("edit", "dots", {"name": "dots", "editor": {"_target_": "fake_editor.DotEditor"}}),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        text = f"# @package {group}\n{yaml.safe_dump(node, sort_keys=False)}"
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    words = [sys.executable, "-m", "acne_lab.jobs", "study", "--config-dir", "conf", "study=tiny", *TOY]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    path, story = study_of(done.stdout.splitlines(), tmp_path)
    runs = tmp_path / "runs"
    metrics = {
        name: json.loads((runs / stage["run"] / "metrics.json").read_text()) for name, stage in story["stages"].items()
    }
    num_train = metrics["classical_0"]["train"]["num_images"]
    expected = {
        "real": {"toy": num_train},
        "oversampled": {"toy": num_train},
        "edited": {"toy": num_train, "edited": 4},
        "generated": {"toy": num_train, "generated": 4},
        "permuted": {"toy": num_train, "generated": 32},
        "generated_only": {"generated": 32},
    }
    for arm, sources in expected.items():
        assert metrics[f"{arm}_0"]["train"]["sources"] == metrics[f"{arm}_1"]["train"]["sources"] == sources
    assert all(metrics[stage]["lineage"]["known"] for stages in story["arms"].values() for stage in stages)
    for arm in ("edited", "generated"):  # the graders took the set that the stage before them had made
        assert len(list((runs / "balance").glob(f"{arm}*"))) == 1
    assert len(list((runs / "balance").glob("*/DONE"))) == 3
    arms = json.loads((path / "metrics.json").read_text())["arms"]
    assert all(len(figures["by_seed"]["accuracy"]) == 2 for figures in arms.values())
    assert (path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_sweep_over_arms_and_seeds_has_one_page(tmp_path):
    """Members of one arm and one seed each; together, also by `acne-lab report`, they are a study of two arms."""
    small = ["study.experiment=cnn_benchmark", "backbone=test_resnet", "study.input_size=32", "study.batch_size=8"]
    small += ["study.epoch_size=16", "study.epochs=1", "num_threads=1"]

    def run(verb, *words):
        command = [sys.executable, "-m", "acne_lab.jobs", verb, "study=cnn_benchmark", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("study", "-m", "arm=oversampled,leaked", "seed=range(2)", *TOY, *small)
    assert done.returncode == 0, done.stderr[-3000:]
    [page] = re.findall(r"^all members: (.*)/report.html$", done.stdout, flags=re.M)
    story = json.loads((Path(page) / "study.json").read_text())
    assert story["arms"] == {arm: [f"{arm}_0", f"{arm}_1"] for arm in ("oversampled", "leaked")}
    assert (story["seeds"], story["baseline"]) == ([0, 1], "oversampled")
    assert len(list((tmp_path / "runs" / "train").glob("*/DONE"))) == 4  # and no GAN, as no arm needs one
    figures = json.loads((Path(page) / "metrics.json").read_text())["arms"]
    assert all(len(each["by_seed"]["accuracy"]) == 2 for each in figures.values())
    (Path(page) / "report.html").unlink()
    assert run("report").stdout.strip() == f"{page}/report.html"
    assert (Path(page) / "report.html").stat().st_size > 10_000

    run("study", "arm=real", "seed=8", *TOY, *small)  # tried once
    done = run("report")
    assert "left out, for all arms need the same seeds, here 0, 1: real_8." in done.stderr
    assert list(json.loads((Path(page) / "study.json").read_text())["arms"]) == ["oversampled", "leaked"]
    done = run("study", "-m", "arm=oversampled,leaked", "seed=1", *TOY, *small)  # all of it is done
    assert f"all members: {page}/report.html" in done.stdout
    assert "not on it: 3 graders of earlier commands" in done.stdout
    assert json.loads((Path(page) / "study.json").read_text())["seeds"] == [1]

    for words, message in (
        (("arm=real,leaked",), "error: arm=real,leaked: use -m for a study of each, or arm=[real,leaked]"),
        (("arm=leak",), "there is no arm leak: did you mean leaked"),
        (("backbone=resnt50",), "there is no backbone resnt50: did you mean resnet50"),
        (("protocol=ld",), "there is no protocol ld: did you mean ldl"),
    ):
        refused = run("study", *words, "data.source.seed=9")
        assert refused.returncode == 2 and message in refused.stderr
        assert len(list((tmp_path / "runs" / "prepare").glob("*/DONE"))) == 1  # said before anything is drawn


def test_a_sweep_without_a_study_names_the_studies(tmp_path):
    command = [sys.executable, "-m", "acne_lab.jobs", "study", "-m", "seed=0,1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "choose a study: study=demo, or another one of " in done.stderr and "cnn_benchmark" in done.stderr
    assert "Warning" not in done.stderr


def test_stage_names_and_references():
    stages = {
        "g_{severity}": {"job": "train", "overrides": ["x={severity}"]},
        "all": {"job": "generate", "overrides": ["run={severity:g}"]},
    }
    expanded = expand(stages, ("mild", "severe"))
    assert list(expanded) == ["g_mild", "g_severe", "all"]
    assert expanded["g_severe"]["overrides"] == ["x='severe'"]
    assert expanded["all"]["overrides"] == ["run={mild:@g_mild,severe:@g_severe}"]
    assert fill("run=@a", {"a": "/runs/a-1"}) == "run='/runs/a-1'"
    deeper = expand(
        {"h_{severity}": {"job": "train", "overrides": ["from=@g_{severity}", "n={num_classes}"]}}, ("a b", "c")
    )
    assert deeper["h_a_b"]["overrides"] == ["from=@g_a_b", "n=2"]


def test_a_stage_of_seeds_is_one_for_each_and_an_arm_holds_them_all():
    stages = {
        "shared": {"job": "train", "overrides": ["seed=7"]},
        "gan_{seed}_{severity}": {"job": "train", "overrides": ["from=@shared", "seed={seed}"]},
        "all_{seed}": {"job": "generate", "overrides": ["run={severity:gan_{seed}}"]},
        "grade_{seed}": {"job": "train", "overrides": ["data=@all_{seed}", "seed={seed}"]},
    }
    expanded = in_order(expand(stages, ("a", "b"), [3, 5]))
    assert len(expanded) == 1 + 4 + 2 + 2
    assert expanded["gan_5_b"]["overrides"] == ["from=@shared", "seed=5"]
    assert expanded["all_3"]["overrides"] == ["run={a:@gan_3_a,b:@gan_3_b}"]
    assert expanded["grade_5"]["overrides"] == ["data=@all_5", "seed=5"]
    assert stages_of("grade_{seed}", expanded, [3, 5]) == ["grade_3", "grade_5"]
    assert stages_of("shared", expanded, [3, 5]) == ["shared"]
    with pytest.raises(ValueError, match="an arm names graed_3, graed_5; the stages are shared"):
        stages_of("graed_{seed}", expanded, [3, 5])


@pytest.mark.parametrize(
    ("name", "overrides", "seeds", "words"),
    [
        ("a_{seed}", ["seed={seed}"], [], r"give study\.seeds"),
        ("a", ["seed={seed}"], [0], r"put it into the name too, a_\{seed\}"),
        ("a_{seed}", ["seed={seed}"], [0, 0], "different whole numbers"),
        ("a_{seed}", ["seed={seed}"], [-1], "different whole numbers"),
        ("a_{seed}", ["seed={seed}"], ["x"], "different whole numbers"),
    ],
)
def test_seeds_that_make_no_stages_are_refused(name, overrides, seeds, words):
    with pytest.raises(ValueError, match=words):
        expand({name: {"job": "train", "overrides": overrides}}, ("a",), seeds)


def test_a_stage_like_another_changes_what_it_says():
    stages = {
        "b_{seed}": {"like": "a_{seed}", "overrides": ["x=2", "z=3"]},
        "a_{seed}": {"job": "train", "overrides": ["x=1", "y=1"]},
        "c_{seed}": {"like": "b_{seed}"},
    }
    assert likened(stages)["b_{seed}"] == {"job": "train", "overrides": ["x=2", "y=1", "z=3"]}
    assert likened(stages)["c_{seed}"] == likened(stages)["b_{seed}"]
    assert list(expand(stages, ("m",), [0])) == ["b_0", "a_0", "c_0"]
    late = likened({"a": {"job": "train", "overrides": []}, "b": {"like": "a", "after": ["a"]}, "c": {"like": "b"}})
    assert late["b"]["after"] == ["a"] and "after" not in late["c"]  # it says when a stage runs, not what it does
    for name in ("nobody", "a"):
        with pytest.raises(ValueError, match=f"stage a is like {name}: name another one"):
            likened({"a": {"like": name}})


def test_an_override_without_a_value_is_left_out():
    stages = {"a": {"job": "train", "overrides": ["trainer.max_epochs=", "x=1"]}}
    assert expand(stages, ("m",))["a"]["overrides"] == ["x=1"]


def test_jobs_of_stages_are_imported_by_name():
    assert job("train").__module__ == "acne_lab.jobs.train"
    with pytest.raises(
        ValueError, match="a stage's job must be train, generate, balance, evaluate, explain, not bench"
    ):
        job("bench")


def test_classes_with_spaces_and_digits_make_stages_that_hydra_can_read():
    stages = {
        "g_{severity}": {"job": "train", "overrides": ["stage.severity={severity}"]},
        "all": {"job": "generate", "overrides": ["run={severity:g}"]},
    }
    expanded = in_order(expand(stages, ("0", "very severe", "level-2")))
    assert set(expanded) == {"g_0", "g_very_severe", "g_level_2", "all"}
    parser = OverridesParser.create()
    assert parser.parse_override(expanded["g_0"]["overrides"][0]).value() == "0"
    assert parser.parse_override(expanded["g_very_severe"]["overrides"][0]).value() == "very severe"
    run = fill(expanded["all"]["overrides"][0], {stage: f"/runs/{stage}" for stage in expanded})
    value = parser.parse_override(run).value()
    assert {str(k): v for k, v in value.items()} == {
        "0": "/runs/g_0", "very severe": "/runs/g_very_severe", "level-2": "/runs/g_level_2",
    }  # fmt: skip
    with pytest.raises(ValueError, match="differ in punctuation only"):
        expand(stages, ("very severe", "very-severe"))


def test_stages_run_behind_what_they_refer_to():
    def stage(*overrides):
        return {"job": "train", "overrides": list(overrides)}

    stages = {"c": stage("x=@b", "data=@table"), "b": stage("x=@a"), "a": stage("data=@table")}
    assert list(in_order(stages)) == ["a", "b", "c"]
    later = {"a": {"job": "train", "overrides": [], "after": ["b"]}, "b": stage()}
    assert waits_for(later) == {"a": {"b"}, "b": set()}
    assert list(in_order(later)) == ["b", "a"]
    with pytest.raises(ValueError, match="stage a refers to z"):
        in_order({"a": stage("x=@z")})
    with pytest.raises(ValueError, match="wait for one another"):
        in_order({"a": stage("x=@b"), "b": stage("x=@a")})


def test_weights_that_cannot_be_had_are_said_before_any_stage(monkeypatch):
    monkeypatch.setattr("acne_lab.grade.backbone._in_cache", lambda name: False)
    monkeypatch.setattr("acne_lab.grade.backbone._answers", lambda url: False)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        assert "resnet50" in missing_weights({"backbone": "resnet50", "protocol": "subject", "pretrained": ""})
        assert missing_weights({"backbone": "resnet50", "pretrained": False}) is None
        assert missing_weights({"backbone": "tf_efficientnet_lite0", "experiment": "toy_benchmark"}) is None
        assert missing_weights({}) is None


@pytest.mark.slow
def test_the_toy_benchmark_measures_what_it_should(tmp_path):
    """Real beats chance, the null does not, oversampling helps the rare severities, and a leak of people shows."""
    words = ["study", "study=cnn_benchmark", f"runs_dir={tmp_path}", "num_threads=1", "-m", "seed=0,1,2"]
    subprocess.run([sys.executable, "-m", "acne_lab.cli", *words], check=True)
    [folder] = tmp_path.glob("study/*-all-*")
    results = pd.read_csv(folder / "results.csv").set_index(["arm", "figure"])
    chance, score = 0.25, "balanced_accuracy"
    assert results.loc[("real", score), ["low", "people_low"]].min() > chance
    null = results.loc[("permuted_all", score)]
    assert null["low"] < chance < null["high"]
    assert null["people_low"] < chance < null["people_high"]
    for severity in ("severe", "very_severe"):
        recall = results["mean"].xs(f"recall.{severity}", level="figure")
        assert recall["oversampled"] > recall["real"] + 0.1
    leak = results.loc[("leaked", score), ["difference_low", "difference_people_low"]]
    assert leak.min() > 0
