"""Whether arms can be told apart, on the predictions of graders that are better, worse, or the same but for luck."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from fake_study import StudyWriter
from html_page import Page
from pyarrow import parquet

from acne_lab.metrics.grading import figures
from acne_lab.report.collect import read_study
from acne_lab.report.comparison import BETTER, NOT_TESTED, NOT_TOLD_APART, ONE_SEED, WORSE
from acne_lab.report.grading import grading_facts
from acne_lab.report.page import write_report
from acne_lab.report.reading import answer, reading
from acne_lab.report.results import results_table

SKILLS = {"real": 0.6, "better": 0.9, "same": 0.6, "worse": 0.12}


def several(root, *, backbones=("",), keeps_predictions=True, num_seeds=4, skills=None, **about) -> StudyWriter:
    """Graders of every arm, backbone and seed, as the members of a sweep are merged."""
    writer = StudyWriter(root)
    writer.prepare()
    writer.seeds, members = list(range(num_seeds)), {}
    for backbone in backbones:
        for arm, skill in (skills or SKILLS).items():
            name = f"{backbone}, {arm}" if backbone else arm
            members[name] = {"backbone": backbone, "arm": arm}
            for _ in writer.seeds:
                config = {"model": {"backbone": backbone or "byobnet"}, **about.get(arm, {})}
                writer.grader(name, skill=skill, keeps_predictions=keeps_predictions, config=config)
    writer.baseline = next(iter(members))
    writer.study_dir = writer.write()
    if len(backbones) > 1:
        story = json.loads((writer.study_dir / "study.json").read_text())
        (writer.study_dir / "study.json").write_text(json.dumps({**story, "members": members}))
    return writer


@pytest.fixture(scope="module")
def one_backbone(tmp_path_factory):
    return several(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two_backbones(tmp_path_factory):
    return several(tmp_path_factory.mktemp("two"), backbones=("resnet18", "vit_tiny"), num_seeds=3)


def test_verdicts_need_a_corrected_p_and_an_interval(one_backbone):
    compared = read_study(one_backbone.study_dir, one_backbone.runs_dir).compared
    assert {name: each.verdict for name, each in compared.arms.items()} == {
        "better": BETTER,
        "same": NOT_TOLD_APART,
        "worse": WORSE,
    }
    assert compared.labels == {}
    better = compared.arms["better"]
    assert better.p_holm >= better.p and better.p_holm < 0.05
    assert better.people[0] < better.difference.mean < better.people[1]
    assert (better.num_images, better.num_people) == (75, 38)
    assert better.seeds_needed <= 4 < compared.arms["same"].seeds_needed


def test_figures_are_of_the_predictions_and_not_of_what_was_logged(tmp_path):
    writer = several(tmp_path, num_seeds=1, skills={"real": 0.6})
    truth = read_study(writer.study_dir, writer.runs_dir).arms[0].test["balanced_accuracy"]
    path = writer.runs_dir / writer.stages["grade_0"]["run"] / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["test"]["balanced_accuracy"] = 0.999
    path.write_text(json.dumps(metrics))
    study = read_study(writer.study_dir, writer.runs_dir)
    assert study.arms[0].test["balanced_accuracy"] == truth
    assert "0.999" not in write_report(writer.study_dir, writer.runs_dir).read_text()


def test_without_predictions_figures_are_noted_and_nothing_is_tested(tmp_path):
    writer = several(tmp_path, keeps_predictions=False)
    study = read_study(writer.study_dir, writer.runs_dir)
    assert {each.verdict for each in study.compared.arms.values()} == {NOT_TESTED}
    assert "all figures are as the runs noted them, and untested" in " ".join(reading(study))
    assert answer(study)[0].startswith("Not tested, for want of predictions of both: “better” +")


def test_backbones_are_compared_each_with_its_own_baseline_and_all_together(two_backbones):
    study = read_study(two_backbones.study_dir, two_backbones.runs_dir)
    assert study.backbones == ("resnet18", "vit_tiny")
    assert len(study.compared.arms) == 6
    assert study.compared.arms["vit_tiny, worse"].baseline == "vit_tiny, real"
    together = study.compared.labels["worse"]
    parts = [study.compared.arms[f"{backbone}, worse"].difference.mean for backbone in study.backbones]
    assert together.difference.mean == pytest.approx(sum(parts) / 2)
    assert together.verdict == WORSE
    assert answer(study)[0].startswith("Better than “real” over all 2 backbones: “better” by ")
    page = Page(write_report(two_backbones.study_dir, two_backbones.runs_dir).read_text())
    assert "resnet18: every arm with its intervals" in page.text
    assert page.tags.count("details") > 2


def test_results_csv_holds_every_figure(two_backbones):
    write_report(two_backbones.study_dir, two_backbones.runs_dir)
    table = pd.read_csv(two_backbones.study_dir / "results.csv", keep_default_na=False)
    study = read_study(two_backbones.study_dir, two_backbones.runs_dir)
    assert set(table["backbone"]) == {"resnet18", "vit_tiny", "all"}
    row = table.query("backbone == 'vit_tiny' and arm == 'worse' and figure == 'balanced_accuracy'").iloc[0]
    each, arm = study.compared.arms["vit_tiny, worse"], study.arms[-1]
    assert float(row["mean"]) == pytest.approx(arm.test["balanced_accuracy"], abs=1e-5)
    assert float(row["p_holm"]) == pytest.approx(each.p_holm, abs=1e-5)
    assert row["verdict"] == "worse" and row["recomputed"] == "True"
    assert {"kappa", "ece", "recall.very severe", "count_from_grade.mae"} <= set(table["figure"])
    assert set(table.query("figure == 'kappa'")["p"]) == {""}, "one figure is tested, which was chosen before"


def test_arms_that_test_the_instrument_are_no_answer(tmp_path):
    config = {"better": {"leak": 0.5}, "worse": {"balance": {"permute_labels": "all"}}}
    writer = several(tmp_path, **config)
    study = read_study(writer.study_dir, writer.runs_dir)
    said = answer(study)
    assert said[0] == "No arm is shown to be better than “real”."
    assert any(line.startswith("The null “worse” learned from labels dealt anew: 0.") for line in said)
    assert any(line.startswith("“better” (+") and "what a leak does" in line for line in said)
    assert [study.role(arm) for arm in study.arms] == ["baseline", "leaked", "", "null"]


def test_slices_are_shown_where_predictions_know_them(one_backbone):
    write_report(one_backbone.study_dir, one_backbone.runs_dir)
    page = Page((one_backbone.study_dir / "report.html").read_text())
    assert "Slices" in page.headings
    assert "camera" in page.text and "3 of 4 severities" in page.text
    assert page.text.count("small") and "size of the lesions" in page.text


def test_a_study_without_graders_counts_what_it_has(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.prepare()
    run_dir = writer._stage("overlay", "evaluate", "overlay", seconds=9.0)
    figure = {"value": 0.874, "low": 0.81, "high": 0.93}
    (run_dir / "metrics.json").write_text(json.dumps({"realism": {"auc": figure}}))
    text = Page(write_report(writer.write(), writer.runs_dir).read_text()).text
    assert "demo: 1 set of edits, 4 severities, seed 0" in text
    assert "0 arms" not in text
    assert not (tmp_path / "runs/study/demo-0123456789abcdef/results.csv").exists()


def test_one_seed_is_never_better_or_worse(tmp_path):
    """Whatever the p: it says nothing of the luck of training."""
    writer = several(tmp_path, num_seeds=1)
    study = read_study(writer.study_dir, writer.runs_dir)
    assert study.compared.arms["better"].p_holm < 0.05 and study.compared.arms["worse"].p_holm < 0.05
    assert {each.verdict for each in study.compared.arms.values()} == {ONE_SEED}
    said = answer(study)
    assert len(said) == 1 and said[0].startswith("One seed compares these graders on these people, not the ways to ")
    page = write_report(writer.study_dir, writer.runs_dir)
    for text in (page.read_text(), page.with_name("report.md").read_text()):
        assert not re.search("(Better|Worse)( than|:)|[▲▼]", Page(text).text), "no verdict, in words or marks"
    table = pd.read_csv(page.with_name("results.csv"), keep_default_na=False)
    assert set(table.loc[table["arm"].ne("real") & table["figure"].eq("balanced_accuracy"), "verdict"]) == {"one seed"}


def test_broken_predictions_leave_what_the_run_has_noted(tmp_path):
    writer = several(tmp_path, num_seeds=2, skills={"real": 0.5, "better": 0.9})
    before = read_study(writer.study_dir, writer.runs_dir).arms[0].test
    run = writer.stages["grade_0"]["run"]
    (writer.runs_dir / run / "predictions.parquet").write_bytes(b"PAR1, and then the disk was full")
    study = read_study(writer.study_dir, writer.runs_dir)
    assert [stage.name for stage in study.stages if stage.has_broken_predictions] == ["grade_0"]
    assert study.arms[0].num_noted == 1 and study.arms[0].test["accuracy"] == pytest.approx(before["accuracy"])
    page = write_report(writer.study_dir, writer.runs_dir)
    assert f"“grade_0” cannot be read: remove runs/{run} and repeat the study" in Page(page.read_text()).text
    table = pd.read_csv(page.with_name("results.csv"), keep_default_na=False)
    assert table.groupby("arm")["recomputed"].agg(set).to_dict() == {"real": {False}, "better": {True}}
    assert set(table["verdict"]) == {"", NOT_TESTED}


def test_arms_of_other_test_images_are_compared_on_the_common_ones(tmp_path):
    """As an arm that has learned from half of the test people is."""
    writer = several(tmp_path, num_seeds=3, skills={"real": 0.6, "better": 0.9})
    for stage in writer.arms["better"]:
        path = writer.runs_dir / writer.stages[stage]["run"] / "predictions.parquet"
        table = parquet.read_table(path)
        keep = [
            split == "val" or int(name.split("_")[2][:-4]) % 4 < 2
            for split, name in zip(table["split"].to_pylist(), table["file_name"].to_pylist())
        ]
        parquet.write_table(table.filter(keep), path)
    study = read_study(writer.study_dir, writer.runs_dir)
    real, better = study.arms
    assert (real.test["num_test"], better.test["num_test"]) == (75, 39)
    each, files = study.compared.arms["better"], set(better.predictions[0].frame["file_name"])
    assert (each.num_images, each.num_people) == (39, 20)
    for seed, difference in zip(better.seeds, each.by_seed):
        theirs = real.predicted(seed)
        cut = figures(theirs.where(theirs.frame["file_name"].isin(files).to_numpy()))["balanced_accuracy"]
        assert difference == pytest.approx(better.values("balanced_accuracy")[seed] - cut)
    page = Page(write_report(writer.study_dir, writer.runs_dir).read_text())
    assert "a difference with a p is of the images that both were tested on" in page.text


def test_an_equal_budget_counts_one_epoch(tmp_path):
    config = {"loader": {"epoch_size": 64}, "trainer": {"max_epochs": 1}}
    writer = several(tmp_path, num_seeds=1, real=config, skills={"real": 0.5, "better": 0.9}, better=config)
    said = " ".join(reading(read_study(writer.study_dir, writer.runs_dir)))
    assert "the same number of images, 64 in 1 epoch, whatever its set." in said


def test_a_single_arm_is_shown_and_compared_with_nothing(tmp_path):
    writer = several(tmp_path, skills={"real": 0.6})
    study = read_study(writer.study_dir, writer.runs_dir)
    assert study.compared.arms == {} and answer(study) == []
    page = write_report(writer.study_dir, writer.runs_dir)
    assert (
        "points above" not in Page(page.read_text()).text
        and "points above" not in page.with_name("report.md").read_text()
    )
    assert set(pd.read_csv(page.with_name("results.csv"))["arm"]) == {"real"}


@pytest.mark.parametrize("backbones", [("",), ("resnet18", "vit_tiny")])
def test_every_table_of_the_markdown_is_one(tmp_path, backbones):
    """A head, a line below it and rows, with nothing between them and as many cells in each."""
    writer = several(tmp_path, backbones=backbones, num_seeds=2)
    page = write_report(writer.study_dir, writer.runs_dir)
    text = page.with_name("report.md").read_text()
    tables = [block.splitlines() for block in re.split(r"\n(?!\|)", text.replace("\n\n", "\n \n")) if "\n|" in block]
    tables = [[line for line in table if line.startswith("|")] for table in tables]
    assert sum(len(table) for table in tables) == len(re.findall(r"^\|", text, flags=re.MULTILINE))
    for table in tables:
        assert re.fullmatch(r"\|(-+:?\|)+", table[1]) and len(table) > 2, table
        assert len({line.count("|") for line in table}) == 1, table
    assert [len(table) for table in tables if table[0].startswith("| arm | bal")] == [2 + len(SKILLS)] * len(backbones)


@pytest.mark.parametrize("backbones", [("",), ("resnet18", "vit_tiny")])
def test_without_its_baseline_a_study_compares_nothing_and_says_what_to_add(tmp_path, backbones):
    writer = several(tmp_path, backbones=backbones, num_seeds=2, skills={"better": 0.9, "same": 0.6})
    study = read_study(writer.study_dir, writer.runs_dir)
    assert study.compared.arms
    without = replace(study, baseline="oversampled")
    assert not without.compared.arms and not without.compared.labels
    said = (
        "Nothing is compared: “oversampled”, the baseline, was not run. Add it to the arms, with the same seeds, and "
    )
    assert answer(without) == [f"{said}repeat."]
    assert "the study's baseline was not run" in answer(replace(study, baseline=""))[0]
    facts = grading_facts(without)
    assert not facts["is_compared"] and facts["differences_drawing"] is None
    assert {row["verdict"] for group in facts["groups"] for row in group["rows"]} == {""}
    assert results_table(without)["difference"].isna().all()
