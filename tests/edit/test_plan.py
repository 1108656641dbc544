"""Plans of a balanced table: exact counts, fair shares, and a clear no where there is not enough."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from acne_lab.data.splits import subject_split
from acne_lab.edit.plan import bands_of, class_counts, deficits, fillable_classes, plan_edits, plan_text, tone_of

CLASSES = ("mild", "moderate", "severe", "very_severe")
ACNE04 = {"mild": 513, "moderate": 633, "severe": 182, "very_severe": 129}
BANDS = {"mild": (0, 5), "moderate": (6, 20), "severe": (21, 50), "very_severe": (51, 65)}


def photographs(counts, *, photos_per_person=2, num_tones=6, seed=0):
    """Rows of a table with these counts, split by subject 70 / 10 / 20."""
    rng = np.random.default_rng(seed)
    severities = rng.permutation(np.repeat(list(counts), list(counts.values())))
    people = np.arange(len(severities)) // photos_per_person
    rows = pd.DataFrame(
        {
            "file_name": [f"images/levle{CLASSES.index(s)}_{3 * i}.jpg" for i, s in enumerate(severities)],
            "severity": severities,
            "lesions": [int(rng.integers(BANDS[s][0], BANDS[s][1] + 1)) for s in severities],
            "subject": [f"person-{k}" for k in people],
            "source": "real",
            "skin_tone": people % num_tones + 1,
        }
    )
    rows["lesions"] = rows["lesions"].astype("Int64")
    return rows.assign(split=subject_split(rows, fractions={"train": 0.7, "val": 0.1, "test": 0.2}, seed=0))


def edits_of(plan):
    return plan[~plan["is_spare"]]


def test_the_published_table():
    """513 / 633 / 182 + 218 / 129 + 271, counted over the whole table and made from its training rows."""
    rows = photographs(ACNE04)
    counts = class_counts(rows, CLASSES, count="all")
    lacking = deficits(counts, fillable=CLASSES[1:], targets={"severe": 400, "very_severe": 400})
    assert lacking == {"severe": 218, "very_severe": 271}
    plan = plan_edits(rows, CLASSES, lacking, seed=0)
    edits = edits_of(plan)
    assert edits["severity"].value_counts().to_dict() == {"very_severe": 271, "severe": 218}
    assert set(edits["source_severity"]) <= {"mild", "moderate", "severe"}
    assert set(edits.loc[edits["severity"] == "severe", "source_severity"]) == {"mild", "moderate"}
    sources = rows.set_index("file_name").loc[plan["file_name"]]
    assert (sources["split"] == "train").all()
    assert plan["file_name"].is_unique
    assert len(plan) > 489 + 200  # spares

    text = plan_text(counts, lacking, plan).splitlines()
    assert [line.split()[:4] for line in text[1:5]] == [
        ["mild", "513", "0", "513"],
        ["moderate", "633", "0", "633"],
        ["severe", "182", "218", "400"],
        ["very_severe", "129", "271", "400"],
    ]
    assert text[5].startswith("489 edits of 489 photographs")


def test_counts_of_training_rows():
    rows = photographs(ACNE04)
    counts = class_counts(rows, CLASSES, count="train")
    assert counts == rows[rows["split"] == "train"]["severity"].value_counts().to_dict()
    with pytest.raises(ValueError, match=r"balance\.count must be all, train or none"):
        class_counts(rows, CLASSES, count="test")


def test_other_policies():
    milder = CLASSES[1:]
    assert deficits(ACNE04, fillable=milder, ratio=1) == {"severe": 451, "very_severe": 504}
    assert deficits(ACNE04, fillable=milder, ratio=0.5) == {"severe": 135, "very_severe": 188}  # 316.5: at least
    assert deficits({"mild": 30, "severe": 1}, fillable=["severe"], ratio=0.1) == {"severe": 2}
    assert deficits(ACNE04, fillable=CLASSES, ratio=1) == {"mild": 120, "severe": 451, "very_severe": 504}
    # very severe rises to severe (53), then both by turns, the more severe one first
    assert deficits(ACNE04, fillable=milder, budget=60) == {"severe": 3, "very_severe": 57}
    assert deficits(ACNE04, fillable=milder, budget=40) == {"very_severe": 40}
    assert deficits(ACNE04, fillable=milder, targets={"severe": 200, "very_severe": None}) == {"severe": 18}


@given(
    st.lists(st.integers(0, 60), min_size=4, max_size=4),
    st.integers(1, 80),
)
def test_a_budget_is_spent_and_levels(numbers, budget):
    counts = dict(zip(CLASSES, numbers))
    lacking = deficits(counts, fillable=CLASSES, budget=budget)
    assert sum(lacking.values()) == budget
    filled = [counts[name] + n for name, n in lacking.items()]
    assert max(filled) - min(filled) <= 1
    assert all(counts[name] >= max(filled) - 1 for name in set(CLASSES) - set(lacking))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "exactly one of"),
        ({"ratio": 1, "budget": 3}, "exactly one of"),
        ({"targets": {"worst": 4}}, "names worst, but the classes are mild"),
        ({"targets": {"mild": 600}}, "more mild images, and nothing may be made into them"),
        ({"targets": {"severe": 182, "mild": 5}}, "nothing to add: the table has mild 513"),
        ({"ratio": 1.5}, "share of the largest class"),
        ({"budget": 0}, "nothing to add"),
    ],
)
def test_impossible_policies(policy, message):
    with pytest.raises(ValueError, match=message):
        deficits(ACNE04, fillable=CLASSES[1:], **policy)


@pytest.mark.parametrize("policy", [{"budget": 3}, {"ratio": 1}, {"targets": {"severe": 400}}])
@pytest.mark.parametrize("sources", [{}, {"severe": []}])
def test_no_class_can_be_filled(policy, sources):
    with pytest.raises(ValueError, match=r"for no class: let balance\.sources .* mild, moderate"):
        deficits(ACNE04, fillable=fillable_classes(CLASSES, sources), **policy)


def test_sources():
    assert fillable_classes(CLASSES, "lower")["severe"] == ["mild", "moderate"]
    assert "mild" not in fillable_classes(CLASSES, "lower")
    assert fillable_classes(CLASSES, "same") == {name: [name] for name in CLASSES}
    assert fillable_classes(CLASSES, "lower_or_same")["moderate"] == ["mild", "moderate"]
    assert fillable_classes(CLASSES, {"severe": ["moderate"]}) == {"severe": ["moderate"]}
    with pytest.raises(ValueError, match=r"balance\.sources must be lower, same, lower_or_same or a mapping"):
        fillable_classes(CLASSES, "higher")
    with pytest.raises(ValueError, match=r"balance\.sources names bad"):
        fillable_classes(CLASSES, {"severe": ["bad"]})


def test_too_few_sources():
    """The arithmetic is in the message, and the remedy in it works."""
    rows = photographs({"mild": 20, "moderate": 20, "severe": 10, "very_severe": 5})
    num_sources = int((rows["severity"].isin(["mild", "moderate"]) & (rows["split"] == "train")).sum())
    lacking = {"severe": 2 * num_sources + 1}
    with pytest.raises(ValueError, match=rf"{num_sources} training photographs.*balance\.max_per_source=3"):
        plan_edits(rows, CLASSES, lacking, max_per_source=2)
    assert edits_of(plan_edits(rows, CLASSES, lacking, max_per_source=3)).shape[0] == 2 * num_sources + 1
    with pytest.raises(ValueError, match=r"0 training photographs can be their sources.*let more classes"):
        plan_edits(rows, CLASSES, {"mild": 1})
    with pytest.raises(ValueError, match="at least 1"):
        plan_edits(rows, CLASSES, lacking, max_per_source=0)


def test_only_photographs_with_a_count_are_sources():
    rows = photographs({"mild": 40, "moderate": 40, "severe": 10, "very_severe": 5})
    uncounted = rows.index % 2 == 0
    drawn = rows.index % 3 == 0
    plan = plan_edits(
        rows.assign(lesions=rows["lesions"].mask(uncounted), source=np.where(drawn, "generated", "real")),
        CLASSES,
        {"severe": 5},
    )
    assert not set(plan["file_name"]) & set(rows.loc[uncounted | drawn, "file_name"])
    with pytest.raises(ValueError, match=r"give metadata\.csv a column lesions"):
        plan_edits(rows.assign(lesions=pd.NA), CLASSES, {"severe": 5})


def test_bands_need_four_classes():
    assert bands_of(CLASSES) == {"mild": (0, 5), "moderate": (6, 20), "severe": (21, 50), "very_severe": (51, None)}
    with pytest.raises(ValueError, match="this table has 2 classes: mild, severe"):
        bands_of(["mild", "severe"])


def test_counts_follow_those_of_the_severity():
    """Drawn from the training photographs of the grade: here all of them have 30 or 44 lesions."""
    rows = photographs(ACNE04)
    severe = rows["severity"] == "severe"
    rows.loc[severe, "lesions"] = np.where(np.arange(severe.sum()) % 4, 30, 44)
    edits = edits_of(plan_edits(rows, CLASSES, {"severe": 218}))
    after = edits["lesions_before"] + edits["num_added"]
    assert set(after) == {30, 44}
    assert 0.6 < (after == 30).mean() < 0.9
    # Where nobody has the grade, the whole band is drawn from.
    none_severe = rows[~severe | (rows["split"] != "train")]
    spread = edits_of(plan_edits(none_severe, CLASSES, {"severe": 218}))
    assert (spread["lesions_before"] + spread["num_added"]).between(21, 50).all()
    assert (spread["lesions_before"] + spread["num_added"]).nunique() > 20


def test_people_and_tones_take_turns():
    rows = photographs({"mild": 120, "moderate": 120, "severe": 20, "very_severe": 20}, photos_per_person=4)
    sources = rows[rows["severity"].isin(["mild", "moderate"]) & (rows["split"] == "train")]
    num_people = sources["subject"].nunique()
    edits = edits_of(plan_edits(rows, CLASSES, {"severe": num_people}, max_per_source=3))
    assert edits["subject"].is_unique
    assert edits["file_name"].is_unique
    few = edits_of(plan_edits(rows, CLASSES, {"severe": 12}))["tone"].value_counts()
    assert set(few) == {2}
    assert len(few) == 6
    twice = edits_of(plan_edits(rows, CLASSES, {"severe": len(sources) + 5}, max_per_source=2))
    assert twice["file_name"].value_counts().value_counts().to_dict() == {1: len(sources) - 5, 2: 5}


def test_tone_of():
    assert tone_of(pd.Series({"skin_tone": 4})) == "4"
    assert tone_of(pd.Series({"skin_tone": None})) == ""


@st.composite
def problems(draw):
    """A small table and what it lacks, possible or not."""
    counts = {name: draw(st.integers(1, 12)) for name in CLASSES}
    rows = photographs(counts, photos_per_person=draw(st.integers(1, 3)), seed=draw(st.integers(0, 99)))
    rows["split"] = draw(st.lists(st.sampled_from(["train", "train", "test"]), min_size=len(rows), max_size=len(rows)))
    names = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
    lacking = {name: draw(st.integers(1, 14)) for name in names}
    subsets = st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True)
    mappings = st.fixed_dictionaries(dict.fromkeys(names, subsets))
    sources = draw(st.sampled_from(["lower", "same", "lower_or_same"]) | mappings)
    return (
        rows,
        lacking,
        {"sources": sources, "max_per_source": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 9))},
    )


def is_possible(rows, lacking, sources, max_per_source):
    """Whether a flow from photographs to severities exists, by linear programming (its matrix is unimodular)."""
    photos = rows[rows["split"] == "train"]
    allowed = fillable_classes(CLASSES, sources)
    most = {name: photos.loc[photos["severity"] == name, "lesions"].max() for name in lacking}
    most = {n: BANDS[n][1] if pd.isna(m) or m == BANDS[n][0] else m for n, m in most.items()}
    pairs = [
        (i, name)
        for i, (_, photo) in enumerate(photos.iterrows())
        for name in lacking
        if photo["severity"] in allowed.get(name, ()) and photo["lesions"] < most[name]
    ]
    if not pairs:
        return False
    use = np.array([[j == i for j, _ in pairs] for i in range(len(photos))], dtype=float)
    fill = np.array([[n == name for _, n in pairs] for name in lacking], dtype=float)
    wanted = list(lacking.values())
    limits = {"A_ub": use, "b_ub": [max_per_source] * len(photos), "A_eq": fill, "b_eq": wanted}
    return linprog(np.zeros(len(pairs)), **limits).status == 0


@settings(max_examples=60, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_every_plan(problem, random):
    """A plan exists where one is possible at all; every edit keeps the rules; row order changes nothing."""
    rows, lacking, options = problem
    possible = is_possible(rows, lacking, options["sources"], options["max_per_source"])
    if not possible:
        with pytest.raises(ValueError, match="are wanted, but"):
            plan_edits(rows, CLASSES, lacking, **options)
        return
    plan = plan_edits(rows, CLASSES, lacking, **options)
    order = list(range(len(rows)))
    random.shuffle(order)
    pd.testing.assert_frame_equal(plan, plan_edits(rows.iloc[order], CLASSES, lacking, **options))

    assert edits_of(plan)["severity"].value_counts().to_dict() == lacking
    assert plan["file_name"].value_counts().max() <= options["max_per_source"]
    assert plan["seed"].is_unique
    assert (plan["num_added"] >= 1).all()
    allowed = fillable_classes(CLASSES, options["sources"])
    by_name = rows.set_index("file_name")
    for edit in plan.itertuples():
        photo = by_name.loc[edit.file_name]
        assert photo["split"] == "train"
        assert (photo["lesions"], photo["subject"]) == (edit.lesions_before, edit.subject)
        assert edit.source_severity == photo["severity"] in allowed[edit.severity]
        low, high = BANDS[edit.severity]
        assert low <= edit.lesions_before + edit.num_added <= high
    for name, group in plan.groupby("severity"):
        assert sorted(group["number"]) == list(range(len(group)))
        assert (group["is_spare"] == (group["number"] >= lacking[name])).all()
