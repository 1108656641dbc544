"""A balanced table as a drop-in ACNE04: every file in its place, no edit in a fold that tests its parent."""

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from acne_lab.data.acne04 import Acne04
from acne_lab.data.acne04_layout import voc_annotation, write_acne04
from acne_lab.data.collect import build_table
from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable

CLASSES = ("mild", "moderate", "severe", "very_severe")
LESIONS = (3, 12, 30, 60)
NUM = 40  # photographs, two of each person, ten of each grade
NOBODY = Lineage()


def parent_of(number):
    return f"images/levle0_{8 * number}.jpg"


@pytest.fixture
def table(tmp_path, photo):
    """Photographs as `prepare data=acne04` has them; the two of a person are in different official folds."""
    rows, boxes = [], []
    for i in range(NUM):
        name = f"images/levle{i % 4}_{2 * i}.jpg"
        photo(tmp_path / "table" / name, i)
        rows.append(
            {
                "file_name": name,
                "severity": CLASSES[i % 4],
                "lesions": LESIONS[i % 4],
                "subject": f"person-{i // 8}-{i % 4}",
                "split": "train",
                "source": "real",
                "parent": "",
                "sha256": f"{i:064x}",
                "official_fold": (i // 8 + i // 4 % 2) % 5,
                "subject_fold": i // 8,
            }
        )
        boxes += [(name, 2.4 + k % 12, 2.0, 4.6 + k % 12, 7.0) for k in range(LESIONS[i % 4])]
    boxes = pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"])
    return ImageTable(root=tmp_path / "table", rows=pd.DataFrame(rows), classes=CLASSES, boxes=boxes)


@pytest.fixture
def added(tmp_path, table, photo):
    """An edit of the mild photographs 0, 8, 16, 24, 32: one person each."""
    rows, boxes = [], []
    for i in range(5):
        parent = parent_of(i * 2)
        name = f"images/levle2_generated/{i:012x}.jpg"
        photo(tmp_path / "run" / "table" / name, 100 + i)
        subject = table.rows.set_index("file_name").loc[parent, "subject"]
        row = {"file_name": name, "severity": "severe", "lesions": 22 + i, "subject": subject, "split": "train"}
        rows.append(row | {"source": "edited", "parent": parent, "sha256": f"{100 + i:064x}"})
        boxes += [(name, 1.0, 2.0, 4.0, 7.0)] * (22 + i)
    boxes = pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"])
    return ImageTable(root=tmp_path / "run" / "table", rows=pd.DataFrame(rows), classes=CLASSES, boxes=boxes)


@pytest.fixture
def write(tmp_path, table, added):
    folder = tmp_path / "run" / "acne04"

    def run(table=table, added=added, **options):
        given = {"folds": "official", "copy": False, "learned_from": NOBODY} | options
        return folder, write_acne04(folder, table, added, **given)

    return run


def listed(folder, part, fold):
    lines = (folder / "Classification" / f"NNEW_{part}_{fold}.txt").read_text().splitlines()
    return {name: (int(grade), int(lesions)) for name, grade, lesions in (line.split() for line in lines)}


def test_our_own_reader_reads_the_photographs(write, table, tmp_path):
    folder, _ = write()
    source = Acne04(root=str(folder), classes=list(CLASSES), subjects="files", cache_dir=str(tmp_path / "examined"))
    read = build_table(source, tmp_path / "again", split=None, on_bad="skip", num_workers=1)
    assert read.rows["file_name"].tolist() == sorted(table.rows["file_name"])
    by_name = table.rows.set_index("file_name").loc[read.rows["file_name"]]
    for column in ("severity", "lesions"):
        assert read.rows[column].tolist() == by_name[column].tolist()
    assert (read.boxes.groupby("file_name").size() == by_name["lesions"].sort_index()).all()
    # The reader takes the release's word for who tests: what is in no test list is no photograph of it.
    dropped = {problem["file_name"]: problem["reason"] for problem in read.report["dropped"]}
    assert set(dropped) == {f"{i:012x}.jpg" for i in range(5)}
    assert all("must be in one test file" in reason for reason in dropped.values())


def test_lists_images_and_annotations(write, table, added):
    folder, _ = write()
    edits = {Path(name).name: lesions for name, lesions in zip(added.rows["file_name"], added.rows["lesions"])}
    for fold in range(5):
        trained, tested = listed(folder, "trainval", fold), listed(folder, "test", fold)
        assert not set(trained) & set(tested)
        assert not set(tested) & set(edits)
        assert len(set(trained) - set(edits)) + len(tested) == NUM
        assert all(trained[name] == (2, lesions) for name, lesions in edits.items() if name in trained)
    for i, (name, lesions) in enumerate(edits.items()):
        annotation = ElementTree.parse((folder / "Detection/VOC2007/Annotations" / name).with_suffix(".xml"))
        assert [annotation.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["20", "16", "3"]
        assert [item.findtext("name") for item in annotation.iter("object")] == ["fore"] * lesions
        pixels = (folder / "Classification" / "JPEGImages" / name).read_bytes()
        assert pixels == (added.root / added.rows["file_name"][i]).read_bytes()


def test_sizes_are_of_the_upright_photograph_as_the_boxes_are(write, table):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = table.paths[0]
    with Image.open(path) as image:
        width, height = image.size
        image.save(path, exif=exif)
    folder, _ = write()
    xml = ElementTree.parse((folder / "Detection/VOC2007/Annotations" / path.name).with_suffix(".xml"))
    assert [xml.findtext(f"size/{side}") for side in ("width", "height")] == [str(height), str(width)]


def test_an_edit_joins_no_fold_that_tests_its_person(write, table, added):
    """Neither its parent's fold nor that of the other photograph of the person."""
    folder, numbers = write()
    rows = table.rows
    for edit in added.rows.itertuples():
        barred = set(rows.loc[rows["subject"] == edit.subject, "official_fold"])
        assert len(barred) == 2
        joined = {fold for fold in range(5) if Path(edit.file_name).name in listed(folder, "trainval", fold)}
        assert joined == set(range(5)) - barred
    assert numbers == dict.fromkeys(range(5), 3)

    folder, numbers = write(folds="subject")
    assert numbers == dict.fromkeys(range(5), 4)
    nameless = replace(table, rows=rows.assign(subject=""))
    assert write(table=nameless)[1] == dict.fromkeys(range(5), 4)  # then the parent's fold alone


def test_what_an_editor_has_seen_bars_its_edits(write, table):
    """A refiner or a bank from photographs of folds 0 and 1: fold 2 to 4 test nobody that it has seen."""
    seen = Lineage.of(table.only(table.rows["official_fold"] == 0))
    numbers = write(learned_from=seen)[1]
    assert numbers[0] == numbers[1] == numbers[4] == 0  # 0, and the folds of the same people's other photographs
    assert numbers[2] == numbers[3] == 3
    assert set(write(learned_from=Lineage(known=False))[1].values()) == {0}
    # Published folds share people: there the photographs count, as whoever uses these folds accepts.
    published = replace(table, report={"protocol": "official"})
    assert write(table=published, learned_from=seen)[1] == {0: 0, 1: 3, 2: 3, 3: 3, 4: 3}


def test_tables_of_other_origin_get_folds_by_subject(write, table, added):
    rows = table.rows.drop(columns=["official_fold", "subject_fold"])
    folder, numbers = write(table=replace(table, rows=rows))
    assert set(numbers.values()) == {4}
    subject_of = dict(zip(rows["file_name"].str.removeprefix("images/"), rows["subject"]))
    people = [{subject_of[name] for name in listed(folder, "test", fold)} for fold in range(5)]
    assert sum(map(len, people)) == len(set.union(*people)) == rows["subject"].nunique()


def test_links_and_copies(write, tmp_path):
    folder, _ = write()
    images = folder / "Classification" / "JPEGImages"
    edit, photograph = images / f"{1:012x}.jpg", images / "levle0_0.jpg"
    assert os.readlink(edit) == f"../../../table/images/levle2_generated/{1:012x}.jpg"
    assert os.readlink(photograph) == str((tmp_path / "table" / "images" / "levle0_0.jpg").resolve())
    write(copy=True)
    assert not any(path.is_symlink() for path in images.iterdir())
    assert Image.open(edit).size == (20, 16)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_what_has_no_place_in_the_layout(write, table, added):
    with pytest.raises(ValueError, match=r"and 5 of these have none.*layout=table"):
        write(added=replace(added, rows=added.rows.assign(lesions=None)))
    with pytest.raises(ValueError, match="the same name"):
        renamed = {"images/levle0_0.jpg": "images/a b.jpg", "images/levle1_2.jpg": "images/a/b.jpg"}
        write(table=replace(table, rows=table.rows.replace({"file_name": renamed}), boxes=None))
    with pytest.raises(ValueError, match="folds must be official or subject"):
        write(folds="mine")


def test_boxes_have_at_least_a_pixel():
    corners = ("xmin", "ymin", "xmax", "ymax")
    annotation = ElementTree.fromstring(voc_annotation("a.jpg", (32, 32), [(31.7, 3.2, 32.0, 3.4)]))
    assert [annotation.findtext(f"object/bndbox/{corner}") for corner in corners] == ["31", "3", "32", "4"]
