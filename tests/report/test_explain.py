"""The page's words: a verdict in every case, and what stands beside a picture."""

import numpy as np
import pandas as pd
import pytest

from acne_lab.report.attribution import heat_picture
from acne_lab.report.explain import chosen_rows, label, verdict, with_interval


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("rate", "beyond", "told"),
    [
        (figure(3.0, 2.5, 3.5), figure(1.4, 1.2, 1.6), "It follows the lesions of each photograph"),
        (figure(3.0, 2.5, 3.5), figure(1.1, 0.9, 1.3), "that it sees them is not shown"),
        (figure(3.0, 2.5, 3.5), None, "Nobody else has this severity"),
        (figure(1.2, 0.9, 1.5), figure(1.4, 1.2, 1.6), "not told apart from chance"),
        (figure(0.6, 0.5, 0.7), figure(0.9, 0.8, 1.2), "less than by chance"),
        (figure(3.0, None, None), None, "no verdict"),
    ],
)
def test_a_verdict_says_no_more_than_the_figures(rate, beyond, told):
    found = {"hit_rate": rate, "num_subjects": 5} | ({"beyond_elsewhere": beyond} if beyond else {})
    assert told in verdict(found)


def test_a_figure_without_an_interval_says_so():
    assert with_interval(figure(0.5, None, None), "{:.0%}") == ("50%", "no interval")
    assert with_interval(figure(0.5, 0.25, 0.75), "{:.0%}") == ("50%", "25% to 75%")
    assert with_interval(None, "{:.2f}") == ("", "")


def test_labels_tell_what_the_grader_said_and_hit():
    row = {"predicted": "mild", "confidence": 0.5, "right": True, "lesions": 3}
    assert label({**row, "severity_inside": 0.3, "area": 0.1, "severity_pointed": 1.0}) == [
        "mild, 0.50",
        "3 lesions",
        "hit rate 3.0",
        "cross on a lesion",
    ]
    assert label({**row, "severity_inside": np.nan, "area": 0.1})[-1] == "nothing raises it"
    assert label({**row, "lesions": None}) == ["mild, 0.50"]  # nobody has located or counted them
    assert label({**row, "lesions": 0, "severity_inside": np.nan, "area": np.nan}) == ["mild, 0.50", "0 lesions"]


def test_heat_lies_where_the_attribution_is():
    photo = np.full((32, 32, 3), 100, np.uint8)
    attribution = np.zeros((16, 16))
    attribution[4, 12] = 2.5
    plain, heat = (
        np.asarray(heat_picture(photo, each, np.empty((0, 4)), side=64)).astype(int) for each in (None, attribution)
    )
    assert (plain == 100).all()
    assert (heat[40:] == heat[40, 0]).all() and heat[40, 0].tolist() == [62, 62, 62]  # gray where there is none
    warm = heat[..., 0] - heat[..., 2]
    y, x = np.unravel_index(warm.argmax(), warm.shape)
    assert abs(x - 50) <= 5 and abs(y - 18) <= 5


def test_nothing_is_drawn_of_a_map_of_nothing_and_lesions_are_outlined():
    photo = np.full((32, 32, 3), 100, np.uint8)
    empty = np.asarray(heat_picture(photo, np.zeros((16, 16)), np.empty((0, 4)), side=64))
    assert (empty == 62).all()
    boxes = np.array([[0.4, 0.4, 0.6, 0.6]])
    outlined = np.asarray(heat_picture(photo, np.zeros((16, 16)), boxes, side=128))
    drawn = np.argwhere((outlined != 62).any(axis=2))
    assert drawn.mean(axis=0) == pytest.approx((63.5, 63.5), abs=1)
    assert drawn.min() < 0.4 * 128 and (outlined[60:68, 60:68] == 62).all()  # around the lesion, not on it


def test_pictures_are_spread_over_severities_and_outcomes():
    rows = pd.DataFrame({"severity": ["a"] * 5 + ["b"] * 2, "right": [True] * 4 + [False] + [True, False]})
    assert sorted(chosen_rows(rows, 2)) == [0, 3, 4, 5, 6]
    assert chosen_rows(rows, 0) == []
