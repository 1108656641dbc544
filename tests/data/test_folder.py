import shutil

import numpy as np
import pytest
import skimage.data
from PIL import Image

from acne_lab.data.collect import build_table
from acne_lab.data.folder import Folder
from acne_lab.data.lineage import Lineage
from acne_lab.data.pack import pack
from acne_lab.data.table import BadData

BANDS = {"mild": 5, "moderate": 20, "severe": None}


def build(root, *, on_bad="error", seed=0, **options):
    source = Folder(root=str(root / "photos"), **options)
    return build_table(source, root / "table", split={"seed": seed}, on_bad=on_bad, num_workers=2)


def problems(root, **options):
    """What is wrong, file by file; nothing may have been written."""
    with pytest.raises(BadData) as caught:
        build(root, **options)
    assert not (root / "table").exists()
    assert "data.on_bad=skip" in str(caught.value)
    return caught.value.problems


def dropped(root, **options):
    return [entry["file_name"] for entry in build(root, on_bad="skip", **options).report["dropped"]]


@pytest.fixture
def classes(tmp_path, photo):
    """photos/{mild,severe}/*.png, three subjects of two photographs each."""
    for index in range(12):
        severity = ("mild", "severe")[index // 6]
        photo(tmp_path / "photos" / severity / f"p{index // 2}_{index % 2}.png", index)
    return tmp_path


@pytest.fixture
def described(tmp_path, photo):
    """described(header, lines...) writes photos/metadata.csv beside photographs a.png to f.png."""
    for seed, name in enumerate("abcdef"):
        photo(tmp_path / "photos" / f"{name}.png", seed)

    def write(*lines):
        (tmp_path / "photos" / "metadata.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


# ------------------------------------------------------------------ real photographs


def test_real_photographs_from_file_to_pixels(tmp_path):
    photos = tmp_path / "photos"
    (photos / "Portrait").mkdir(parents=True)
    (photos / "patch").mkdir()
    portrait = Image.fromarray(skimage.data.astronaut())
    for suffix in ("png", "JPG", "jpeg", "webp", "bmp", "tif"):
        portrait.crop((0, 0, 512, 400)).rotate(len(suffix)).save(photos / "Portrait" / f"as_{suffix}.{suffix}")
    for index, face in enumerate(skimage.data.lfw_subset()[:20]):
        Image.fromarray(np.round(face * 255).astype(np.uint8)).save(photos / "patch" / f"face{index:03d}.png")

    table = build(tmp_path)
    assert table.classes == ("patch", "portrait")
    assert table.counts().sum(axis=1).tolist() == [20, 6]
    assert any("alphabetical" in note for note in table.report["notes"])
    assert any("each photograph is its own subject" in note for note in table.report["notes"])
    pixels = pack(table, resolution=25, fit="crop", cache_dir=tmp_path / "cache", num_workers=2)
    assert pixels.shape == (26, 25, 25, 3)
    first_face = table.rows.index[table.rows["file_name"] == "images/patch/face000.png"][0]
    expected = np.round(skimage.data.lfw_subset()[0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(pixels[first_face], np.repeat(expected[..., None], 3, axis=-1))


# ------------------------------------------------------------------ class folders


def test_class_folders(classes):
    table = build(classes, subject_pattern=r"(p\d+)_")
    assert table.classes == ("mild", "severe")
    assert table.rows["file_name"].iloc[0] == "images/mild/p0_0.png"
    assert table.rows["subject"].nunique() == 6
    assert table.rows.groupby("subject")["split"].nunique().max() == 1
    assert table.counts().to_numpy().tolist() == [[2, 2, 2], [2, 2, 2]]
    assert set(table.rows["source"]) == {"real"}
    assert table.rows["lesions"].isna().all()


def test_asked_classes_set_the_order_and_ignore_case_spaces_and_hyphens(classes, photo):
    photo(classes / "photos" / "Very Severe" / "v.png", 50)
    photo(classes / "photos" / "very-SEVERE" / "w.png", 51)
    table = build(classes, classes=["severe", "very_severe"])
    assert table.classes == ("severe", "very_severe")
    assert (table.rows["severity"] == "very_severe").sum() == 2
    assert "folders that are no asked class were left out: mild" in table.report["notes"]


@pytest.mark.parametrize(
    ("names", "asked", "classes"),
    [
        (("0", "1", "2", "3"), None, ("0", "1", "2", "3")),
        (("0", "1", "2", "3"), [0, 1, 2, 3], ("0", "1", "2", "3")),  # as YAML reads them
        (("Level 1", "Level 2", "Level 3"), None, ("level_1", "level_2", "level_3")),
        (("acne0_1024", "acne1_1024"), ["acne0_1024", "acne1_1024"], ("acne0_1024", "acne1_1024")),
        (("Clear", "Almost Clear", "Mild"), ["clear", "almost_clear", "mild"], ("clear", "almost_clear", "mild")),
    ],
)
def test_levels_by_any_name(tmp_path, photo, names, asked, classes):
    for level, name in enumerate(names):
        for index in range(2):
            photo(tmp_path / name / f"level{level}_{index}.jpg", seed=2 * level + index)
    source = Folder(root=str(tmp_path), classes=asked)
    rows = source.collect(tmp_path / "scratch", 1).rows
    assert source.classes == classes
    levels = rows["file_name"].str.extract(r"level(\d)")[0].astype(int)
    assert [classes[level] for level in levels] == rows["severity"].tolist()


def test_nested_hidden_and_foreign_files(classes, photo):
    photo(classes / "photos" / "mild" / "clinic" / "deep.PNG", 50)
    photo(classes / "photos" / "mild" / "._p0_0.png", 51)
    photo(classes / "photos" / ".thumbnails" / "t.png", 52)
    (classes / "photos" / "mild" / "x.heic").write_bytes(b"?")
    table = build(classes)
    assert len(table) == 13
    assert "images/mild/clinic/deep.PNG" in set(table.rows["file_name"])
    assert "files of other kinds were left out: 1 x .heic" in table.report["notes"]


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_missing_or_empty_class_is_an_error_in_both_modes(classes, on_bad):
    with pytest.raises(BadData, match=r"(?s)moderate: the class folder is missing.*holds mild/, severe/"):
        build(classes, on_bad=on_bad, classes=["mild", "moderate", "severe"])
    (classes / "photos" / "moderate").mkdir()
    with pytest.raises(BadData, match="moderate: the class folder is empty"):
        build(classes, on_bad=on_bad)


def test_missing_folder_and_no_images(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        Folder(root=str(tmp_path / "photos"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        build(tmp_path, on_bad="skip")


def test_a_flat_folder_without_metadata_says_what_was_expected(tmp_path, photo):
    photo(tmp_path / "photos" / "a.png")
    with pytest.raises(ValueError, match=r"expected <root>/<class>/\*\.jpg, found a\.png"):
        build(tmp_path)


def test_image_outside_the_class_folders(classes, photo):
    photo(classes / "photos" / "stray.png", 99)
    assert problems(classes) == ["stray.png: lies in no class folder"]
    assert dropped(classes) == ["stray.png"]


def test_truncated_image(classes):
    path = classes / "photos" / "mild" / "p0_0.png"
    path.write_bytes(path.read_bytes()[:200])
    (problem,) = problems(classes)
    assert problem.startswith("mild/p0_0.png: cannot be read as an image")
    assert dropped(classes) == ["mild/p0_0.png"]


@pytest.mark.parametrize("other", ["mild/p0_0.jpg", "severe/p0_0.png", "severe/P0_0.webp"])
def test_different_photographs_under_one_name(classes, photo, other):
    photo(classes / "photos" / other, 99)
    clash = sorted(["mild/p0_0.png", other])
    assert sorted(problem.partition(":")[0] for problem in problems(classes)) == clash
    assert all("shares its name with different photographs" in problem for problem in problems(classes))
    assert sorted(dropped(classes)) == clash


def test_one_photograph_in_two_classes(classes, photo):
    photo(classes / "photos" / "severe" / "p0_0.png", 0)
    assert all("the same photograph under two severities" in problem for problem in problems(classes))


def test_the_same_photograph_twice_in_one_class_is_no_clash(classes, photo):
    photo(classes / "photos" / "mild" / "copies" / "p0_0.png", 0)
    assert len(build(classes)) == 13


def test_subject_pattern_that_does_not_match(classes, photo):
    photo(classes / "photos" / "mild" / "nobody.png", 99)
    assert problems(classes, subject_pattern=r"(p\d+)_") == [r"mild/nobody.png: subject_pattern=(p\d+)_ does not match"]
    with pytest.raises(ValueError, match="needs a group"):
        Folder(root=str(classes / "photos"), subject_pattern=r"p\d+")


# ------------------------------------------------------------------ metadata.csv


def test_metadata(described):
    root = described(
        "file_name,severity,lesions,subject,skin_tone",
        "a.png,Mild,3,007,IV",
        "b.png,mild,,NA,",
        "c.png,severe,30,p3,I",
        "d.png,severe,31,p3,I",
    )
    table = build(root)
    assert table.classes == ("mild", "severe")
    assert table.rows["subject"].tolist() == ["007", "NA", "p3", "p3"]
    assert table.rows["lesions"].tolist()[2:] == [30, 31]
    assert table.rows["skin_tone"].tolist() == ["IV", "", "I", "I"]
    assert "2 images are not named in metadata.csv and were left out" in table.report["notes"]


def test_bands_grade_counts(described):
    root = described("file_name,lesions", "a.png,0", "b.png,5", "c.png,6", "d.png,20", "e.png,21")
    table = build(root, bands=BANDS)
    assert table.classes == ("mild", "moderate", "severe")
    assert table.rows["severity"].tolist() == ["mild", "mild", "moderate", "moderate", "severe"]


def test_split_and_source_columns_are_kept(described):
    root = described(
        "file_name,severity,split,source,parent",
        "a.png,mild,test,,",
        "b.png,mild,train,generated,runs/x",
        "c.png,severe,val,real,",
    )
    table = build(root)
    assert table.rows["split"].tolist() == ["test", "train", "val"]
    assert table.rows["source"].tolist() == ["real", "generated", "real"]
    assert table.rows["parent"].tolist() == ["", "runs/x", ""]


def test_an_empty_split_column_is_none(described):
    root = described("file_name,severity,split", "a.png,mild,", "b.png,mild,", "c.png,mild,")
    assert set(build(root).rows["split"]) == {"train", "val", "test"}


def test_rows_without_a_subject_are_noted(described):
    root = described("file_name,severity,subject", "a.png,mild,p1", "b.png,mild,")
    table = build(root)
    assert table.rows["subject"].tolist() == ["p1", "b.png"]
    assert "1 rows name no subject: each is taken as a subject of its own" in table.report["notes"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("gone.png,mild,,,", "there is no such image"),
        ("../a.png,mild,,,", "there is no such image"),
        ("a.png,mlid,,,", "unknown severity 'mlid' \\(classes: mild, moderate, severe\\)"),
        ("a.png,,,,", "has no severity"),
        ("a.png,mild,few,,", "lesion count 'few'"),
        ("a.png,mild,-1,,", "lesion count '-1'"),
        ("a.png,mild,7,,", "is mild with 7 lesions, which the bands call moderate"),
        ("a.png,mild,2,dev,", "unknown split 'dev'"),
        ("a.png,mild,2,train,web", "unknown source 'web'"),
    ],
)
def test_bad_rows(described, row, reason):
    root = described(
        "file_name,severity,lesions,split,source",
        row,
        "b.png,mild,1,train,",
        "c.png,moderate,9,train,",
        "d.png,severe,40,test,",
    )
    if row.endswith(",,"):  # leave the split to the splitter, or the empty cell is a second mistake
        text = (root / "photos" / "metadata.csv").read_text()
        (root / "photos" / "metadata.csv").write_text(text.replace(",train,", ",,").replace(",test,", ",,"))
    (problem,) = problems(root, bands=BANDS)
    name = row.partition(",")[0]
    assert problem.startswith(f"{name}: ")
    with pytest.raises(BadData, match=reason):
        build(root, bands=BANDS)
    assert dropped(root, bands=BANDS) == [name]


def test_a_file_named_twice(described):
    root = described("file_name,severity", "a.png,mild", "a.png,severe", "b.png,mild", "c.png,severe")
    assert problems(root) == ["a.png: is named twice in metadata.csv"] * 2
    assert len(build(root, on_bad="skip")) == 2


def test_names_below_metadata_clash_within_their_folder_only(described, photo):
    root = described("file_name,severity", "p1/a.png,mild", "p2/a.png,mild", "a.png,mild")
    photo(root / "photos" / "p1" / "a.png", 10)
    photo(root / "photos" / "p2" / "a.png", 11)
    assert len(build(root)) == 3
    photo(root / "photos" / "a.jpg", 12)
    with (root / "photos" / "metadata.csv").open("a") as file:
        file.write("a.jpg,mild\n")
    assert len(dropped(root)) == 2


def test_metadata_without_what_it_needs(described):
    with pytest.raises(ValueError, match="needs the column file_name and one of severity, lesions; it has name, grade"):
        build(described("name,grade", "a.png,mild"))
    with pytest.raises(ValueError, match=r"data\.bands="):
        build(described("file_name,lesions", "a.png,3"))


@pytest.mark.parametrize(
    "bands",
    [
        {"mild": 5, "severe": 20},
        {"mild": None, "severe": None},
        {"severe": 5, "mild": None},
        {"mild": 5, "moderate": 3, "severe": None},
    ],
)
def test_wrong_bands(classes, bands):
    with pytest.raises(ValueError, match="bands must give each of"):
        Folder(root=str(classes / "photos"), classes=["mild", "severe"], bands=bands)


# ------------------------------------------------------------------ fingerprint


def test_fingerprint_follows_content_not_place_or_time(classes, photo, tmp_path):
    source = Folder(root=str(classes / "photos"))
    before = source.fingerprint()
    (classes / "photos").rename(classes / "moved")
    (classes / "moved" / "mild" / "p0_0.png").touch()
    (classes / "moved" / "mild" / "notes.txt").write_text("not read")
    moved = Folder(root=str(classes / "moved"))
    assert moved.fingerprint() == before
    photo(classes / "moved" / "mild" / "p0_0.png", 77)
    assert moved.fingerprint() != before


def test_fingerprint_sees_metadata(described):
    root = described("file_name,severity", "a.png,mild")
    source = Folder(root=str(root / "photos"))
    before = source.fingerprint()
    described("file_name,severity", "a.png,severe")
    assert source.fingerprint() != before


# ------------------------------------------------------------------ people


@pytest.mark.parametrize("seed", range(4))
def test_byte_copies_are_one_persons_and_in_one_split(classes, seed):
    photos = classes / "photos"
    for number in range(3):
        shutil.copy(photos / "mild" / "p0_0.png", photos / "mild" / f"copy{number}.png")
    table = build(classes, seed=seed)
    rows = table.rows.set_index("file_name")
    copies = [f"images/mild/{name}.png" for name in ("p0_0", "copy0", "copy1", "copy2")]
    assert rows.loc[copies, "subject"].unique().tolist() == ["mild/copy0.png"]
    assert rows.loc[copies, "split"].nunique() == 1
    assert table.report["num_subjects"] == 12
    note = "equal byte by byte make these subjects one: mild/copy0.png, mild/copy1.png, mild/copy2.png, mild/p0_0.png"
    assert any(note in line for line in table.report["notes"])


def test_people_who_share_a_file_are_one_and_a_given_split_must_not_tear_them(described):
    shutil.copy(described("").joinpath("photos", "a.png"), described("").joinpath("photos", "b.png"))
    root = described("file_name,severity,subject", "a.png,mild,ann", "b.png,mild,ben", "c.png,mild,ben", "d.png,mild,d")
    assert build(root).rows["subject"].tolist() == ["ann", "ann", "ann", "d"]
    described("file_name,severity,subject,split", "a.png,mild,ann,train", "b.png,mild,ben,test", "d.png,mild,d,val")
    with pytest.raises(ValueError, match=r"ann: images/a.png \(train\)(?s:.*)images/b.png \(test\)"):
        build(root)


def test_a_population_names_the_people_and_needs_them_named(classes):
    table = build(classes, subject_pattern=r"(p\d+)_", population="clinic")
    assert table.report["population"] == "clinic"
    assert table.report["people_known"] is True
    assert Lineage.of(table).rows["population"].unique().tolist() == ["clinic"]
    alone = build(classes)
    assert "population" not in alone.report
    assert alone.report["people_known"] is False
    with pytest.raises(ValueError, match=r"data.population=clinic(?s:.*)data.subject_pattern"):
        build(classes, population="clinic")
