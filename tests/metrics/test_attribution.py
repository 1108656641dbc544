"""Hit rates: of maps and boxes for which they are known, and of looks that only seem to see lesions."""

import numpy as np
import pytest

from acne_lab.metrics.attribution import (
    DILATION,
    SIDE,
    Hits,
    coverage,
    enlarged,
    hit_rate,
    hits,
    hits_elsewhere,
    pointing_rate,
)


def test_coverage_is_the_area_of_boxes_with_their_rims():
    box = np.array([[0.25, 0.5, 0.25 + 1 / DILATION / 4, 0.5 + 1 / DILATION / 8]])  # with its rim 1/4 x 1/8
    assert coverage(box).mean() == pytest.approx(1 / 32, rel=0.02)
    assert coverage(np.concatenate([box, box])).mean() == coverage(box).mean()  # of the union
    rows, columns = np.nonzero(coverage(box) > 0.5)
    middle = (columns.mean() + 0.5) / SIDE, (rows.mean() + 0.5) / SIDE
    assert middle == pytest.approx((0.25 + 1 / 12, 0.5 + 1 / 24), abs=0.5 / SIDE)


def test_boxes_beyond_the_square_cover_what_is_left_of_them():
    assert not coverage(np.array([[1.2, 0, 1.4, 0.2], [-0.4, -0.4, -0.2, -0.2]])).any()
    edge = coverage(np.array([[-1, -1, 1, 1]]) * 0.2)  # a rim of 0.1: up to 0.3
    assert edge.mean() == pytest.approx(0.3**2, rel=0.02)
    assert coverage(np.empty((0, 4))).sum() == 0
    assert coverage(np.array([[0.5, 0.5, 0.5, 0.5]])).any()  # a lesion without extent is a lesion


def test_enlarged_maps_keep_their_places():
    small = np.zeros((1, 4, 4), np.float32)
    small[0, 1, 3] = 1
    large = enlarged(small)[0]
    middle = np.argwhere(large == large.max()).mean(axis=0) / SIDE
    assert middle[0] == pytest.approx(1.5 / 4, abs=0.01) and middle[1] > 3.5 / 4
    assert large.sum() / SIDE**2 == pytest.approx(small.mean())


def test_an_even_map_is_chance_and_a_map_of_the_lesions_is_all_there_is():
    on = np.stack([coverage(np.array([box])) for box in ([0.2, 0.2, 0.3, 0.3], [0.6, 0.5, 0.65, 0.55])])
    people = ["a", "b"]
    even = hits(np.full((2, SIDE, SIDE), 0.3), on)
    assert hit_rate(even, people).value == pytest.approx(1)
    assert even.inside == pytest.approx(even.area)
    exact = hits((on == 1).astype(float), on)
    assert exact.inside == pytest.approx([1, 1]) and exact.pointed.tolist() == [1, 1]
    assert hit_rate(exact, people).value == pytest.approx(2 / on.mean(axis=(1, 2)).sum())
    away = hits((on == 0).astype(float), on)
    assert hit_rate(away, people).value == 0 and pointing_rate(away, people).value == 0


def test_a_map_of_nothing_has_no_rate_and_counts_for_none():
    on = np.stack([coverage(np.array([[0.2, 0.2, 0.3, 0.3]]))] * 3)
    maps = np.ones((3, SIDE, SIDE))
    maps[1] = 0
    found = hits(maps, on)
    assert np.isnan(found.inside).tolist() == np.isnan(found.pointed).tolist() == [False, True, False]
    assert hit_rate(found, ["a", "b", "c"]).value == pytest.approx(1)
    assert pointing_rate(found, ["a", "b", "c"]).value == 0


def test_looking_where_lesions_usually_are_is_no_more_than_that():
    """All look at the same place: whose lesions lie there does not matter, so own and others' come out alike."""
    rng = np.random.default_rng(0)
    boxes = [np.array([(*c, *(c + 0.04)) for c in rng.uniform(0.3, 0.6, (12, 2))]) for _ in range(30)]
    on, people = np.stack([coverage(each) for each in boxes]), [str(k // 2) for k in range(30)]
    face = np.zeros((30, SIDE, SIDE))
    face[:, 35:80, 35:80] = 1
    own, others = hits(face, on), hits_elsewhere(face, on, ["severe"] * 30, people)
    assert hit_rate(own, people).value > 3
    beyond = hit_rate(own, people).over(hit_rate(others, people)).interval
    assert beyond.low < 1 < beyond.high and beyond.high - beyond.low < 0.1
    seen = hits(on.astype(float), on)  # and who sees the lesions hits more of their own
    beyond = hit_rate(seen, people).over(hit_rate(hits_elsewhere(on, on, ["severe"] * 30, people), people)).interval
    assert beyond.low > 2


def test_lesions_elsewhere_are_of_other_people_of_the_same_group():
    on = np.stack([coverage(np.array([box])) for box in ([0.1, 0.1, 0.2, 0.2], [0.7, 0.7, 0.8, 0.8])] * 2)
    on = np.concatenate([on, on[:1]])
    groups, people = ["mild", "mild", "mild", "severe", "none"], ["a", "b", "a", "c", "d"]
    found = hits_elsewhere((on > 0).astype(float), on, groups, people)
    assert found.inside[0] == 0 and found.inside[1] == 0  # a has b's lesions, and not those of a's other photograph
    assert np.isnan(found.inside[3:]).all() and np.isnan(found.area[3:]).all() and np.isnan(found.pointed[3:]).all()


def test_intervals_hold_by_people():
    """Ten photographs of one person say as much as one: the interval is that of the people."""
    inside, area = np.array([0.2, 0.4, 0.3, 0.1]), np.full(4, 0.1)
    few = hit_rate(Hits(inside, area, inside), list("abcd")).interval
    each = [values.repeat(10) for values in (inside, area, inside)]
    many = hit_rate(Hits(*each), np.repeat(list("abcd"), 10)).interval
    assert (few.value, few.low, few.high) == pytest.approx((many.value, many.low, many.high))
    assert few.value == pytest.approx(2.5)
