"""The verdict on edits: against what the same photographs had before, in every case."""

import pytest

from acne_lab.report.realism import verdict


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("auc", "before", "excess", "said"),
    [
        (figure(0.9, 0.8, 1.0), figure(0.6, 0.4, 0.8), figure(0.3, 0.1, 0.5), "can be told apart, and by more than"),
        (figure(0.8, 0.6, 0.9), figure(0.8, 0.6, 0.9), figure(0.0, -0.1, 0.1), "finds no more in the edits"),
        (figure(0.5, 0.4, 0.6), figure(0.3, 0.1, 0.4), figure(0.2, 0.1, 0.3), "finds no more in the edits"),
        (figure(0.5, 0.4, 0.6), figure(0.8, 0.7, 0.9), figure(-0.3, -0.4, -0.2), "nearer to the real ones"),
        (
            figure(0.99, 0.98, 1.0),
            figure(0.98, 0.9, 1.0),
            figure(0.01, -0.1, 0.1),
            "Nothing can be said about the edit",
        ),
    ],
)
def test_an_edit_is_judged_against_the_unedited(auc, before, excess, said):
    told = verdict({"auc": auc, "auc_unedited": before, "auc_excess": excess})
    assert said in told and f"{excess['low']:+.2f} to {excess['high']:+.2f}" in told


def test_without_lesions_of_their_own_no_edit_is_blamed():
    told = verdict({"auc": figure(0.9, 0.8, 1.0)})
    assert "does not hold 0.5" in told and "nothing says how much of it is the edit" in told
