import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from acne_lab.data.collect import Collected, Problem, build_table, hash_files, severity_of_count
from acne_lab.data.table import BadData, ImageTable

SPLIT = {"seed": 0}


@dataclass
class Listed:
    """A source that is handed its rows."""

    root: Path
    rows: pd.DataFrame
    classes: tuple[str, ...] = ("mild", "severe")
    extras: dict = field(default_factory=dict)

    def collect(self, scratch, num_workers):
        return Collected(rows=self.rows, images_root=self.root, **self.extras)


@pytest.fixture
def listed(tmp_path, photo):
    names = [f"{index}.png" for index in range(8)]
    for seed, name in enumerate(names):
        photo(tmp_path / "photos" / name, seed)
    rows = pd.DataFrame(
        {
            "file_name": names,
            "severity": ["mild"] * 4 + ["severe"] * 4,
            "lesions": None,
            "subject": names,
            "source": "real",
        }
    )
    return Listed(tmp_path / "photos", rows)


def build(source, out_dir, *, split=SPLIT, on_bad="error"):
    return build_table(source, out_dir, split=split, on_bad=on_bad, num_workers=2)


def test_photographs_are_linked_not_copied(listed, tmp_path):
    table = build(listed, tmp_path / "table")
    assert (tmp_path / "table" / "images").is_symlink()
    assert table.paths[0].read_bytes() == (tmp_path / "photos" / "0.png").read_bytes()
    again = ImageTable.read(tmp_path / "table")
    pd.testing.assert_frame_equal(again.rows, table.rows)
    assert again.key == table.key
    assert again.report["num_images"] == again.report["num_subjects"] == 8


def test_sha256_is_of_the_files_bytes(listed, tmp_path):
    table = build(listed, tmp_path / "table")
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in table.paths]
    assert table.rows["sha256"].tolist() == expected


def test_a_source_may_render_into_scratch(tmp_path, photo):
    class Rendering:
        classes = ("mild",)

        def collect(self, scratch, num_workers):
            photo(scratch / "a.png")
            rows = pd.DataFrame(
                {"file_name": ["a.png"], "severity": "mild", "lesions": 1, "subject": "a", "source": "toy"}
            )
            return Collected(rows=rows, images_root=scratch)

    table = build(Rendering(), tmp_path / "table")
    assert not (tmp_path / "table" / "images").is_symlink()
    assert table.paths[0].is_file()


def test_the_key_depends_neither_on_the_place_nor_on_the_rows_order(listed, tmp_path):
    here = build(listed, tmp_path / "here")
    reversed_rows = Listed(listed.root, listed.rows.iloc[::-1])
    there = build(reversed_rows, tmp_path / "there")
    assert here.key == there.key
    pd.testing.assert_frame_equal(here.rows, there.rows)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
def test_an_unreadable_image_stops_before_anything_is_written(listed, tmp_path, damage):
    path = tmp_path / "photos" / "5.png"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(BadData, match=r"(?s)1 problem.*5\.png: cannot be read.*data\.on_bad=skip"):
        build(listed, tmp_path / "table")
    assert not (tmp_path / "table").exists()

    table = build(listed, tmp_path / "table", on_bad="skip")
    assert len(table) == 7
    (dropped,) = table.report["dropped"]
    assert dropped["file_name"] == "5.png"
    assert "cannot be read" in dropped["reason"]
    assert "BytesIO" not in dropped["reason"]


def test_problems_of_the_source_and_missing_severities_are_told_together(listed, tmp_path):
    listed.rows.loc[2, "severity"] = None
    listed.extras["problems"] = [Problem("7.png", "is odd"), Problem("9.png", "is missing")]
    with pytest.raises(BadData) as caught:
        build(listed, tmp_path / "table")
    assert caught.value.problems == ["7.png: is odd", "9.png: is missing", "2.png: has no severity"]
    table = build(listed, tmp_path / "table", on_bad="skip")
    assert [name.rpartition("/")[2] for name in table.rows["file_name"]] == [
        f"{index}.png" for index in (0, 1, 3, 4, 5, 6)
    ]
    assert len(table.report["dropped"]) == 3


def test_rows_without_severity_pass_if_the_source_says_so(listed, tmp_path):
    listed.rows.loc[2, "severity"] = None
    listed.extras["unlabelled"] = True
    assert (build(listed, tmp_path / "table").labels == -1).sum() == 1


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_class_without_images_is_never_skipped(listed, tmp_path, on_bad):
    listed.classes = ("mild", "moderate", "severe")
    with pytest.raises(BadData, match="class moderate: no usable image"):
        build(listed, tmp_path / "table", on_bad=on_bad)
    assert not (tmp_path / "table").exists()


def test_skipping_a_class_away_is_refused_with_the_reasons(listed, tmp_path):
    listed.extras["problems"] = [Problem(f"{index}.png", "is odd") for index in range(4)]
    with pytest.raises(BadData, match=r"(?s)class mild: no usable image.*3.png: is odd"):
        build(listed, tmp_path / "table", on_bad="skip")


def test_a_split_that_comes_with_the_images_is_kept_unless_overridden(listed, tmp_path):
    listed.rows["split"] = ["train", "test"] * 4
    kept = build(listed, tmp_path / "kept")
    assert kept.rows["split"].tolist() == ["train", "test"] * 4
    assert "data.split.override=true" in kept.report["notes"][0]
    assert build(listed, tmp_path / "none", split=None).key == kept.key
    made = build(listed, tmp_path / "made", split={"seed": 0, "override": True})
    assert set(made.rows["split"]) == {"train", "val", "test"}
    assert made.report["notes"] == []


def test_a_given_split_that_tears_a_person_is_refused_before_anything_is_written(listed, tmp_path):
    listed.rows["split"] = ["train", "test"] * 4
    listed.rows["subject"] = ["p1", "p1", *"abcdef"]
    with pytest.raises(ValueError, match=r"1 subject\(s\)(?s:.*)p1: images/0.png \(train\)(?s:.*)data.split.override"):
        build(listed, tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_without_any_split_the_user_is_told(listed, tmp_path):
    with pytest.raises(ValueError, match=r"data\.split=\{seed: 0\}"):
        build(listed, tmp_path / "table", split=None)
    assert not (tmp_path / "table").exists()


def test_boxes_of_dropped_images_go_with_them(listed, tmp_path):
    listed.extras["boxes"] = pd.DataFrame({"file_name": ["1.png", "2.png"], "x0": 0, "y0": 0, "x1": 3, "y1": 3})
    listed.extras["problems"] = [Problem("2.png", "is odd")]
    table = build(listed, tmp_path / "table", on_bad="skip")
    assert table.boxes["file_name"].tolist() == ["images/1.png"]


def test_a_stale_link_is_replaced(listed, tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "images").symlink_to(tmp_path)
    assert build(listed, tmp_path / "table").paths[0].is_file()


def test_unknown_on_bad_is_refused(listed, tmp_path):
    with pytest.raises(ValueError, match="on_bad must be error or skip"):
        build(listed, tmp_path / "table", on_bad="ignore")


def test_hash_files_sees_names_and_content_only(tmp_path, photo):
    for folder in ("one", "two"):
        photo(tmp_path / folder / "a.png", 1)
        photo(tmp_path / folder / "b.png", 2)
    same = hash_files(tmp_path / "one", ["a.png", "b.png"])
    assert hash_files(tmp_path / "two", ["b.png", "a.png"]) == same
    (tmp_path / "two" / "b.png").write_bytes(b"other")
    assert hash_files(tmp_path / "two", ["a.png", "b.png"]) != same
    (tmp_path / "one" / "b.png").rename(tmp_path / "one" / "c.png")
    assert hash_files(tmp_path / "one", ["a.png", "c.png"]) != same


@pytest.mark.parametrize(
    ("lesions", "severity"),
    [(0, "mild"), (5, "mild"), (6, "moderate"), (20, "moderate"), (21, "severe"), (999, "severe")],
)
def test_severity_of_count(lesions, severity):
    assert severity_of_count(lesions, {"mild": 5, "moderate": 20, "severe": None}) == severity
