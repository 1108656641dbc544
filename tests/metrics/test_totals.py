import numpy as np
import pandas as pd
import pytest
from graded import BANDS, CLASSES, drawn, said
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.totals import flat, totals_by_person


def people(predictions):
    return sorted(set(predictions.people))


def repeated(predictions, weights):
    """Every person's images as often as the weight says."""
    times = dict(zip(people(predictions), weights))
    frame = predictions.frame
    copies = [frame[[times[name] > k for name in predictions.people]] for k in range(max(weights))]
    copies = [copy.assign(file_name=f"{k} " + copy["file_name"]) for k, copy in enumerate(copies)]
    return Predictions(pd.concat(copies), predictions.classes, predictions.decision, predictions.bands)


def check_equal(fast, reference):
    assert fast.keys() == reference.keys()
    for name, value in reference.items():
        if value is None:
            assert np.isnan(fast[name]), name
        else:
            assert fast[name] == pytest.approx(value, abs=2e-6), name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from([Decision(), Decision(1.7, (1, 1, 2, 3))]))
def test_any_weights_are_that_many_copies(seed, decision):
    """Every figure of weighed people against `grading.figures`, which takes torchmetrics', of the copied images."""
    given = drawn(seed, num_people=12, decision=decision)
    weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=3)
    fast = totals_by_person(given, people(given)).weighed(weights.astype(float)).figures()
    for i, row in enumerate(weights):
        check_equal({name: values[i] for name, values in fast.items()}, flat(figures(repeated(given, row))))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_few_images_missing_classes_and_certain_grades(pairs):
    """Where figures are not defined, and where a confidence is exactly 1."""
    given = said(*map(list, zip(*pairs)))
    fast = totals_by_person(given, people(given)).weighed(np.ones(len(pairs))).figures()
    check_equal(fast, flat(figures(given)))


@pytest.mark.parametrize("confidence", [k / 15 for k in range(4, 16)])
def test_confidences_on_the_edge_of_a_bin(confidence):
    frame = said([0, 1, 0], [0, 0, 0]).frame
    rest = (1 - confidence) / 3
    frame[[f"p_{name}" for name in CLASSES]] = [[confidence, rest, rest, rest]] * 2 + [[0.5, 0.5, 0, 0]]
    given = Predictions(frame, CLASSES, bands=BANDS)
    check_equal(totals_by_person(given, people(given)).weighed(np.ones(3)).figures(), flat(figures(given)))


def test_people_who_are_on_no_image_add_nothing():
    given = drawn(0)
    names = sorted([*people(given), "nobody", "aaron"])
    totals = totals_by_person(given, names)
    assert not totals.values[[0, names.index("nobody")]].any()
    check_equal(totals.weighed(np.ones(len(names))).figures(), flat(figures(given)))


def test_how_many_people_tell_a_figure():
    given = said([0, 0, 1, 1, 3], [0] * 5, subjects=["a", "b", "b", "b", "c"], count=[1, np.nan, 9, 9, 60])
    totals = totals_by_person(given, people(given))
    assert totals.num_people("youden").tolist() == [2, 1, 0, 1]
    assert totals.num_people("recall.mild").tolist() == [2, 0, 0, 0]
    assert totals.num_people("grade_from_count.balanced_accuracy").tolist() == [1, 1, 0, 1]
    assert totals.num_people("accuracy").tolist() == [0]
