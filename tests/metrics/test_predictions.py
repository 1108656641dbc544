import json
import pickle
from contextlib import suppress

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from graded import BANDS, CLASSES, drawn, said
from pyarrow import parquet

from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.predictions import (
    Predictions,
    mean_counts,
    prediction_frame,
    read_predictions,
    write_predictions,
)


def write(path, predictions):
    return write_predictions(
        path,
        predictions.frame,
        classes=predictions.classes,
        decision=predictions.decision,
        bands=predictions.bands,
    )


def test_comes_back_as_it_was(tmp_path):
    given = drawn(0, decision=Decision(1.25, (1, 1, 2, 3)))
    write(tmp_path / "predictions.parquet", given)
    found = read_predictions(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(found.frame, given.frame)
    assert (found.classes, found.decision, found.bands) == (CLASSES, Decision(1.25, (1, 1, 2, 3)), BANDS)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def test_other_tools_read_it(tmp_path):
    write(tmp_path / "predictions.parquet", drawn(0))
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert [*frame.columns] == [
        *("file_name", "subject", "split", "severity", "source", "lesions"),
        *("p_mild", "p_moderate", "p_severe", "p_very_severe", "count", "count_from_grade", "camera"),
    ]


def test_the_same_predictions_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, drawn(0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write(tmp_path / "b", drawn(1))
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_views():
    one = said([0, 1, 3], [0, 0, 3], subjects=["ann", "", ""], lesions=[2, np.nan, 60])
    assert one.labels.tolist() == [0, 1, 3] and one.predicted.tolist() == [0, 0, 3]
    assert one.people.tolist() == ["ann", "image 1.jpg", "image 2.jpg"]  # whoever is on them, not one person
    np.testing.assert_array_equal(one.counts("lesions"), [2, np.nan, 60])
    assert one.where(one.labels == 3).frame["file_name"].tolist() == ["2.jpg"]
    mixed = Predictions(pd.concat([one.frame, one.frame[:1].assign(split="val")]), CLASSES)
    assert len(mixed.of("val")) == 1 and len(mixed.of("test")) == 3


def test_the_decision_is_applied_on_reading_not_stored():
    sure = drawn(0)
    calmer = Predictions(sure.frame, CLASSES, Decision(3.0))
    np.testing.assert_array_equal(calmer.uncalibrated, sure.uncalibrated)
    np.testing.assert_allclose(sure.probabilities, sure.uncalibrated, atol=1e-6)
    assert calmer.probabilities.max(axis=1).mean() < sure.probabilities.max(axis=1).mean() - 0.1
    np.testing.assert_array_equal(calmer.predicted, sure.predicted)


def test_frame_by_hand():
    rows = said([0, 1], [0, 1], lesions=[3, 10]).frame[["file_name", "subject", "split", "severity", "source"]]
    rows = rows.assign(lesions=pd.array([3, None], dtype="Int64"), camera="a")
    p = np.array([[0.5, 0.5, 0, 0], [0.2, 0.8, 0, 0]])
    about = {"classes": CLASSES, "decision": Decision()}
    frame = prediction_frame(rows, p, None, **about, class_counts=np.array([2.0, 12, 30, 60]))
    assert frame["count"].isna().all() and frame["lesions"].isna().tolist() == [False, True]
    assert frame["count_from_grade"].tolist() == pytest.approx([7, 10])  # .5 x 2 + .5 x 12; .2 x 2 + .8 x 12
    assert frame.columns[-1] == "camera"
    assert prediction_frame(rows, p, np.array([4.0, 9]), **about)["count_from_grade"].isna().all()


def test_mean_counts():
    labels, lesions = np.array([0, 0, 1, 3]), np.array([2, 4, np.nan, 60])
    np.testing.assert_array_equal(mean_counts(labels, lesions, 4), [3, np.nan, np.nan, 60])


def spoiled(column, value):
    frame = said([0, 1], [0, 1]).frame.copy()
    frame[column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (said([0], [0]).frame.drop(columns="p_severe"), "no column p_severe"),
        (said([0], [0]).frame[:0], "no image"),
        (spoiled("p_mild", [1.0, np.nan]), "1 of 2 images have NaN"),
        (spoiled("p_mild", [np.inf, 0.0]), "1 of 2 images have NaN"),
        (spoiled("p_mild", [1.0, 0.5]), "sum of 1"),
        (spoiled("p_mild", [1.0, -1.0]), "sum of 1"),
        (spoiled("severity", ["mild", ""]), "cannot be graded"),
        (spoiled("split", ["test", "train"]), "not of"),
        (spoiled("file_name", "same.jpg"), "there twice, such as same.jpg"),
        (spoiled("count", [3.0, np.inf]), "count holds infinite numbers"),
        (spoiled("lesions", ["3", "many"]), "could not convert"),
    ],
)
def test_what_is_no_prediction_is_refused_and_not_written(tmp_path, frame, message):
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path / "p.parquet", frame, classes=CLASSES, decision=Decision(), bands=None)
    assert not list(tmp_path.iterdir())


def test_as_many_weights_and_bands_as_classes():
    frame = said([0], [0]).frame
    with pytest.raises(ValueError, match="3 class weights for the 4 classes"):
        Predictions(frame, CLASSES, Decision(1.0, (1, 1, 1)))
    with pytest.raises(ValueError, match="2 bands for the 4 classes"):
        Predictions(frame, CLASSES, bands=(5, None))
    for bands in ((5, 20, 50, 65), (5, 50, 20, None), (5, 5, 20, None), (None,) * 4, ("a", "b", "c", None)):
        with pytest.raises(ValueError, match="rising, then None"):
            Predictions(frame, CLASSES, bands=bands)


def test_foreign_and_broken_files(tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(ValueError, match="does not exist"):
        read_predictions(path)
    path.write_bytes(b"p_mild,p_severe\n1,0\n")
    with pytest.raises(ValueError, match="does not hold a grader's predictions"):
        read_predictions(path)
    write(path, drawn(0))
    whole = path.read_bytes()
    for broken in (whole[:-200], whole[: len(whole) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="does not hold a grader's predictions"):
            read_predictions(path)
    pd.DataFrame({"x": [1.0]}).to_parquet(path)
    with pytest.raises(ValueError, match="does not hold a grader's predictions"):
        read_predictions(path)


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "not json",
        json.dumps({"classes": ["mild"], "decision": {"temperature": 1}, "bands": None}),
        json.dumps({"classes": CLASSES, "decision": {"temperature": "1", "weights": None}, "bands": None}),
        json.dumps({"classes": CLASSES, "decision": {"temperature": 0, "weights": None}, "bands": None}),
        json.dumps({"classes": CLASSES, "decision": {"other": 1}, "bands": None}),
        json.dumps({"classes": 4, "decision": {}, "bands": None}),
    ],
)
def test_strange_metadata(tmp_path, about):
    path = tmp_path / "predictions.parquet"
    table = pa.Table.from_pandas(drawn(0).frame.drop(columns="p_mild"))
    parquet.write_table(table.replace_schema_metadata({b"acne_lab": about}), path)
    with pytest.raises(ValueError, match="does not hold a grader's predictions"):
        read_predictions(path)


class Bomb:
    """What leaves a mark where somebody unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "pandas.extension"])
def test_reading_executes_nothing(tmp_path, name):
    """A column may bring a pickled type, and pandas' metadata may name types: both are left alone."""
    mark, path = tmp_path / "mark", tmp_path / "predictions.parquet"
    table = pa.Table.from_pandas(drawn(0).frame, preserve_index=False)
    about = {"classes": CLASSES, "decision": {"temperature": 1.0, "weights": None}, "bands": None}
    bomb = pickle.dumps(Bomb(mark), protocol=0)  # text, as metadata must be
    field = pa.field("bomb", pa.string(), metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": bomb})
    schema = pa.schema([*table.schema, field], metadata={"acne_lab": json.dumps(about), "pandas": bomb})
    parquet.write_table(pa.table([*table.columns, pa.array(["x"] * len(table))], schema=schema), path)
    with suppress(ValueError):  # refused or read, but not run
        read_predictions(path)
    assert not mark.exists()
    pickle.loads(bomb).close()  # the bomb works
    assert mark.exists()


def test_columns_of_other_types_are_refused(tmp_path):
    path = tmp_path / "predictions.parquet"
    write(path, drawn(0))
    table = parquet.read_table(path)
    nested = table.append_column("nested", pa.array([[1]] * len(table)))
    parquet.write_table(nested, path)
    with pytest.raises(ValueError, match=r"\['nested'\] hold neither text nor numbers"):
        read_predictions(path)


@pytest.mark.parametrize("values", [["a", 1], [[1], [2]], pd.Categorical(["a", "b"])])
def test_what_could_not_be_read_is_not_written(tmp_path, values):
    frame = said([0, 1], [0, 1]).frame.assign(extra=values)
    with pytest.raises(ValueError, match="extra"):
        write_predictions(tmp_path / "p.parquet", frame, classes=CLASSES, decision=Decision(), bands=None)
    assert not list(tmp_path.iterdir())


def test_columns_of_slices_may_be_unknown(tmp_path):
    extra = {"flag": pd.array([True, None], dtype="boolean"), "tone": pd.array([3, None], dtype="Int64")}
    frame = said([0, 1], [0, 1]).frame.assign(**extra, nothing=None, camera=["a", None])
    write_predictions(tmp_path / "p.parquet", frame, classes=CLASSES, decision=Decision(), bands=None)
    found = read_predictions(tmp_path / "p.parquet").frame
    assert found[["flag", "tone", "nothing", "camera"]].isna().sum().tolist() == [1, 1, 2, 1]
    assert found["tone"][0] == 3 and found["flag"][0]
