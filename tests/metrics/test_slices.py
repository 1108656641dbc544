import numpy as np
import pandas as pd
import pytest

from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.slices import OTHERS, figures_of_slice, slice_values, slices_of

CLASSES = ("mild", "severe")


def predictions(severity, predicted, **columns):
    """Predictions without doubt."""
    names = [f"{k}.png" for k in range(len(severity))]
    frame = {
        "file_name": names,
        "subject": [f"s{k // 2}" for k in range(len(names))],
        "split": "val",
        "severity": severity,
        "source": "real",
        "lesions": np.nan,
        "p_mild": [float(name == "mild") for name in predicted],
        "p_severe": [float(name == "severe") for name in predicted],
        "count": np.nan,
        "count_from_grade": np.nan,
    }
    return Predictions(pd.DataFrame({**frame, **columns}), CLASSES)


def slice_figures(given):
    """A row for each slice."""
    rows = [{"slice": each.name, "value": each.value, **figures_of_slice([given], each)} for each in slices_of(given)]
    return pd.DataFrame(rows)


def test_a_slice_on_which_the_grader_fails_is_found():
    severity = ["mild", "severe"] * 40
    dark = [k % 40 >= 20 for k in range(80)]
    predicted = ["mild" if bad else name for name, bad in zip(severity, dark)]
    found = slice_figures(predictions(severity, predicted, skin_tone=[6 if bad else 2 for bad in dark]))
    assert found[["slice", "value"]].to_numpy().tolist() == [["skin_tone", "2"], ["skin_tone", "6"]]
    assert found["balanced_accuracy"].tolist() == [1, 0.5] and found["accuracy"].tolist() == [1, 0.5]
    assert found["mae_grade"].tolist() == [0, 0.5]
    assert found["num_images"].tolist() == [40, 40] and found["num_subjects"].tolist() == [20, 20]
    assert all(each == ["mild", "severe"] for each in found["classes"])


def test_figures_are_those_of_the_slices_images_alone():
    rng = np.random.default_rng(0)
    severity, predicted = (np.array(CLASSES)[rng.integers(0, 2, 60)] for _ in range(2))
    given = predictions(severity, predicted, camera=["a", "b", "b"] * 20)
    found = slice_figures(given).set_index("value")
    assert found.index.tolist() == ["b", "a"]  # the commonest first
    for value in "ab":
        part = given.where((given.frame["camera"] == value).to_numpy())
        assert found.loc[value, "balanced_accuracy"] == pytest.approx(figures(part)["balanced_accuracy"])
        low, high = found.loc[value, ["balanced_accuracy_low", "balanced_accuracy_high"]]
        assert low < found.loc[value, "balanced_accuracy"] < high
    again = slice_figures(given)
    pd.testing.assert_frame_equal(again.set_index("value"), found)


def test_what_is_not_known_is_in_no_slice_and_one_value_is_none():
    severity = ["mild", "severe"] * 4
    given = predictions(
        severity, severity, face_found=[True, False, None, True] * 2, camera="one", skin_tone=[None] * 8
    )
    found = slice_figures(given)
    assert found[["slice", "value", "num_images"]].to_numpy().tolist() == [
        ["face_found", "yes", 4],
        ["face_found", "no", 2],
    ]
    assert found.loc[1, "classes"] == ["severe"] and found.loc[1, "balanced_accuracy"] == 1
    assert slice_figures(predictions(severity, severity)).empty


def test_lesion_sizes_come_in_thirds():
    values = slice_values(pd.Series([0.1, 0.5, np.nan, 0.2, 0.6, 0.3, 0.9]), terciles=("small", "medium", "large"))
    assert values.fillna("?").tolist() == ["small", "medium", "?", "small", "large", "medium", "large"]
    severity = ["mild", "severe"] * 3
    found = slice_figures(predictions(severity, severity, lesion_size=[0.9, 0.1, 0.5, 0.2, 0.6, 0.8]))
    assert found["value"].tolist() == ["small", "medium", "large"]
    nothing = slice_values(pd.Series([np.nan] * 3), terciles=("small", "medium", "large"))
    assert nothing.isna().all()


def test_rare_values_are_put_together():
    sizes = pd.Series(["3112 x 3456"] * 97 + ["10 x 10", "20 x 20", "30 x 30"])
    assert slice_values(sizes).value_counts().to_dict() == {"3112 x 3456": 97, OTHERS: 3}
    severity = ["mild", "severe"] * 50
    found = slice_figures(predictions(severity, severity, photo_size=sizes))
    assert found["value"].tolist() == ["3112 x 3456", OTHERS]


def test_numbers_that_a_file_has_made_of_whole_ones_are_whole():
    assert slice_values(pd.Series([1.0, 2.0, np.nan])).dropna().tolist() == ["1", "2"]
    assert slice_values(pd.Series([True, False])).tolist() == ["yes", "no"]


def test_few_people_have_no_interval():
    severity = ["mild", "severe", "mild", "severe"] * 7
    found = slice_figures(predictions(severity, severity[::-1], camera=["a"] * 14 + ["b"] * 14))
    assert found["num_subjects"].tolist() == [7, 7] and found["balanced_accuracy_low"].isna().all()


def test_of_several_seeds_a_slice_has_the_mean():
    severity, camera = ["mild", "severe"] * 40, ["a", "a", "b", "b"] * 20
    good, bad = (predictions(severity, grades, camera=camera) for grades in (severity, ["mild"] * 80))
    part = slices_of(good)[0]
    both = figures_of_slice([good, bad], part)
    assert (both["balanced_accuracy"], both["accuracy"], both["num_images"]) == (0.75, 0.75, 40)
    elsewhere = bad.where((bad.frame["camera"] != part.value).to_numpy())
    assert figures_of_slice([good, elsewhere], part)["accuracy"] == 1 and figures_of_slice([elsewhere], part) is None
