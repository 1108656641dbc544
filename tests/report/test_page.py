"""The written page: complete, on its own, safe to open and to mail."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from fake_study import CLASSES, StudyWriter, full_study
from html_page import Page
from tiny import composed

from acne_lab.report.collect import read_study
from acne_lab.report.page import write_report
from acne_lab.report.parts import duration, score
from acne_lab.report.reading import answer, reading, summary_lines


@pytest.fixture(scope="module")
def report(full) -> Path:
    return write_report(full.study_dir, full.runs_dir)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_page_has_every_section_arm_and_figure(full, report, page):
    assert report == full.study_dir / "report.html"
    assert page.headings[0] == full.question
    sections = [
        "Result",
        "How to read this",
        "Every figure",
        "Calibration",
        "Data",
        "Real and synthetic, side by side",
        "Generators",
        "Graders",
    ]
    assert [heading for heading in page.headings if heading in [*sections, "Repeat it"]] == [
        *sections,
        "Repeat it",
    ]
    for name in [*full.arms, *full.stages, *CLASSES]:
        assert name in page.text
    # differences, arms, calibration, five GANs, graders
    assert page.tags.count("svg") == 9
    # ten training images and five real beside five generated ones a severity; four grids a GAN
    assert page.tags.count("img") == 4 * 10 + 4 * (5 + 5) + 5 * 4
    assert "12 images by generate_mild from gan_mild, seeds 0 to 11" in page.text
    assert "Starts from the shipped base “toy_faces_64.safetensors”" in page.text
    assert "Starts from the weights of stage “base” of this study." in page.text
    assert "222 toy + 48 generated" in page.text


def test_page_says_how_to_see_more(full, page):
    """Commands that compose, on runs of this study."""
    commands = [shlex.split(line) for line in page.text.splitlines() if line.startswith("acne-lab generate mode=")]
    assert len(commands) == 6
    for _, _, *words in commands:
        config = composed("generate", *words)
        runs = config["run"].values() if isinstance(config["run"], dict) else [config["run"]]
        assert all((full.runs_dir / run / "DONE").exists() for run in runs)
    walk = composed("generate", *commands[0][2:])
    assert list(walk["run"]) == [f"gan_{name.replace(' ', '_')}" for name in CLASSES]
    assert list(walk["run"].values()) == [full.stages[name]["run"] for name in walk["run"]]


def test_page_has_the_numbers_of_every_arm(full, page):
    study = read_study(full.study_dir, full.runs_dir)
    for arm in study.arms[:3]:
        for name in ("balanced_accuracy", "accuracy", "macro_f1"):
            assert score(arm.test[name]) in page.text
    assert page.tags.count("caption") == 3, "a confusion matrix for each tested arm"


def test_page_needs_nothing_from_anywhere(report, page):
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "script" not in page.tags
    html = report.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(re.findall(r"https?://[^\"\s<]+", html)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert report.stat().st_size < 3_000_000


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_no_path_of_the_machine_gets_out(full, report, name):
    text = report.with_name(name).read_text(encoding="utf-8")
    assert str(full.runs_dir.parent) not in text
    assert "/home/ann" not in text
    assert "run_dir=runs/train/base-" in text


def test_links_inside_the_page_arrive(report, page):
    ids = set(re.findall(r' id="([^"]+)"', report.read_text(encoding="utf-8")))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= ids


def test_every_picture_of_the_markdown_is_there_and_no_other(report):
    text = report.with_name("report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    there = {f"report_files/{path.name}" for path in (report.parent / "report_files").iterdir()}
    # differences, arms, calibration, graders, contact sheet, two columns side by side; two grids and curves of a GAN
    assert len(links) == 7 + 5 * 3
    assert set(links) == there
    head, *rows = re.findall(r"^\| (?:arm \||real|generated).*", text, flags=re.MULTILINE)
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {head.count("|")}


def test_writing_again_leaves_no_trace_of_before(full, report):
    before = report.read_text(encoding="utf-8")
    (report.parent / "report_files" / "old.png").touch()
    write_report(full.study_dir, full.runs_dir)
    assert report.read_text(encoding="utf-8") == before
    assert not (report.parent / "report_files" / "old.png").exists()
    assert not list(report.parent.glob(".report*"))


def test_summary_says_it_all_in_a_few_lines(full):
    lines = summary_lines(read_study(full.study_dir, full.runs_dir))
    assert lines[2:-3] == answer(read_study(full.study_dir, full.runs_dir))
    assert lines[0] == "demo: 4 arms, 4 severities, seed 0"
    assert lines[1].startswith("balanced accuracy on 75 test images (chance 0.250): real 0.")
    assert lines[-3] == "not run: real, oversampled"
    assert lines[-2] == "14 stages: 12 run in 38 min 6 s, 1 reused, 1 unfinished or not run"
    assert lines[-1] == "report: runs/study/demo-0123456789abcdef/report.html"


def test_reading_names_the_caveats(full):
    said = " ".join(reading(read_study(full.study_dir, full.runs_dir)))
    assert "This is one seed (0)." in said
    assert "no evidence" in said
    assert "toy images" in said
    assert "not a medical device" in said
    assert "“very severe”, has 9 images: each of them moves its recall by 11.1 points" in said
    assert "Not run or not finished: “real, oversampled”" in said


def test_names_from_files_are_escaped(tmp_path):
    bad = '<script>alert("1")</script>|`*&'
    writer = StudyWriter(tmp_path, classes=(bad, "b"), question=f"Q {bad}")
    writer.prepare(counts={"train": (2, 2), "val": (1, 1), "test": (1, 1)})
    writer.gan(bad, num_ticks=2)
    writer.grader(bad, skill=0.5)
    report = write_report(writer.write(), writer.runs_dir)
    html = report.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert page.headings[0] == f"Q {bad}"
    assert bad in page.text
    markdown = report.with_name("report.md").read_text(encoding="utf-8")
    assert "<script" not in re.sub(r"^(```+)\n.*?\n\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert r"\|\`\*&amp;" in markdown


def test_study_of_graders_only_has_no_empty_sections(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.grader("real", skill=0.6)
    writer.stages["grade_0"]["reused"] = True
    page = Page(write_report(writer.write(), writer.runs_dir).read_text(encoding="utf-8"))
    assert page.headings[1:] == [
        "Result",
        "How to read this",
        "Every figure",
        "Calibration",
        "Slices",
        "Graders",
        "Confusion on the test split",
        "Repeat it",
        "Environment",
    ]
    assert "toy" not in page.text
    assert "anonymous" not in page.text


def test_study_that_has_not_begun_is_still_a_page(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.stages["grade"] = {"job": "train", "run": None, "command": None, "seconds": None, "reused": False}
    writer.arms["real"] = "grade"
    study_dir = writer.write()
    page = Page(write_report(study_dir, writer.runs_dir).read_text(encoding="utf-8"))
    assert page.headings[1:] == ["Result", "How to read this", "Repeat it"]
    assert summary_lines(read_study(study_dir, writer.runs_dir))[1] == "not run: real"


def test_photographs_that_moved_leave_a_gap_and_no_error(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.prepare(source="real", counts={"train": (3, 2, 0, 1), "val": (1, 1, 1, 1), "test": (1, 1, 1, 1)})
    images = writer.runs_dir / writer.stages["prepare"]["run"] / "table" / "images"
    (images / "train_0_0.png").unlink()
    (images / "train_1_0.png").write_bytes(b"not an image")
    page = Page(write_report(writer.write(), writer.runs_dir).read_text(encoding="utf-8"))
    assert page.tags.count("img") == 4
    assert "Real photographs, 14 images" in page.text


def test_grader_that_notes_its_training_set_is_believed(tmp_path):
    writer = StudyWriter(tmp_path)
    for arm, sources in (("real", {"real": 400}), ("both", {"real": 400, "generated": 1200})):
        writer.grader(arm, skill=0.6)
        path = writer.runs_dir / writer.stages[writer.arms[arm][0]]["run"] / "metrics.json"
        train = f'"train": {{"num_images": {sum(sources.values())}, "sources": {sources}}}'.replace("'", '"')
        path.write_text(f"{{{train}, {path.read_text()[1:]}")
    study_dir = writer.write()
    assert "400 real + 1,200 generated" in write_report(study_dir, writer.runs_dir).read_text(encoding="utf-8")
    assert any("(400 to 1,600)" in said for said in reading(read_study(study_dir, writer.runs_dir)))


def several_seeds(root: Path) -> StudyWriter:
    """Three arms with five seeds each: another but for luck, worse, with an unfinished seed."""
    writer = StudyWriter(root)
    writer.prepare()
    writer.seeds = [0, 1, 2, 3, 4]
    for seed in writer.seeds:
        writer.grader("real", skill=0.62)
        writer.grader("worse", skill=0.3)
        writer.grader("unfinished", skill=0.62, tested=seed != 3)
    return writer


def test_several_seeds_are_means_with_intervals_and_verdicts(tmp_path):
    writer = several_seeds(tmp_path)
    report = write_report(study_dir := writer.write(), writer.runs_dir)
    study, page = read_study(study_dir, writer.runs_dir), Page(report.read_text(encoding="utf-8"))
    real, worse, _ = study.arms
    values = {arm.name: np.array([test.get("balanced_accuracy", np.nan) for test in arm.tests]) for arm in study.arms}
    half = 2.776 * values["real"].std(ddof=1) / 5**0.5
    assert real.test["balanced_accuracy"] == pytest.approx(values["real"].mean())
    assert f"{values['real'].mean():.3f}± {half:.3f}" in page.text
    paired = 100 * (values["worse"] - values["real"])
    difference = f"{paired.mean():+.1f}± {2.776 * paired.std(ddof=1) / 5**0.5:.1f}"
    assert difference.replace("-", "\N{MINUS SIGN}") in page.text
    assert page.tags.count("svg") == 4  # differences, arms, calibration, graders
    assert sum(map(sum, worse.test["confusion"])) == 5 * 75
    lines = summary_lines(study)
    assert lines[0] == "demo: 3 arms, 4 severities, 5 seeds"
    assert "mean ± 95 % interval over 5 seeds (chance 0.250): real 0." in lines[1]
    assert lines[2] == "No arm is shown to be better than “real”."
    assert lines[3].startswith("Worse: “worse” by ")
    assert lines[4].startswith("Not told apart from “real”: “unfinished” (")
    said = " ".join(reading(study))
    assert "trained 5 times, with the seeds 0, 1, 2, 3, 4" in said
    assert "the means are of fewer: “unfinished”" in said
    assert "one seed" not in said
    assert "not told apart" in page.text
    assert "points above “real”" in report.with_name("report.md").read_text(encoding="utf-8")


def test_the_page_says_whom_the_graders_have_seen(tmp_path):
    writer = StudyWriter(tmp_path)
    for arm, lineage in (
        ("fold 0", {"known": True, "protocol": "official", "leaked_share": 0.159}),
        ("fold 1", {"known": True, "protocol": "official", "leaked_share": 0.162}),
        ("supplement", {"known": False, "protocol": "official", "leaked_share": 0.159}),
        ("files", {"known": True, "protocol": None, "leaked_share": None}),
    ):
        path = writer.grader(arm, skill=0.6) / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lineage": lineage}))
    study_dir = writer.write()
    said = " ".join(reading(read_study(study_dir, writer.runs_dir)))
    assert "15.9 % to 16.2 % of the test images show a person whom the graders have seen" in said
    assert "(allow_unknown_parents=true): “supplement”." in said
    assert "Nobody has told who is on the photographs" in said and "have seen is not known: “files”." in said
    assert "whom the graders have seen" in Page(write_report(study_dir, writer.runs_dir).read_text()).text


def test_an_equal_budget_is_said(tmp_path):
    writer = StudyWriter(tmp_path)
    for arm in ("one", "two"):
        path = writer.grader(arm, skill=0.6) / "config.yaml"
        path.write_text("{loader: {epoch_size: 640}, trainer: {max_epochs: 10}}")
    said = " ".join(reading(read_study(writer.write(), writer.runs_dir)))
    assert "Every grader was shown the same number of images, 6,400 in 10 epochs" in said
    path.write_text("{loader: {epoch_size: 320}, trainer: {max_epochs: 10}}")
    assert "same number of images" not in " ".join(reading(read_study(writer.write(), writer.runs_dir)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "not run"),
        (0.26, "0.3 s"),
        (9.96, "10 s"),
        (59.7, "1 min 0 s"),
        (725, "12 min 5 s"),
        (12000, "3 h 20 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_edits_are_compared_where_they_were_evaluated(tmp_path):
    writer = StudyWriter(tmp_path)
    writer.prepare()
    figure = {"value": 0.874, "low": 0.81, "high": 0.93}
    run_dir = writer._stage("overlay", "evaluate", "overlay", seconds=9.0)
    (run_dir / "metrics.json").write_text(
        json.dumps({"realism": {"auc": figure, "auc_control": figure, "seam": figure}})
    )
    folder = writer.write()
    page = write_report(folder, writer.runs_dir).read_text()
    assert "Realism of edits" in page and "0.874" in page and "0.810 to 0.930" in page and "real vs real" in page
    markdown = (folder / "report.md").read_text()
    assert "| overlay | 0.874 (0.810 to 0.930) |" in markdown
    assert "AUC of real vs edited lesions (a coin 0.5): overlay 0.874" in page
    assert "Realism of edits" not in write_report(full_study(tmp_path / "b").write(), tmp_path / "b/runs").read_text()
