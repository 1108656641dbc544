from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.data.splits import FRACTIONS, apportion, share_of_each, subject_severity, subject_split

CLASSES = ["mild", "moderate", "severe", "very_severe"]
photographs = st.lists(
    st.tuples(st.integers(0, 40).map("p{}".format), st.sampled_from(CLASSES)), min_size=1, max_size=120
).map(lambda pairs: pd.DataFrame(pairs, columns=["subject", "severity"]))
some_fractions = st.sampled_from(
    [dict(FRACTIONS), {"train": 0.875, "val": 0.125}, {"train": 0.98, "val": 0.01, "test": 0.01}]
)


@settings(max_examples=150, deadline=None)
@given(rows=photographs, fractions=some_fractions, seed=st.integers(0, 5), order=st.randoms())
def test_split_properties(rows, fractions, seed, order):
    split = subject_split(rows, fractions=fractions, seed=seed)
    assert set(split) <= set(fractions)
    # No subject is in two parts.
    assert pd.Series(split).groupby(rows["subject"]).nunique().max() == 1
    # A severity with enough subjects is in every part.
    severity_of = subject_severity(rows)
    parts_of = {name: set() for name in CLASSES}
    for subject, part in zip(rows["subject"], split):
        parts_of[severity_of[subject]].add(part)
    for name, number in Counter(severity_of).items():
        assert len(parts_of[name]) == len(fractions) or number < len(fractions)
    # Independent of the row order.
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    np.testing.assert_array_equal(subject_split(rows.iloc[shuffled], fractions=fractions, seed=seed), split[shuffled])


@settings(max_examples=50, deadline=None)
@given(number=st.integers(3, 60), seed=st.integers(0, 3))
def test_a_class_of_one_photograph_a_subject_is_in_every_part(number, seed):
    rows = pd.DataFrame({"subject": [f"s{index}" for index in range(number)], "severity": "severe"})
    assert set(subject_split(rows, seed=seed)) == {"train", "val", "test"}


def test_fractions_are_kept_within_each_severity():
    rows = pd.DataFrame(
        {"subject": [str(index) for index in range(400)], "severity": ["mild"] * 300 + ["severe"] * 100}
    )
    split = subject_split(rows, seed=0)
    assert Counter(split[:300]) == {"train": 210, "val": 30, "test": 60}
    assert Counter(split[300:]) == {"train": 70, "val": 10, "test": 20}


def test_another_seed_is_another_split_and_the_same_seed_the_same():
    rows = pd.DataFrame({"subject": [str(index) for index in range(50)], "severity": "mild"})
    assert (subject_split(rows, seed=0) == subject_split(rows, seed=0)).all()
    assert (subject_split(rows, seed=0) != subject_split(rows, seed=1)).any()


def test_a_subject_counts_for_its_rarest_severity():
    rows = pd.DataFrame({"subject": ["a", "a", "a", "b", "c"], "severity": ["mild", "mild", "severe", "mild", "mild"]})
    assert subject_severity(rows).to_dict() == {"a": "severe", "b": "mild", "c": "mild"}


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (10, (7, 1, 2))],
)
def test_apportion(number, sizes):
    assert tuple(apportion(number, FRACTIONS).values()) == sizes


@pytest.mark.parametrize("fractions", [{}, {"train": 1.2, "test": -0.2}, {"train": 0.5, "test": 0.2}])
def test_wrong_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        subject_split(pd.DataFrame({"subject": ["a"], "severity": ["mild"]}), fractions=fractions, seed=0)


def test_a_part_with_share_0_stays_empty():
    rows = pd.DataFrame({"subject": list("abcd"), "severity": ["mild"] * 4})
    assert set(subject_split(rows, fractions={"train": 1.0, "test": 0.0}, seed=0)) == {"train"}


def test_a_share_of_each_person():
    """Rounded down, never all of somebody, nobody whose name is not known, whatever the order of the rows."""
    subjects = ["a"] * 5 + ["b"] * 2 + ["c"] + [""] * 4
    rows = pd.DataFrame({"subject": subjects, "file_name": [f"{i}.jpg" for i in range(len(subjects))]})
    taken = share_of_each(rows, share=0.5)
    assert rows[taken]["subject"].value_counts().to_dict() == {"a": 2, "b": 1}
    shuffled = rows.sample(frac=1, random_state=0)
    assert set(shuffled[share_of_each(shuffled, share=0.5)]["file_name"]) == set(rows[taken]["file_name"])
    assert rows[share_of_each(rows, share=0.99)]["subject"].value_counts().to_dict() == {"a": 4, "b": 1}
