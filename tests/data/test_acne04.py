import json
import shutil
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acne_lab.data import acne04, faces
from acne_lab.data.acne04 import Acne04
from acne_lab.data.collect import build_table
from acne_lab.data.lineage import Lineage
from acne_lab.data.subjects import People
from acne_lab.data.table import BadData, ImageTable

CLASSES = ["mild", "moderate", "severe", "very_severe"]
LESIONS = (3, 12, 30, 60)
NUM = 60  # 15 photographs a grade, each grade in each fold three times

SIZE = (80, 64)
XML = """<annotation><filename>{name}</filename>
<size><width>80</width><height>64</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>fore</name><bndbox>
<xmin>{x}</xmin><ymin>2</ymin><xmax>{x1}</xmax><ymax>6</ymax></bndbox></object>"""


def name_of(index):
    # The prefix is the grade, but for two files; the numbers are not contiguous, as in the release.
    prefix = {5: 3, 6: 0}.get(index, index % 4)
    return f"levle{prefix}_{7 * index}.jpg"


class Release:
    """A small copy of the released layout, which the tests damage."""

    def __init__(self, root, photo, cache_dir):
        self.root, self.cache_dir = root, cache_dir
        self.images = root / "Classification" / "JPEGImages"
        self.lists = root / "Classification"
        self.annotations = root / "Detection" / "VOC2007" / "Annotations"
        self.annotations.mkdir(parents=True)
        for index in range(NUM):
            name = name_of(index)
            photo(self.images / name, index, SIZE)
            objects = "".join(OBJECT.format(x=x, x1=x + 4) for x in range(LESIONS[index % 4]))
            (self.annotations / name).with_suffix(".xml").write_text(XML.format(name=name, objects=objects))
        for fold in range(5):
            lines = {"test": [], "trainval": []}
            for index in range(NUM):
                part = "test" if index // 4 % 5 == fold else "trainval"
                lines[part].append(f"{name_of(index)}   {index % 4}  {LESIONS[index % 4]}")
            for part, text in lines.items():
                self.list(part, fold).write_text("\n".join(text) + "\n")

    def list(self, part, fold):
        return self.lists / f"NNEW_{part}_{fold}.txt"

    def relabel(self, index, grade, lesions, lists=None):
        """Change a file's label in all split files, or in `lists`."""
        old = f"{name_of(index)}   {index % 4}  {LESIONS[index % 4]}"
        for path in lists or self.lists.glob("NNEW_*.txt"):
            path.write_text(path.read_text().replace(old, f"{name_of(index)}   {grade}  {lesions}"))

    def source(self, **options):
        """As shipped, but that nobody looks for faces in these pictures, and that the split is the release's."""
        given = {"protocol": "official", "subjects": "files", "cache_dir": str(self.cache_dir), **options}
        return Acne04(root=str(self.root), classes=CLASSES, **given)

    def build(self, *, on_bad="error", split=None, **options):
        source = self.source(**options)
        return build_table(source, self.root / "table", split=split, on_bad=on_bad, num_workers=0)

    def check_bad(self, file_name, reason):
        """This one problem stops the build before anything is written, and is dropped with on_bad=skip."""
        with pytest.raises(BadData, match=r"data\.on_bad=skip") as caught:
            self.build()
        assert not (self.root / "table").exists()
        (problem,) = caught.value.problems
        assert problem.startswith(f"{file_name}: ")
        assert reason in problem
        table = self.build(on_bad="skip")
        assert [entry["file_name"] for entry in table.report["dropped"]] == [file_name]
        assert f"images/{file_name}" not in set(table.rows["file_name"])
        return table


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """The tests look at the same photographs; each is examined once."""
    return tmp_path_factory.mktemp("examined")


@pytest.fixture
def release(tmp_path, photo, cache_dir):
    return Release(tmp_path, photo, cache_dir)


def test_labels_counts_folds_and_boxes(release):
    table = release.build()
    assert len(table) == NUM
    assert table.classes == tuple(CLASSES)
    rows = table.rows.set_index("file_name")
    for index in range(NUM):
        row = rows.loc[f"images/{name_of(index)}"]
        assert (row["severity"], row["lesions"]) == (CLASSES[index % 4], LESIONS[index % 4])
        assert row["official_fold"] == index // 4 % 5
        assert row["subject"] == name_of(index)
    assert len(table.boxes) == sum(LESIONS) * NUM // 4
    box = table.boxes[table.boxes["file_name"] == f"images/{name_of(1)}"].iloc[2]
    assert box[["x0", "y0", "x1", "y1"]].tolist() == [2, 2, 6, 6]
    assert (release.root / "table" / "images").is_symlink()


def test_prefix_conflicts_are_counted_and_the_split_files_win(release):
    table = release.build()
    assert table.report["prefix_conflicts"] == [
        {"file_name": name_of(6), "prefix": 0, "grade": 2},
        {"file_name": name_of(5), "prefix": 3, "grade": 1},
    ]
    assert f"2 of {NUM} file names disagree with their grade in the split files" in table.report["notes"]
    assert table.report["band_conflicts"] == table.report["box_count_conflicts"] == []


@pytest.mark.parametrize("fold", range(5))
def test_split_of_a_fold(release, fold):
    table = release.build(fold=fold)
    rows = table.rows
    assert set(rows.loc[rows["split"] == "test", "official_fold"]) == {fold}
    assert set(rows.loc[rows["split"] != "test", "official_fold"]) == set(range(5)) - {fold}
    assert table.counts().to_numpy().tolist() == [[11, 1, 3]] * 4
    assert release.build(fold=fold).key == table.key


def test_folds_give_different_tables(release):
    tables = [release.build(fold=fold) for fold in (0, 1)]
    assert tables[0].key != tables[1].key
    assert tables[0].rows["official_fold"].tolist() == tables[1].rows["official_fold"].tolist()


def test_split_can_be_overridden(release):
    table = release.build(split={"seed": 0, "override": True})
    assert table.rows["official_fold"].nunique() == 5
    assert table.rows.loc[table.rows["split"] == "test", "official_fold"].nunique() > 1
    assert not {"protocol", "fold"} & set(table.report)  # nor may people be in two parts of it, as published


def test_a_count_outside_its_band_is_reported_and_kept(release):
    release.relabel(0, 0, 9)
    table = release.build()
    assert table.report["band_conflicts"] == [
        {"file_name": name_of(0), "lesions": 9, "severity": "mild", "band": "moderate"}
    ]
    assert table.report["box_count_conflicts"] == [{"file_name": name_of(0), "lesions": 9, "boxes": 3}]
    assert (table.rows["severity"] == "mild").sum() == 15


# ------------------------------------------------------------------ splits


@pytest.mark.parametrize("protocol", ["subject", "subject_fold", "official"])
def test_protocols_differ_in_the_split_alone(release, protocol):
    table = release.build(protocol=protocol, fold=2)
    assert table.report["protocol"] == protocol
    assert table.report["population"] == release.build().report["population"]
    rows = table.rows.drop(columns="split")
    pd.testing.assert_frame_equal(rows, release.build().rows.drop(columns="split"))
    assert {"official_fold", "subject_fold", "subject_split", "subject_confidence"} <= set(rows.columns)
    column, value = {"subject": ("subject_split", "test"), "subject_fold": ("subject_fold", 2)}.get(
        protocol, ("official_fold", 2)
    )
    assert ((table.rows["split"] == "test") == (rows[column] == value)).all()
    assert (table.counts().to_numpy() > 0).all()


# ------------------------------------------------------------------ copies


def copy_of(release, source, target):
    shutil.copy(release.images / name_of(source), release.images / name_of(target))


def test_copies_are_dropped_and_the_leak_is_counted_before(release):
    copy_of(release, 0, 8)  # byte for byte, of folds 0 and 2, both mild
    picture = Image.open(release.images / name_of(1))
    picture.save(release.images / name_of(5), quality=95)  # saved again, folds 0 and 1, both moderate
    copy_of(release, 2, 3)  # severe and very severe, both of fold 0
    table = release.build()
    duplicates = {entry["file_name"]: entry for entry in table.report["duplicates"]}
    assert duplicates[name_of(8)] == {
        "file_name": name_of(8),
        "same_as": name_of(0),
        "distance_bits": 0,
        "bytes_equal": True,
    }
    (saved_again,) = set(duplicates) - {name_of(8)}
    assert not duplicates[saved_again]["bytes_equal"]
    assert {saved_again, duplicates[saved_again]["same_as"]} == {name_of(1), name_of(5)}
    assert duplicates[saved_again]["same_as"] == name_of(5)  # of more bytes
    (conflict,) = table.report["conflicts"]
    assert conflict["file_names"] == sorted([name_of(2), name_of(3)])
    assert conflict["severities"] == ["severe", "very_severe"]
    gone = {f"images/{name}" for name in (name_of(8), name_of(1), name_of(2), name_of(3))}
    assert gone.isdisjoint(table.rows["file_name"])
    assert len(table) == NUM - 4
    leak = table.report["leak"]
    copies = [leak[f"fold_{fold}"]["copies_from_trainval"] for fold in range(5)]
    assert copies == [2, 1, 1, 0, 0]
    assert leak["fold_0"]["test_images"] == 12
    assert leak["fold_0"]["share_of_copies"] == pytest.approx(2 / 12, abs=1e-4)
    assert any("official fold 0: 16.7 % of the test photographs" in note for note in table.report["notes"])
    assert table.report["dropped"] == []


def test_who_has_seen_a_copy_that_was_left_out_has_seen_the_person(release):
    """Whatever the grouping of the table that it was seen in: here nobody had told the two copies to be one."""
    picture = Image.open(release.images / name_of(1))
    picture.save(release.images / name_of(5), quality=95)
    table = release.build()
    (copy,) = {entry["sha256"] for entry in table.report["left_out"]}
    assert copy == sha256((release.images / name_of(1)).read_bytes()).hexdigest()
    seen = Lineage(pd.DataFrame([{"population": "", "subject": "somebody", "sha256": copy}]))
    assert seen.touched(table) == [f"images/{name_of(5)}"]
    assert release.build(duplicates="keep").report["left_out"] == []
    assert release.build(duplicates="keep").report["population"] == table.report["population"]


def test_a_population_is_one_grouping(release):
    """Subjects are named after photographs: the same name may be another person in another grouping."""
    population = release.build().report["population"]
    assert population.startswith("acne04-")
    copy_of(release, 0, 8)
    assert release.build().report["population"] != population


def test_copies_can_be_kept_as_released_and_then_share_a_subject(release):
    copy_of(release, 0, 8)
    copy_of(release, 2, 3)
    rows = release.build(duplicates="keep").rows.set_index("file_name")["subject"]
    assert len(rows) == NUM
    assert rows[f"images/{name_of(0)}"] == rows[f"images/{name_of(8)}"]
    assert rows[f"images/{name_of(2)}"] == rows[f"images/{name_of(3)}"]
    assert rows.nunique() == NUM - 2


# ------------------------------------------------------------------ people


needs_faces = pytest.mark.skipif(not faces.faces_available(), reason="acne-lab[faces] is not installed")


@needs_faces
def test_one_person_on_several_photographs(release, monkeypatch):
    """The portrait from two sides, and mirrored; few pictures, so the threshold is the literature's."""
    portrait = pytest.importorskip("skimage.data").astronaut()
    crops = {0: portrait[30:210, 140:310], 9: portrait[50:200, 150:320], 34: portrait[30:210, 140:310, :][:, ::-1]}
    for index, crop in crops.items():
        Image.fromarray(np.ascontiguousarray(crop)).save(release.images / name_of(index), quality=95)
        path = (release.annotations / name_of(index)).with_suffix(".xml")
        height, width = crop.shape[:2]
        path.write_text(path.read_text().replace(">80<", f">{width}<").replace(">64<", f">{height}<"))
    monkeypatch.setattr(faces, "available_detectors", lambda blazeface=None: ("dlib_hog",))
    table = release.build(subjects="faces", protocol="subject")
    rows = table.rows.set_index("file_name")
    subjects = [rows.loc[f"images/{name_of(index)}", "subject"] for index in crops]
    assert len(set(subjects)) == 1
    assert (rows["subject"] == subjects[0]).sum() == 3
    assert (rows.loc[[f"images/{name_of(index)}" for index in crops], "subject_confidence"] == 0.75).all()
    assert set(rows["subject_confidence"]) <= {0.75, 0.5, 0.25}
    assert set(rows.loc[[f"images/{name_of(index)}" for index in crops], "skin_tone"]) == {1}
    assert rows["skin_tone"].isna().sum() == NUM - 3
    assert ImageTable.read(table.root).rows["skin_tone"].equals(table.rows["skin_tone"])  # 1, and not 1.0
    assert rows["face_found"].sum() == 3
    assert ImageTable.read(table.root).rows["face_found"].equals(table.rows["face_found"])
    assert table.report["faces"] == {"photographs": NUM, "found": 3, "share_found": 0.05, "dlib_hog": 3}
    assert table.report["subjects"]["calibrated"] is False
    assert table.report["people_known"] is True
    assert release.build().report["people_known"] is False
    people = [table.report["leak"][f"fold_{fold}"]["with_a_person_of_trainval"] for fold in range(5)]
    assert people[0] >= 1 and people[2] >= 1 and people[3] >= 1
    assert any(note.startswith("a face was found on 3 of 60") for note in table.report["notes"])
    assert not any("show one person" in note for note in table.report["notes"])
    json.dumps(table.report)


@needs_faces
def test_faces_that_cannot_be_told_apart_are_said(release, monkeypatch):
    numbers = {"num_photographs": NUM, "num_subjects": 1, "largest": NUM, "threshold": 0.91, "calibrated": False}
    everybody = People(np.zeros(NUM, int), np.full(NUM, 0.75), numbers)
    monkeypatch.setattr(acne04, "group_people", lambda *_, **__: everybody)
    monkeypatch.setattr(faces, "available_detectors", lambda blazeface=None: ("dlib_hog",))
    notes = release.build(subjects="faces").report["notes"]
    assert any(note.startswith(f"{NUM} of {NUM} photographs show one person") for note in notes)


def test_without_the_extra_the_ways_out_are_named(release, monkeypatch):
    monkeypatch.setattr(acne04, "faces_available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'acne-lab\[faces\]'; data\.subjects=files"):
        release.source(subjects="faces")
    assert release.source().examiner.finder is None


def test_wrong_choices_are_named(release, tmp_path):
    for option in ("protocol", "subjects", "duplicates"):
        with pytest.raises(ValueError, match=rf"data\.{option} must be one of .*, not 'x'"):
            release.source(**{option: "x"})
    with pytest.raises(ValueError, match="there is no such file"):
        release.source(annotations_v2=str(tmp_path / "v2.json"))


# ------------------------------------------------------------------ lesions


def test_circles_of_the_second_annotation_win(release, tmp_path):
    marks = [
        {"image_id": name_of(1), "coordinates": [40, 30], "radius": 4},
        {"image_id": name_of(1), "coordinates": [40, 30], "radius": 5481},
        {"image_id": "levle0_99999.jpg", "coordinates": [40, 30], "radius": 4},
    ]
    images = [{"id": 1, "file_name": name_of(2)}]  # nobody has marked it: the release's boxes stay
    (tmp_path / "v2.json").write_text(json.dumps({"images": images, "annotations": marks}))
    before = release.source().fingerprint()
    table = release.build(annotations_v2=str(tmp_path / "v2.json"))
    boxes = table.boxes.set_index("file_name")
    assert boxes.loc[[f"images/{name_of(1)}"]].to_numpy().tolist() == [[36, 26, 44, 34]]
    assert len(boxes) == sum(LESIONS) * NUM // 4 - LESIONS[1] + 1
    assert len(boxes.loc[[f"images/{name_of(2)}"]]) == LESIONS[2]
    assert table.report["box_count_conflicts"] == []  # it marks other lesions than the release counts
    assert any(note.startswith("1 circles of ACNE04-v2 were left out") for note in table.report["notes"])
    assert release.source(annotations_v2=str(tmp_path / "v2.json")).fingerprint() != before


def test_boxes_of_a_photograph_that_its_camera_turned(release):
    """Drawn on the stored pixels or on the upright photograph: the table has them upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # its top is the stored left side
    for index in (0, 4):
        with Image.open(release.images / name_of(index)) as image:
            image.save(release.images / name_of(index), exif=exif)
    upright = (release.annotations / name_of(4)).with_suffix(".xml")
    upright.write_text(upright.read_text().replace(">80<", ">side<").replace(">64<", ">80<").replace(">side<", ">64<"))
    boxes = release.build().boxes.set_index("file_name")
    assert boxes.loc[f"images/{name_of(0)}"].to_numpy().tolist() == [[58, x, 62, x + 4] for x in range(3)]
    assert boxes.loc[f"images/{name_of(4)}"].to_numpy().tolist() == [[x, 2, x + 4, 6] for x in range(3)]


def test_circles_of_other_photographs_are_refused(release, tmp_path):
    (tmp_path / "v2.json").write_text('{"annotations": [{"image_id": "x", "coordinates": [4, 4], "radius": 2}]}')
    with pytest.raises(ValueError, match="marks none of these photographs"):
        release.build(annotations_v2=str(tmp_path / "v2.json"))


# ------------------------------------------------------------------ bad files


def test_annotation_without_image(release):
    name = "Detection/VOC2007/Annotations/levle9_9.xml"
    (release.annotations / "levle9_9.xml").write_text(XML.format(name="levle9_9.jpg", objects=""))
    table = release.check_bad(name, "annotates a photograph that is not in")
    assert len(table) == NUM


def test_image_without_annotation(release):
    (release.annotations / name_of(0)).with_suffix(".xml").unlink()
    release.check_bad(name_of(0), "has no annotation")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "is not a Pascal VOC annotation"),
        (XML.format(name="a", objects="<object><name>fore</name></object>"), "object 1 has no box"),
        (XML.format(name="a", objects=OBJECT.format(x=4, x1=4)), "box without area"),
        (XML.format(name="a", objects=OBJECT.format(x="four", x1=4)), "could not convert"),
        (XML.format(name="a", objects=OBJECT.format(x=70, x1=90)), "object 1 has a box outside of the 80 x 64"),
        (
            XML.format(name="a", objects="").replace(">80<", ">79<"),
            "of a photograph of 79 x 64 px, this one has 80 x 64",
        ),
    ],
)
def test_bad_annotation(release, text, reason):
    (release.annotations / name_of(0)).with_suffix(".xml").write_text(text)
    release.check_bad(name_of(0), reason)


def test_listed_image_is_missing(release):
    (release.images / name_of(0)).unlink()
    (release.annotations / name_of(0)).with_suffix(".xml").unlink()
    release.check_bad(name_of(0), "is in a split file, but not in Classification/JPEGImages")


def test_image_in_no_split_file(release, photo):
    photo(release.images / "levle1_999.jpg", 999, SIZE)
    (release.annotations / "levle1_999.xml").write_text(XML.format(name="levle1_999.jpg", objects=""))
    release.check_bad("levle1_999.jpg", "is in no split file")


def test_another_photograph_under_the_same_name(release, photo):
    photo(release.images / name_of(0).replace(".jpg", ".png"), 999, SIZE)
    with pytest.raises(BadData, match=r"levle0_0\.png: is in no split file"):
        release.build()


def test_truncated_photograph(release):
    path = release.images / name_of(0)
    path.write_bytes(path.read_bytes()[:-100])
    release.check_bad(name_of(0), "cannot be read as an image")


def test_split_files_that_contradict_each_other(release):
    release.relabel(0, 1, 12, lists=[release.list("trainval", 3)])
    release.check_bad(name_of(0), "contradict each other: grade 0 with 3 lesions and grade 1 with 12 lesions")


def test_image_in_test_and_trainval_of_one_fold(release):
    with release.list("trainval", 0).open("a") as file:
        file.write(f"{name_of(0)}   0  3\n")
    release.check_bad(name_of(0), "must be in one test file")


def test_image_in_no_test_file(release):
    path = release.list("test", 0)
    path.write_text(path.read_text().replace(f"{name_of(0)}   0  3\n", ""))
    release.check_bad(name_of(0), "must be in one test file")


@pytest.mark.parametrize(
    ("grade", "lesions", "reason"),
    [(4, 3, "gives the grade 4"), (0, "many", "is not <file> <grade> <lesions>"), (0, "", "is not <file>")],
)
def test_wrong_label(release, grade, lesions, reason):
    release.relabel(0, grade, lesions, lists=[release.list("test", 0)])
    release.check_bad(name_of(0), f"Classification/NNEW_test_0.txt line 1 {reason}")


# ------------------------------------------------------------------ bad layout


def test_missing_split_files_are_named(release):
    release.list("test", 3).unlink()
    with pytest.raises(ValueError, match=r"missing below .*: Classification/NNEW_test_3\.txt; found \['NNEW_test_0"):
        release.build(on_bad="skip")


@pytest.mark.parametrize("folder", ["Classification/JPEGImages", "Detection/VOC2007/Annotations"])
def test_missing_tree_is_named(release, folder):
    (release.root / folder).rename(release.root / "elsewhere")
    with pytest.raises(ValueError, match=f"expected .*/{folder}; found .*elsewhere"):
        release.build(on_bad="skip")


def test_no_images(release):
    for path in release.images.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="holds no images"):
        release.build(on_bad="skip")


def test_missing_root_and_wrong_arguments(release, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        Acne04(root=str(tmp_path / "nowhere"), classes=CLASSES)
    with pytest.raises(ValueError, match="fold must be 0 to 4"):
        release.source(fold=5)
    with pytest.raises(ValueError, match="4 grades; classes names 3"):
        Acne04(root=str(tmp_path), classes=CLASSES[:3])


def test_a_grade_without_images_is_an_error(release):
    for index in range(3, NUM, 4):
        release.relabel(index, 2, 60)
    with pytest.raises(BadData, match="class very_severe: no usable image"):
        release.build(on_bad="skip")


def test_fingerprint_covers_photographs_labels_and_boxes(release, photo):
    def fingerprint():
        return release.source().fingerprint()

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    photo(release.images / name_of(0), 999, SIZE)
    seen.append(fingerprint())
    release.relabel(0, 0, 4)
    seen.append(fingerprint())
    (release.annotations / name_of(0)).with_suffix(".xml").write_text("<annotation/>")
    seen.append(fingerprint())
    assert len(set(seen)) == 4


def test_published_counts_are_those_with_duplicates_kept(release):
    """What balance=acnedit adds is counted from them: a copy that is dropped is one edit more."""
    shutil.copy(release.images / name_of(2), release.images / name_of(6))
    counts = {}
    for duplicates in ("keep", "drop"):
        counts[duplicates] = release.build(duplicates=duplicates).rows["severity"].value_counts().to_dict()
        shutil.rmtree(release.root / "table")
    assert counts["keep"] == dict.fromkeys(CLASSES, 15)
    assert counts["drop"] == counts["keep"] | {"severe": 14}
