"""The page of an image table: complete for what the table knows, silent on the rest, and discreet."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from PIL import Image

from acne_lab.data.table import ImageTable
from acne_lab.report import plots
from acne_lab.report.data import data_lines, reading, write_data_report

CLASSES = ("mild", "moderate", "severe", "very_severe")
COUNTS = {"train": (24, 30, 10, 7), "val": (4, 5, 2, 2), "test": (7, 9, 3, 2)}


def make_table(root, *, source="real", counts=COUNTS, classes=CLASSES, report=None, boxes=True) -> ImageTable:
    """Grey squares with a coloured disc, three photographs of each person, two lesions with 4 px boxes on each."""
    rng = np.random.default_rng(0)
    (root / "photographs of patients").mkdir(parents=True)
    (root / "table").mkdir()
    (root / "table" / "images").symlink_to(root / "photographs of patients")
    rows = []
    for split, numbers in counts.items():
        for severity, number in zip(classes, numbers):
            for index in range(number):
                name = f"{split}_{severity or 'x'}_{index}.png"
                pixels = rng.integers(90, 200, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "photographs of patients" / name)
                rows.append(
                    {
                        "file_name": f"images/{name}",
                        "severity": severity,
                        "lesions": 2 + 9 * index,
                        "subject": f"{split}-{severity}-{index // 3}",
                        "split": split,
                        "source": source,
                        "parent": "",
                        "sha256": f"{len(rows):064x}",
                    }
                )
    rows = pd.DataFrame(rows)
    places = [(name, 1 + 5 * k, 2, 5 + 5 * k, 6) for name in rows["file_name"] for k in range(2)]
    boxes = pd.DataFrame(places, columns=["file_name", "x0", "y0", "x1", "y1"]) if boxes else None
    table = ImageTable(
        root / "table", rows=rows, classes=[name for name in classes if name], report=report or {}, boxes=boxes
    )
    table.write()
    return table


FINDINGS = {
    "protocol": "subject",
    "population": "acne04",
    "duplicates": [
        {"file_name": f"levle0_{k}.jpg", "same_as": f"levle1_{k}.jpg", "distance_bits": 0} for k in range(50)
    ],
    "conflicts": [{"file_name": "levle1_<b>7</b>.jpg", "severities": ["mild", "moderate"]}],
    "leak": {
        "fold_0": {"test_images": 292, "share_of_known_people": 0.2089, "share_of_copies": 0.01},
        "fold_1": {"test_images": 291, "share_of_known_people": 0.1911, "share_of_copies": 0.02},
    },
    "faces": {"photographs": 1457, "found": 1389, "share_found": 0.9533, "blazeface_back": 1340, "dlib_hog": 49},
    "subjects": {"num_subjects": 684, "value": 0.9312, "calibrated": True, "model": "dlib"},
    "dropped": [{"file_name": "levle2_9.jpg", "reason": "cannot be read (/home/ann/acne04/levle2_9.jpg truncated)"}],
    "calibration": {"threshold": 0.93},
    "notes": ["each file below /home/ann/acne04/JPEGImages was read", r"so was D:\home\patients\acne04\a.jpg"],
    "places": [{r"D:\patients\set": r"\\server\patients\b.jpg"}],
}


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A table of which everything is known."""
    table = make_table(tmp_path_factory.mktemp("rich"), report=FINDINGS)
    confidence = np.where(np.arange(len(table)) % 5, 1.0, 0.4)
    return replace(table, rows=table.rows.assign(subject_confidence=confidence))


@pytest.fixture(scope="module")
def page(rich):
    return Page(write_data_report(rich, rich.root).read_text(encoding="utf-8"))


def sections(page):
    return page.headings[1:]


def test_everything_that_is_known_has_a_section(rich, page):
    assert page.headings[0] == "105 photographs of 39 subjects"
    assert sections(page) == ["Before use", "Counts", "People", "Lesions", "Findings", "Images", "Origin"]
    assert page.tags.count("svg") == 3
    assert page.tags.count("img") == 10 + 10 + 10 + 7  # ten training images a severity, all of the rarest
    for text in ("mild 35, moderate 44, severe 15, very_severe 11", "train 71, val 13, test 21 (protocol subject)"):
        assert text in page.text
    assert "found: 50 duplicates, 1 conflict, 1 file left out" in page.text
    known = "official folds as released: 20.0 % of the test photographs show a person of the trainval file"
    assert f"{known}, 1.5 % are a copy from there" in page.text
    unseen = replace(rich, report={**rich.report, "faces": {}})
    assert f"{known}, as far as copies show it, 1.5 % are" in " ".join(data_lines(unseen))
    assert "and 10 more" in page.text  # of the 50 duplicates
    for text in ("levle0_0.jpg", "same as", "1,389", "blazeface back", "fold 0", "20.9 %", "95.3 %", "threshold"):
        assert text in page.text


def test_counts_are_those_of_the_table(page):
    text = re.sub(r"\s+", " ", page.text)
    for row in ("mild24 4735", "moderate30 5944"):
        assert row.replace(" ", "") in text.replace(" ", "")


def test_sizes_are_shares_of_the_short_side(page):
    assert "median diameter" in page.text
    assert "20.00 % of the photograph's short side" in page.text  # 4 of 20 px
    assert "51.2 at 256 px" in page.text


def test_the_page_needs_nothing_else_and_runs_nothing(page):
    assert "script" not in page.tags
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)


def test_nothing_says_where_the_photographs_lie(rich):
    html = (rich.root / "report.html").read_text(encoding="utf-8")
    for part in ("/home/ann", "patients", "server", str(rich.root.parent)):
        assert part not in html
    assert all(part in html for part in ("…/levle2_9.jpg", "so was …/a.jpg", "…/b.jpg"))


def test_what_comes_from_files_is_escaped(rich):
    html = (rich.root / "report.html").read_text(encoding="utf-8")
    assert "<b>7</b>" not in html
    assert "&lt;b&gt;7&lt;/b&gt;" in html


def test_photographs_are_called_private_and_can_be_left_out(rich, page):
    assert "This page holds photographs of people." in page.text
    without = Page(write_data_report(rich, rich.root, contact_sheet=False).read_text(encoding="utf-8"))
    assert "img" not in without.tags
    assert "Images" not in without.headings
    assert "This page holds photographs" not in without.text
    assert "left out of this page" in without.text


def test_test_images_are_not_shown(page):
    shown = {title for title in page.titles if title.endswith(".png")}
    assert shown
    assert all("images/train_" in title for title in shown)


def test_what_is_not_known_has_no_section(tmp_path):
    table = make_table(tmp_path, source="generated", counts={"train": (3, 0, 0, 2)}, boxes=False)
    rows = table.rows.assign(lesions=pd.NA, subject=[f"generated-{k}" for k in range(5)], parent="gan_mild-0123456789")
    page = Page(write_data_report(replace(table, rows=rows), table.root).read_text(encoding="utf-8"))
    assert page.headings[0] == "5 generated images"
    assert sections(page) == ["Before use", "Counts", "Images", "Origin"]
    assert "Synthetic does not mean anonymous" in page.text
    assert "Generated: 5, from gan_mild-0123456789" in page.text
    assert "photographs of people" not in page.text
    assert page.tags.count("svg") == 1


def test_edited_rows_are_told_from_real_ones(tmp_path):
    table = make_table(tmp_path)
    edited = (table.rows["split"] == "train") & (table.rows["severity"] == "severe")
    rows = table.rows.assign(source=np.where(edited, "edited", "real"))
    page = Page(write_data_report(replace(table, rows=rows), table.root).read_text(encoding="utf-8"))
    assert page.headings[0] == "105 images (95 real, 10 edited) of 39 subjects"
    assert "Edited photographs: 10, parents unknown" in page.text
    assert "10 of 105 images are edited or generated" in page.text


def test_unlabelled_images_and_photographs_that_are_gone(tmp_path):
    table = make_table(tmp_path, classes=("",), counts={"train": (4,)})
    shutil.rmtree(tmp_path / "photographs of patients")
    page = Page(write_data_report(table, table.root).read_text(encoding="utf-8"))
    assert "unlabelled" in page.text
    assert "img" not in page.tags


def test_an_empty_table_has_a_page(tmp_path):
    table = make_table(tmp_path)
    page = Page(write_data_report(table.matching("source", "toy"), table.root).read_text(encoding="utf-8"))
    assert page.headings[0] == "0 images"


def test_lines_are_what_the_page_begins_with(rich, page):
    lines = data_lines(rich)
    assert lines[0] == page.headings[0]
    assert all(line in page.text for line in lines[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subject": "one person"}, "1 subject is in more than one split"),
        ({"subject": [str(k) for k in range(105)]}, "Each photograph counts as a person of its own"),
        ({"sha256": "ab"}, "104 images are an exact copy of another; copies lie 1 in two splits, 1 in two severities."),
        ({"source": "toy"}, "nothing about acne"),
        ({}, "The test split has 2 images of “very_severe”: each moves that recall by 50.0 points, and balanced"),
        ({"subject": "somebody"}, "photographs are of one person"),
        ({"split": "test", "subject": ""}, "No image is in train or val"),
    ],
)
def test_reading_warns(tmp_path, change, said):
    table = make_table(tmp_path)
    assert any(said in sentence for sentence in reading(replace(table, rows=table.rows.assign(**change))))


def test_reading_of_unknown_parents_names_the_switch(tmp_path):
    table = replace(make_table(tmp_path), report={"unknown_parents": True})
    assert any("allow_unknown_parents=true" in sentence for sentence in reading(table))
    assert data_lines(table)[-1].startswith("unknown parents")


def test_people_who_were_told_apart_may_have_one_photograph_each(tmp_path):
    table = make_table(tmp_path)
    alone = table.rows.assign(subject=[str(k) for k in range(105)], subject_confidence=0.75)
    assert not any("person of its own" in sentence for sentence in reading(replace(table, rows=alone)))
    unknown = replace(table, rows=alone.assign(subject_confidence=0.0))
    assert any("person of its own" in sentence for sentence in reading(unknown))


def test_a_table_without_a_flaw_is_not_accused(tmp_path):
    assert len(reading(make_table(tmp_path))) == 1  # how much a test image weighs


def test_sizes_are_drawn_as_shares_beside_the_reference():
    sizes = np.exp(np.random.default_rng(0).normal(-4.259, 0.516, 20_000))
    figure = plots.lesions_figure(sizes, {}, reference=(-4.259, 0.516, "reference"))
    (axes,) = figure.axes
    heights = np.array([bar.get_height() for bar in axes.patches])
    middles = np.sqrt([bar.get_x() * (bar.get_x() + bar.get_width() / 0.92) for bar in axes.patches])
    assert 98 < heights.sum() <= 100
    x, y = axes.lines[0].get_data()
    assert np.abs(np.interp(middles, x, y) - heights).max() < 0.5  # points of percent: the line is what the bars follow


def test_numbers_of_lesions_are_stacked_by_severity():
    figure = plots.lesions_figure([], {"mild": [0, 1, 1], "severe": [1, 30]}, reference=(0, 1, ""))
    (axes,) = figure.axes
    mild, severe = (list(container) for container in axes.containers)
    assert [bar.get_height() for bar in mild[:2]] == [1, 2]
    assert severe[1].get_height() == 1 and severe[1].get_y() == 2
    assert severe[30].get_height() == 1
    assert plots.lesions_figure([], {"mild": []}, reference=(0, 1, "")) is None


def test_subjects_are_drawn_where_there_is_something_to_see():
    assert plots.subjects_figure([1, 1, 1]) is None
    assert plots.subjects_figure([]) is None
    figure = plots.subjects_figure([1, 2, 2, 14], [0.2, 1.0])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert len(figure.axes) == 2
