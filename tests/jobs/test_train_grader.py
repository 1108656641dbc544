"""Grader runs: one opening of the test, choices on the validation people, leaks on purpose, data that cannot do."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY_GRADER, TOY, composed

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.jobs import opening
from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.train import train
from acne_lab.metrics.calibration import fit_temperature
from acne_lab.metrics.predictions import read_predictions

GRADER = ("experiment=grader", *TOY, *TINY_GRADER, "num_threads=1")
OF_A_TABLE = ("experiment=grader", "data=table", "data.resolution=32", *TINY_GRADER, "num_threads=1")


def grader(runs_dir, *overrides):
    return train(composed("train", *GRADER, f"runs_dir={runs_dir}", *overrides))


@pytest.fixture(scope="module")
def table(toy_runs):
    return ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)


@pytest.fixture
def run(toy_runs):
    """A grader of its own seed that a test may take apart; the next one trains it again."""
    return grader(toy_runs, "seed=31")


def interrupted(run, *, without):
    """The run as a kill leaves it behind: no DONE, and none of the files `without`."""
    for name in ("DONE", "metrics.json", *without):
        (run.path / name).unlink()


def test_a_run_is_complete(run, table):
    predictions, metrics = read_predictions(run.path / "predictions.parquet"), run.metrics
    tested = predictions.of("test")
    assert set(tested.frame["file_name"]) == set(table.select(split="test").rows["file_name"])
    assert set(predictions.of("val").frame["file_name"]) == set(table.select(split="val").rows["file_name"])
    assert metrics["test"]["num_test"] == len(tested) > 0
    assert metrics["test"]["accuracy"] == pytest.approx((tested.labels == tested.predicted).mean())
    recall = [value for value in metrics["test"]["recall"].values() if value is not None]
    assert metrics["test"]["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert metrics["test"]["count_from_grade"]["mae"] > 0
    assert {"low", "high"} == set(metrics["test"]["interval"]["balanced_accuracy"])
    assert {"skin_tone", "lesion_size"} <= set(tested.frame)
    assert metrics["train"]["sources"] == {"toy": metrics["train"]["num_images"]}
    curves = pd.read_csv(run.path / "metrics.csv")
    assert curves["epoch"].tolist() == [1, 2]
    best = curves.loc[curves["val/balanced_accuracy"].idxmax(), "epoch"]
    assert metrics["test_opened"] | {"time": ""} == {"time": "", "epoch": best, "chosen_on": "val/balanced_accuracy"}


def test_the_temperature_is_that_of_the_validation_images(run):
    predictions = read_predictions(run.path / "predictions.parquet")
    val = predictions.of("val")
    fitted = fit_temperature(val.uncalibrated, val.labels)
    assert run.metrics["decision"] == {"temperature": pytest.approx(fitted), "weights": None}
    assert predictions.decision.temperature == pytest.approx(fitted) != 1


def test_a_test_that_was_opened_is_not_graded_again(run, toy_runs, monkeypatch):
    before, metrics = (run.path / "predictions.parquet").read_bytes(), run.metrics
    interrupted(run, without=())

    def never(*_):
        raise AssertionError("the test was graded a second time")

    monkeypatch.setattr(opening, "graded", never)
    again = grader(toy_runs, "seed=31")
    assert again.metrics == metrics and again.done
    assert (run.path / "predictions.parquet").read_bytes() == before


def test_a_run_killed_while_it_grades_tells_when_it_opened_the_test_first(run, toy_runs):
    opened = json.loads((run.path / "test_opened.json").read_text()) | {"time": "before"}
    (run.path / "test_opened.json").write_text(json.dumps(opened))
    metrics = run.metrics
    interrupted(run, without=["predictions.parquet"])
    assert grader(toy_runs, "seed=31").metrics == metrics | {"test_opened": opened}


def test_a_stop_survives_a_kill(toy_runs):
    """Killed between the checkpoint of its last epoch and its end: the repeated run trains no further."""
    words = ("patience=1", "trainer.max_epochs=12", "seed=32", "model.optimizer.lr=0.05")
    run = grader(toy_runs, *words)
    curves = pd.read_csv(run.path / "metrics.csv")
    values, weights = curves["val/balanced_accuracy"], run.path / "checkpoints" / "last.ckpt"
    assert len(curves) == values.idxmax() + 2 < 12
    before, metrics = torch.load(weights, weights_only=True)["state_dict"], run.metrics
    interrupted(run, without=["predictions.parquet", "test_opened.json"])
    again = grader(toy_runs, *words)
    pd.testing.assert_frame_equal(pd.read_csv(run.path / "metrics.csv"), curves)
    after = torch.load(weights, weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.metrics["test"] == metrics["test"]


def test_a_leak_is_made_on_purpose_and_told(toy_runs, table):
    """Half of each test person's photographs are training images, and nobody else is affected."""
    run, clean = grader(toy_runs, "leak=0.5", "seed=31"), grader(toy_runs, "seed=31")
    tested = read_predictions(run.path / "predictions.parquet").of("test").frame
    test_rows = table.select(split="test").rows
    num_leaked = len(test_rows) - len(tested)
    photos = test_rows["subject"].value_counts()
    assert num_leaked == (photos // 2).sum() > 0
    assert set(tested["subject"]) == set(test_rows["subject"])
    assert run.metrics["train"]["num_images"] == clean.metrics["train"]["num_images"] + num_leaked
    left = test_rows[~test_rows["file_name"].isin(tested["file_name"])]
    assert set(left["sha256"]) <= set(Lineage.read(run.path).rows["sha256"])
    assert not set(tested["file_name"].map(test_rows.set_index("file_name")["sha256"])) & set(
        Lineage.read(run.path).rows["sha256"]
    )
    share = tested["subject"].isin(photos.index[photos > 1]).mean()
    assert run.metrics["lineage"]["leaked_share"] == pytest.approx(share) and share > 0.5
    assert clean.metrics["lineage"]["leaked_share"] == 0


@pytest.mark.parametrize(("share", "words"), [(0, "e.g. 0.5, not 0"), (1, "not 1"), (0.01, "has so many photographs")])
def test_leaks_that_cannot_be(toy_runs, share, words):
    with pytest.raises(ValueError, match=words):
        grader(toy_runs, f"leak={share}")


def test_labels_that_say_nothing(toy_runs, run):
    """Training and validation labels dealt anew: as many of each class, another run, other predictions."""
    null = grader(toy_runs, "balance.permute_labels=all", "seed=31")
    assert null.metrics["train"] == run.metrics["train"]
    assert null.metrics["test"]["confusion"] != run.metrics["test"]["confusion"]
    true, dealt = (read_predictions(each.path / "predictions.parquet") for each in (run, null))
    for split, same in (("val", False), ("test", True)):
        labels = [each.of(split).labels.tolist() for each in (true, dealt)]
        assert (labels[0] == labels[1]) == same and sorted(labels[0]) == sorted(labels[1])


def as_table(folder, rows, table):
    folder.mkdir()
    made = ImageTable(root=folder, rows=rows, classes=table.classes, report={})
    (folder / "images").symlink_to(table.root / "images")
    made.write()
    return folder


def test_a_class_without_training_images_is_refused(table, tmp_path):
    """Before anything is trained; one without test images has no recall, and is no part of the means."""
    rows = table.rows
    lost = rows[~((rows["split"] == "train") & (rows["severity"] == "severe"))]
    folder = as_table(tmp_path / "untrained", lost, table)
    with pytest.raises(ValueError, match=r"no training image of .* is severe, so a grader would never say it"):
        train(composed("train", *OF_A_TABLE, f"data.root={folder}", f"runs_dir={tmp_path}"))
    assert not list((tmp_path / "train").glob("*-*"))


def test_a_class_without_test_images_has_no_recall(table, tmp_path, capsys):
    rows = table.rows
    folder = as_table(tmp_path / "untested", rows[~((rows["split"] == "test") & (rows["severity"] == "mild"))], table)
    run = train(composed("train", *OF_A_TABLE, f"data.root={folder}", f"runs_dir={tmp_path}"))
    assert "no test image is mild" in capsys.readouterr().err
    recall = run.metrics["test"]["recall"]
    assert recall.pop("mild") is None
    assert run.metrics["test"]["balanced_accuracy"] == pytest.approx(np.mean(list(recall.values())))


def test_photographs_of_one_person_cannot_test(table, tmp_path):
    rows = table.select(split="train").rows.assign(subject="anna")
    folder = as_table(tmp_path / "anna", rows, table)
    with pytest.raises(ValueError, match=r"has no val images .*one person, anna"):
        train(composed("train", *OF_A_TABLE, f"data.root={folder}", f"runs_dir={tmp_path}"))


def test_a_class_without_validation_images_is_told(table, tmp_path, capsys):
    rows = table.rows
    folder = as_table(tmp_path / "table", rows[~((rows["split"] == "val") & (rows["severity"] == "mild"))], table)
    train(composed("train", *OF_A_TABLE, f"data.root={folder}", f"runs_dir={tmp_path}"))
    assert "no validation image is mild: the epoch and the temperature" in capsys.readouterr().err


def test_a_finished_grader_says_how_it_did(run, toy_runs, capsys):
    """On standard error: what is on standard output is the run's path."""
    capsys.readouterr()
    grader(toy_runs, "seed=31")
    said, test = capsys.readouterr(), run.metrics["test"]
    assert f"balanced accuracy {test['balanced_accuracy']:.3f}" in said.err
    assert f"on {test['num_test']} test images; chance is 0.25" in said.err
    assert said.out == ""


@pytest.mark.parametrize("pretrained", ["nowhere.pth", "package"])
def test_weights_are_asked_for_before_images_are_made(tmp_path, pretrained):
    words = ("balance=acnedit", "edit.editor.analyse.landmarks=null", f"model.pretrained={pretrained}")
    with pytest.raises(ValueError, match=r"no weights file nowhere\.pth|has weights for tf_efficientnet_lite0 only"):
        grader(tmp_path, *words)
    assert not list(tmp_path.iterdir())
