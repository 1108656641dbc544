"""AcneGAN's published sets: found in whatever folders they come, fetched from a server, never mixed."""

import zipfile

import pytest
from fake_figshare import FakeFigshare, serving
from tiny import composed

from acne_lab.data.acnegan import ARTICLES, AcneGan, class_of
from acne_lab.data.table import BadData, ImageTable
from acne_lab.jobs.prepare import prepare

CLASSES = ("healthy", "mild", "moderate", "severe")


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("Mild/1.png", "mild"),
        ("CNN training set/train/02 - Severe acne/1.png", "severe"),
        ("severe_models/Moderate/seeds/1.png", "moderate"),  # the innermost folder that tells
        ("Healthy/mild_moderate_severe/1.png", "healthy"),  # a folder of several classes tells nothing
        ("all/mild.png", ""),
        ("Mildred/1.png", ""),
    ],
)
def test_folders_tell_the_class(name, severity):
    assert class_of(name) == severity


@pytest.fixture
def generated(photo, tmp_path):
    """A folder of the generated set, two faces a class, in folders as somebody might have named them."""
    for number, name in enumerate(("HEALTHY", "Mild", "Moderate acne", "3_severe")):
        for index in range(2):
            photo(tmp_path / "set" / "Dataset" / name / f"seed{index}.png", seed=2 * number + index)
    return tmp_path / "set"


def collect(root, article="cnn"):
    source = AcneGan(root=str(root), article=article)
    source.fetch(download=False)
    return source, source.collect(root / "scratch", 1)


def test_generated_faces_are_labelled_by_folder_and_have_unknown_parents(generated):
    source, found = collect(generated)
    assert source.classes == CLASSES
    assert found.rows["severity"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert set(found.rows["source"]) == {"generated"}
    assert found.rows["subject"].is_unique
    assert found.report["unknown_parents"] is True
    assert found.problems == []


def test_photographs_may_come_without_classes(photo, tmp_path):
    for index in range(3):
        photo(tmp_path / "set" / "All Levels" / f"{index}.jpg", seed=index)
    source, found = collect(tmp_path / "set", "gan")
    assert source.classes == ()
    assert found.unlabelled
    assert set(found.rows["source"]) == {"real"}
    assert found.report["unknown_parents"] is True


def test_photographs_may_come_by_class(photo, tmp_path):
    for index, name in enumerate(("Severe", "Mild", "web")):
        photo(tmp_path / "set" / name / f"{index}.jpg", seed=index)
    source, found = collect(tmp_path / "set", "gan")
    assert source.classes == ("mild", "severe")
    assert found.rows["severity"].tolist() == ["mild", "severe", ""]


def test_a_missing_class_and_a_stray_image_are_said(generated, photo):
    photo(generated / "cover.png", seed=99)
    _, found = collect(generated)
    assert [(problem.file_name, problem.reason) for problem in found.problems] == [
        ("cover.png", "lies in no folder of a class")
    ]
    (generated / "Dataset" / "Mild").rename(generated / "Dataset" / "other")
    with pytest.raises(ValueError, match=r"no images of mild in .*; found \., Dataset/3_severe"):
        collect(generated)


def test_an_empty_folder_says_how_to_get_the_set(tmp_path):
    with pytest.raises(ValueError, match=r"data\.download=true") as error:
        collect(tmp_path)
    assert ARTICLES["cnn"].page in str(error.value)
    assert str(tmp_path / "cnn") in str(error.value)


def test_the_sets_do_not_mix(generated, photo, tmp_path):
    root = tmp_path / "both"
    photo(root / "gan" / "Mild" / "1.jpg", seed=9)
    with pytest.raises(ValueError, match="has no images of the AcneGAN set cnn"):
        collect(root, "cnn")
    generated.rename(root / "cnn")
    assert len(collect(root, "cnn")[1].rows) == 8
    assert len(collect(root, "gan")[1].rows) == 1


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(folder.rglob("*.png")):
            file.write(image, image.relative_to(folder))
    return path


def test_a_set_that_was_unpacked_by_hand_too_is_there_once(generated, photo, tmp_path):
    (tmp_path / "root").mkdir()
    zipped(generated, tmp_path / "root" / "set.zip")
    generated.rename(tmp_path / "root" / "by hand")
    photo(tmp_path / "root" / "Mild" / "a.png", seed=50)
    photo(tmp_path / "root" / "Severe" / "b.png", seed=50)
    photo(tmp_path / "root" / "everything" / "c.png", seed=0)  # a healthy face that no folder labels
    _, found = collect(tmp_path / "root")
    assert found.rows["severity"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert found.problems == []
    assert len(found.report["duplicates"]) == 9
    assert {"file_name": "everything/c.png", "bytes_equal": True} | {
        "same_as": "by hand/Dataset/HEALTHY/seed0.png"
    } in found.report["duplicates"]
    assert found.report["conflicts"] == [
        {"file_name": "Mild/a.png", "file_names": ["Mild/a.png", "Severe/b.png"], "severities": ["mild", "severe"]}
    ]
    assert "9 files that are copies of others were left out" in found.report["notes"]


def test_zip_files_are_unpacked_also_from_zip_files(generated, tmp_path):
    (tmp_path / "root").mkdir()
    inner = zipped(generated, tmp_path / "inner.zip")
    with zipfile.ZipFile(tmp_path / "root" / "outer.ZIP", "w") as file:
        file.write(inner, "deep/inner.zip")
    _, found = collect(tmp_path / "root")
    assert len(found.rows) == 8
    assert found.rows["file_name"][0] == "outer/deep/inner/Dataset/3_severe/seed0.png"
    assert len(collect(tmp_path / "root")[1].rows) == 8  # and not once more


def words(tmp_path, *more):
    return ("data=acnegan", f"data.root={tmp_path / 'root'}", f"runs_dir={tmp_path / 'runs'}", *more)


@pytest.fixture
def figshare(generated, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    content = zipped(generated, tmp_path / "set.zip").read_bytes()
    with serving(FakeFigshare({"CNN set.zip": content}, article=ARTICLES["cnn"].number)) as server:
        yield server


def test_downloaded_by_hand_or_not_it_is_the_same_table(figshare, tmp_path):
    fetched = prepare(composed("prepare", *words(tmp_path, "data.download=true", f"+data.source.api={figshare.api}")))
    table = ImageTable.read(fetched.path)
    assert table.classes == CLASSES
    assert table.counts()["test"].sum() == 0
    assert all(path.is_file() for path in table.paths)
    assert table.report["unknown_parents"] is True
    again = prepare(composed("prepare", *words(tmp_path, f"+data.source.api={figshare.api}")))
    assert again.path == fetched.path


def test_without_a_network_the_error_says_how_to_get_the_set_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    config = composed("prepare", *words(tmp_path, "data.download=true", "+data.source.api=http://figshare.invalid"))
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        prepare(config)
    assert "https://figshare.com/articles/dataset/StyleGAN2_Generated_Dataset_for_CNN_training/25033928" in str(
        error.value
    )
    assert str(tmp_path / "root" / "cnn") in str(error.value)


def test_bad_images_stop_it(generated):
    (generated / "Dataset" / "Mild" / "seed0.png").write_bytes(b"no image")
    config = composed("prepare", "data=acnegan", f"data.root={generated}", f"runs_dir={generated / 'runs'}")
    with pytest.raises(BadData, match=r"Mild/seed0\.png: cannot be read"):
        prepare(config)


def test_unknown_articles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cnn, gan"):
        AcneGan(root=str(tmp_path), article="gui")
