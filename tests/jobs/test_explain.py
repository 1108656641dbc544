"""`explain` of a grader that was trained in a moment: its figures, its page, and what it refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from html_page import Page
from tiny import TINY_GRADER, TOY, composed

from acne_lab.data.pack import pack
from acne_lab.data.photo import fit_boxes
from acne_lab.data.table import ImageTable
from acne_lab.grade.explain import attributions
from acne_lab.jobs.explain import explain
from acne_lab.jobs.graders import load_grader
from acne_lab.jobs.study import job
from acne_lab.jobs.train import train
from acne_lab.metrics.attribution import coverage, enlarged, hit_rate, hits
from acne_lab.report.explain import verdict
from acne_lab.report.page import write_report

SMALL = ("num_random=2", "num_shown=1", "num_threads=1")


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    """A run of a grader for toy faces of 32 px, a third of whom are in val."""
    runs_dir = tmp_path_factory.mktemp("runs")
    split = ("data.split.fractions={train: 0.5, val: 0.35, test: 0.15}", f"runs_dir={runs_dir}")
    return train(composed("train", "experiment=grader", *TOY, *TINY_GRADER, *split, "num_threads=1"))


def explained(grader, *given):
    return explain(composed("explain", f"run={grader.path}", f"runs_dir={grader.path.parents[1]}", *SMALL, *given))


@pytest.fixture(scope="module")
def run(grader):
    return explained(grader)


def test_metrics_are_those_of_the_maps(grader, run):
    """Recomputed from the weights, the table and the boxes."""
    metrics = run.metrics
    network, of, _ = load_grader(grader.path, grader.path.parents[1])
    table = ImageTable.read(next(iter(grader.path.parents[1].glob("prepare/*")))).select(split="val")
    pixels = pack(table, resolution=32, fit="crop", cache_dir=of.config["data"]["cache_dir"], num_workers=1)
    mean, std = (torch.tensor(network.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2) / 255 - mean) / std
    boxes = [table.boxes[table.boxes["file_name"] == name].iloc[:, 1:].to_numpy() for name in table.rows["file_name"]]
    on = np.stack([coverage(fit_boxes(each, (32, 32), 32, "crop") / 32) for each in boxes])
    there = on.any(axis=(1, 2))
    probabilities, maps = attributions(network, images, stage=metrics["stage"])
    people = table.rows["subject"].to_numpy()[there]
    for score, each in maps.items():
        expected = hit_rate(hits(enlarged(each[there]), on[there]), people).value
        assert metrics["explain"][score]["all"]["hit_rate"]["value"] == pytest.approx(expected, rel=1e-3)
    assert metrics["num_images"] == len(table) and metrics["num_located"] == there.sum() < len(table)
    assert metrics["num_right"] == (probabilities.argmax(axis=1) == table.labels).sum()
    assert metrics["explain"]["severity"]["all"]["num_images"] == there.sum()
    by_severity = [metrics["explain"]["severity"][name]["num_images"] for name in metrics["classes"]]
    assert sum(by_severity) == there.sum()
    assert metrics["map_side"] == enlarged(maps["severity"], metrics["map_side"]).shape[1] == 16


def test_each_photograph_has_its_row(run):
    rows = pd.read_csv(run.path / "attributions.csv")
    assert len(rows) == run.metrics["num_images"] == rows["file_name"].nunique()
    assert {"source", "skin_tone", "lesion_size"} <= set(rows)
    assert (rows["right"] == (rows["severity"] == rows["predicted"])).all()
    assert rows["severity_inside"].dropna().between(0, 1).all() and rows["confidence"].between(0.25, 1).all()
    assert rows.loc[rows["lesions"] == 0, "area"].isna().all() and rows.loc[rows["lesions"] > 0, "area"].notna().all()


def test_slices_are_those_of_the_photographs(run):
    rows, slices = pd.read_csv(run.path / "attributions.csv"), run.metrics["slices"]
    tones = [each for each in slices if each["slice"] == "skin_tone"]
    assert {each["value"]: each["num_images"] for each in tones} == {
        str(tone): number for tone, number in rows["skin_tone"].value_counts().items()
    }
    for each in tones:
        assert each["accuracy"] == pytest.approx(rows.loc[rows["skin_tone"] == int(each["value"]), "right"].mean())
    assert [each["value"] for each in slices if each["slice"] == "lesion_size"] == ["small", "medium", "large"]
    assert "Are some photographs graded worse?" in Page((run.path / "report.html").read_text()).headings


def test_the_page_and_its_pictures(run):
    html = (run.path / "report.html").read_text()
    page = Page(html)
    assert "Does the grader look at lesions?" in page.headings
    assert "script" not in page.tags and "<script" not in html
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert str(run.path.parents[1]) not in html
    assert "The faces are drawn by code" in page.text
    sheets = sorted((run.path / "samples").glob("*.png"))
    rows = pd.read_csv(run.path / "attributions.csv")
    assert len(sheets) == len(rows.groupby(["severity", "right"])) == page.text.count("photographwhat raises")
    assert page.tags.count("img") == 4 * len(sheets)


def test_it_is_made_once_and_again_with_another_question(grader, run):
    before = (run.path / "metrics.json").stat().st_mtime_ns
    again = explained(grader)
    assert again.path == run.path and (run.path / "metrics.json").stat().st_mtime_ns == before
    coarse = explained(grader, "backbone_stage=-2", "num_images=5", "num_shown=0")
    assert coarse.path != run.path
    assert (coarse.metrics["num_images"], coarse.metrics["stage"], coarse.metrics["map_side"]) == (5, -2, 2)
    assert not list((coarse.path / "samples").iterdir())
    assert "img" not in Page((coarse.path / "report.html").read_text()).tags


def test_the_test_split_is_shown_to_who_asks(grader, run):
    assert run.metrics["split"] == "val" and "test photographs" not in (run.path / "report.html").read_text()
    asked = explained(grader, "split=test")
    assert asked.metrics["split"] == "test"
    assert "These are test photographs" in (asked.path / "report.html").read_text()


def test_photographs_whose_lesions_nobody_has_located_are_shown_without_figures(grader, tmp_path):
    known = ImageTable.read(next(iter(grader.path.parents[1].glob("prepare/*"))))
    unknown = ImageTable(root=tmp_path / "table", rows=known.rows, classes=known.classes)
    unknown.write()
    (tmp_path / "table" / "images").symlink_to(known.root / "images")
    run = explained(grader, f"table={tmp_path / 'table'}")
    assert run.metrics["explain"] == {} and run.metrics["lesion_px"] is None
    page = Page((run.path / "report.html").read_text())
    assert "nobody has located the lesions" in page.text and "Figures" not in page.headings and "img" in page.tags


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("split=all",), "split must be train, val, test, not all"),
        (("num_images=0",), "num_images must be at least 1"),
        (("backbone_stage=-9",), r"the backbone_stage must be -1 \(the last\) to -5"),
        (("table=nowhere",), "nowhere"),
    ],
)
def test_what_cannot_be_explained_is_said(grader, given, message):
    before = sorted(grader.path.parents[1].glob("explain/*"))
    with pytest.raises(ValueError, match=message):
        explained(grader, *given)
    assert sorted(grader.path.parents[1].glob("explain/*")) == before


def test_a_run_that_is_no_grader_is_refused(grader):
    table = next(iter(grader.path.parents[1].glob("prepare/*")))
    with pytest.raises(ValueError, match="not a grader"):
        explain(composed("explain", f"run={table}", f"runs_dir={grader.path.parents[1]}", *SMALL))


def test_other_classes_are_refused(grader, tmp_path):
    table = ImageTable.read(next(iter(grader.path.parents[1].glob("prepare/*"))))
    rows = table.rows.assign(severity=table.rows["severity"].replace("very_severe", "severe"))
    other = ImageTable(root=tmp_path / "table", rows=rows, classes=table.classes[:-1])
    other.write()
    with pytest.raises(ValueError, match="the grader has the classes"):
        explained(grader, f"table={other.root}")


def test_a_studys_page_says_where_its_grader_looks(grader, run, tmp_path):
    """From the very run that `explain` has left."""
    runs_dir = run.path.parents[1]
    stages = {
        name: {"job": job, "run": str(path.relative_to(runs_dir)), "command": "", "seconds": 1.0, "reused": False}
        for name, job, path in (("grade", "train", grader.path), ("look", "explain", run.path))
    }
    about = {"name": "looks", "seed": 0, "stages": stages, "arms": {"real": ["grade"]}}
    (tmp_path / "study.json").write_text(json.dumps(about))
    html = write_report(tmp_path, runs_dir)
    page, markdown = Page(html.read_text()), html.with_name("report.md").read_text()
    assert "Where graders look" in page.headings and "## Where graders look" in markdown
    found = run.metrics["explain"]["severity"]["all"]
    assert verdict(found) in page.text
    head, line, row = re.findall(r"^\|.*", markdown.split("## Where graders look")[1], flags=re.MULTILINE)[:3]
    assert row.startswith(f"| grade, {run.metrics['num_images']} photographs of the val split | ")
    assert f" {found['hit_rate']['value']:.2f} (" in row and f" {found['area']:.0%} |" in row
    assert head.count("|") == line.count("|") == row.count("|")
    num_sheets = len(list((run.path / "samples").glob("*.png")))
    assert num_sheets and len(list((tmp_path / "report_files").glob("attribution-1-*"))) == num_sheets


def test_a_study_may_explain():
    assert job("explain") is explain
