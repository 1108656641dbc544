"""The rules of lineage, on random people, tables and ancestries."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.data.lineage import (
    COLUMNS,
    Lineage,
    check_parents,
    check_table,
    leaked_rows,
    require_held_out,
    require_unseen,
)
from acne_lab.data.splits import subject_split
from acne_lab.data.table import ImageTable


def table_of(root, rows: list[dict], **report) -> ImageTable:
    """Rows of {subject, split, sha256, source}; the rest does not matter here."""
    defaults = {"severity": "mild", "lesions": None, "source": "real", "parent": ""}
    named = [{**defaults, "file_name": f"images/{i:04d}.png", **row} for i, row in enumerate(rows)]
    columns = ["file_name", "severity", "lesions", "subject", "split", "source", "parent", "sha256"]
    return ImageTable(root=root, rows=pd.DataFrame(named, columns=columns), classes=("mild",), report=report)


def photos(*rows: tuple[str, str, str]) -> list[dict]:
    """(subject, split, sha256) -> rows."""
    return [dict(zip(("subject", "split", "sha256"), row, strict=True)) for row in rows]


def seen(*rows: tuple[str, str, str], known: bool = True) -> Lineage:
    return Lineage(pd.DataFrame(rows, columns=list(COLUMNS)), known=known)


def refused(test: ImageTable, lineage: Lineage, *, table: ImageTable, allow: bool = False) -> str:
    """The message of the refusal, or ""."""
    try:
        require_unseen(test, lineage, table=table, allow_unknown_parents=allow, what="this grader")
    except ValueError as error:
        return str(error)
    return ""


# ---- what a lineage is


@pytest.mark.parametrize("known", [True, False])
def test_a_file_gives_back_what_was_written(tmp_path, known):
    lineage = seen(("toy-0", "NA", "a"), ("", "007", "b"), ("toy-1000", 'a,"b', ""), known=known)
    lineage.write(tmp_path)
    again = Lineage.read(tmp_path)
    pd.testing.assert_frame_equal(again.rows, lineage.rows)
    assert again.known is known
    assert [path.name for path in tmp_path.iterdir()] == ["lineage.csv"]


def test_no_file_is_an_unknown_lineage_and_a_foreign_one_is_an_error(tmp_path):
    assert (len(Lineage.read(tmp_path)), Lineage.read(tmp_path).known) == (0, False)
    (tmp_path / "lineage.csv").write_text("name\nann\n")
    with pytest.raises(ValueError, match="population, subject, sha256"):
        Lineage.read(tmp_path)


def test_merging_unites_photographs_and_one_unknown_part_makes_all_unknown():
    one, other = seen(("p", "s", "a")), seen(("p", "s", "a"), ("p", "t", "b"), known=False)
    assert Lineage.merged(one, other).rows["sha256"].tolist() == ["a", "b"]
    assert not Lineage.merged(one, other).known
    assert Lineage.merged(one).known
    assert (len(Lineage.merged()), Lineage.merged().known) == (0, True)


def test_made_rows_have_the_lineage_of_their_tables_file(tmp_path):
    made = {"subject": "generated-0", "split": "train", "sha256": "g", "source": "generated"}
    table = table_of(tmp_path, [*photos(("s", "train", "a")), made], population="p")
    assert not Lineage.of(table).known
    seen(("p", "t", "b")).write(tmp_path)
    lineage = Lineage.of(table)
    assert lineage.known
    assert lineage.rows.to_numpy().tolist() == [["p", "s", "a"], ["p", "t", "b"]]


def test_a_table_that_says_so_has_unknown_parents(tmp_path):
    assert not Lineage.of(table_of(tmp_path, photos(("s", "train", "a")), unknown_parents=True)).known


# ---- rules 1 and 2


def test_a_subject_in_two_parts_is_named_and_published_folds_may_have_it(tmp_path):
    rows = photos(("ann", "train", "a"), ("ann", "test", "b"), ("ben", "test", "c"))
    with pytest.raises(
        ValueError, match=r"1 subject\(s\)(?s:.*)ann: images/0000.png \(train\)(?s:.*)prepare the table again with "
    ) as error:
        check_table(table_of(tmp_path, rows))
    assert "ben" not in str(error.value)
    check_table(table_of(tmp_path, rows, protocol="official"))


@pytest.mark.parametrize("source", ["generated", "edited"])
def test_made_images_never_test(tmp_path, source):
    rows = [row | {"source": source} for row in photos(("g0", "val", "a"), ("g1", "test", "b"))]
    with pytest.raises(ValueError, match=r"1 generated or edited image(?s:.*)images/0001.png"):
        check_table(table_of(tmp_path, rows, protocol="official"))
    check_table(table_of(tmp_path, rows[:1]))


@pytest.mark.parametrize(
    ("parent", "subject"), [("images/0001.png", "ben"), ("images/0001.png", "else"), ("images/0000.png", "else")]
)
def test_a_made_row_has_a_training_parent_of_its_own_subject(tmp_path, parent, subject):
    rows = photos(("ann", "train", "a"), ("ben", "test", "b"))
    made = {"subject": "ann", "split": "train", "sha256": "c", "source": "edited", "parent": "images/0000.png"}
    check_table(table_of(tmp_path, [*rows, made]))
    wrong = table_of(tmp_path, [*rows, made | {"parent": parent, "subject": subject}], protocol="official")
    with pytest.raises(ValueError, match=rf"images/0002.png \({subject}\), made of {parent} \((ann, train|ben, test)"):
        check_table(wrong)
    elsewhere = table_of(tmp_path, [made | {"parent": parent, "subject": subject}])
    check_table(elsewhere)  # its parent is none of its rows
    with pytest.raises(ValueError, match="not of a training photograph of their own subject"):
        check_parents(elsewhere, table_of(tmp_path, rows))


def test_only_the_first_rows_are_named(tmp_path):
    rows = photos(*((f"s{i}", part, f"{i}{part}") for i in range(15) for part in ("train", "test")))
    with pytest.raises(ValueError, match="and 10 more"):
        check_table(table_of(tmp_path, rows))


# ---- rule 3


def test_a_person_is_found_by_another_photograph_in_the_table_and_by_population(tmp_path):
    rows = photos(
        ("ann", "train", "a"), ("ann", "test", "b"), ("ben", "test", "c"), ("", "test", "d"), ("", "test", "e")
    )
    table = table_of(tmp_path, rows, population="p")
    names = table.rows["file_name"].tolist()
    assert seen(("", "x", "a")).touched(table) == names[:2]
    assert seen(("p", "ben", "elsewhere")).touched(table) == [names[2]]
    assert seen(("q", "ben", "elsewhere"), ("", "ben", "")).touched(table) == []
    assert seen(("p", "", "d")).touched(table) == [names[3]]  # no name is nobody's name
    assert seen(("", "ben", "")).touched(table_of(tmp_path, rows)) == []  # without a population neither


def test_a_person_is_found_by_a_copy_that_the_table_left_out(tmp_path):
    rows = photos(("ann", "train", "a"), ("ben", "test", "b"))
    table = table_of(tmp_path, rows, left_out=[{"sha256": "copy of b", "subject": "ben"}])
    assert seen(("", "", "copy of b")).touched(table) == ["images/0001.png"]
    assert seen(("", "", "copy of c")).touched(table) == []
    require_unseen(
        table.select(split="test"), seen(("", "", "a")), table=table, allow_unknown_parents=False, what="this grader"
    )
    with pytest.raises(ValueError, match=r"images/0001.png"):
        require_unseen(
            table.select(split="test"), seen(("", "", "copy of b")), table=table, allow_unknown_parents=False, what="it"
        )


def test_unknown_parents_are_refused_unless_allowed_and_known_leaks_always(tmp_path):
    table = table_of(tmp_path, photos(("ann", "train", "a"), ("ben", "test", "b")))
    test = table.select(split="test")
    assert "repeat the command" in refused(test, seen(known=False), table=table)
    assert not refused(test, seen(known=False), table=table, allow=True)
    assert "images/0001.png" in refused(test, seen(("", "", "b"), known=False), table=table, allow=True)


def test_published_folds_may_leak_as_published_and_no_further(tmp_path):
    rows = photos(("ann", "train", "a"), ("ann", "test", "b"), ("ben", "test", "c"), ("cleo", "train", "d"))
    table = table_of(tmp_path, rows, protocol="official", population="p")
    test, train = table.select(split="test"), Lineage.of(table.select(split="train"))
    assert not refused(test, train, table=table)
    assert leaked_rows(test, train, table=table) == ["images/0001.png"]  # what is measured
    other_fold = seen(("p", "ann", "b"))  # a GAN of another fold has seen a test photograph
    assert "images/0001.png" in refused(test, Lineage.merged(train, other_fold), table=table)


# ---- rule 4


def test_what_makes_images_has_seen_nobody_who_is_held_out(tmp_path):
    rows = photos(("ann", "train", "a"), ("ben", "val", "b"), ("cleo", "test", "c"))
    made = {"subject": "ann", "split": "val", "sha256": "m", "source": "generated"}
    table = table_of(tmp_path, [*rows, made], protocol="official")
    require_held_out(seen(("", "ann", "a"), ("", "", "m"), known=False), table, what="this GAN")
    with pytest.raises(ValueError, match=r"this GAN(?s:.*)1 of 2 validation and test(?s:.*)images/0001.png \(val\)"):
        require_held_out(seen(("", "ben", "b")), table, what="this GAN")
    require_held_out(seen(("", "cleo", "c")), table, what="this GAN", parts=["val"])


def test_published_folds_hold_out_what_they_can(tmp_path):
    rows = photos(("ann", "train", "a"), ("ann", "test", "b"), ("ben", "val", "c"))
    table = table_of(tmp_path, rows, protocol="official", population="p")
    require_held_out(Lineage.of(table.select(split="train")), table, what="this GAN")
    with pytest.raises(ValueError, match=r"images/0001.png \(test\)"):
        require_held_out(seen(("p", "ann", "b")), table, what="this GAN")


# ---- by properties

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}


@st.composite
def populations(draw) -> list[dict]:
    """Some photographs of each of some people: subject, severity, sha256."""
    numbers = draw(st.lists(st.integers(1, 4), min_size=3, max_size=12))
    severities = st.sampled_from(["mild", "severe"])
    return [
        {"subject": f"s{person}", "severity": draw(severities), "sha256": f"{person}/{photo}"}
        for person, number in enumerate(numbers)
        for photo in range(number)
    ]


@st.composite
def ancestries(draw, train: list[int]) -> list[list[int]]:
    """What a chain of models saw: the base any subset of `train`, each further one another subset besides."""
    return draw(st.lists(st.lists(st.sampled_from(train), unique=True, min_size=1), min_size=1, max_size=4))


def split_table(root, rows: list[dict], seed: int, **report) -> ImageTable:
    frame = pd.DataFrame(rows)
    parts = subject_split(frame, fractions=SHARES, seed=seed)
    rows = [row | {"split": part, "severity": "mild"} for row, part in zip(rows, parts, strict=True)]
    return table_of(root, rows, **report)


def descendant(tmp_path_factory, table: ImageTable, chain: list[list[int]]) -> Lineage:
    """GAN on a subset -> fine-tuned on others -> generates a table -> merged with the training rows: a grader's."""
    lineage = Lineage()
    for number, chosen in enumerate(chain):
        keep = pd.Series(False, index=table.rows.index)
        keep.iloc[chosen] = True
        lineage = Lineage.merged(lineage, Lineage.of(table.only(keep)))
        folder = tmp_path_factory.mktemp(f"gan{number}")
        lineage.write(folder)
        lineage = Lineage.read(folder)
    root = tmp_path_factory.mktemp("generated")
    lineage.write(root)
    made = [{"subject": f"generated-{i}", "split": "train", "sha256": f"g{i}", "source": "generated"} for i in range(3)]
    generated = table_of(root, made)
    check_table(generated)
    return Lineage.merged(Lineage.of(table.select(split="train")), Lineage.of(generated))


@settings(max_examples=60, deadline=None)
@given(rows=populations(), seed=st.integers(0, 10**6))
def test_no_subject_of_a_subject_split_is_in_two_parts(tmp_path_factory, rows, seed):
    table = split_table(tmp_path_factory.getbasetemp(), rows, seed)
    check_table(table)
    assert table.rows.groupby("subject")["split"].nunique().max() == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=populations())
def test_a_split_by_image_is_refused_exactly_where_it_tears_a_subject(tmp_path_factory, data, rows):
    parts = data.draw(st.lists(st.sampled_from(list(SHARES)), min_size=len(rows), max_size=len(rows)))
    rows = [row | {"split": part, "severity": "mild"} for row, part in zip(rows, parts, strict=True)]
    torn = len({(row["subject"], row["split"]) for row in rows}) > len({row["subject"] for row in rows})
    try:
        check_table(table_of(tmp_path_factory.getbasetemp(), rows))
        refused = False
    except ValueError:
        refused = True
    assert refused == torn


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rows=populations(), seed=st.integers(0, 10**6), population=st.sampled_from(["", "p"]))
def test_no_descendant_of_training_rows_is_refused(tmp_path_factory, data, rows, seed, population):
    table = split_table(tmp_path_factory.getbasetemp(), rows, seed, population=population)
    test, train = table.select(split="test"), [i for i, part in enumerate(table.rows["split"]) if part == "train"]
    if train and len(test):
        lineage = descendant(tmp_path_factory, table, data.draw(ancestries(train)))
        assert set(lineage.rows["sha256"]) <= {table.rows["sha256"][i] for i in train}
        assert not refused(test, lineage, table=table)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rows=populations(), seed=st.integers(0, 10**6), population=st.sampled_from(["", "p"]))
def test_every_leak_is_found_wherever_in_the_ancestry_it_is(tmp_path_factory, data, rows, seed, population):
    """One ancestor was trained on a split of another seed: exactly the test people that it saw are named."""
    table = split_table(tmp_path_factory.getbasetemp(), rows, seed, population=population)
    test = table.select(split="test")
    everyone = list(range(len(table)))
    chain = data.draw(ancestries(everyone))
    lineage = descendant(tmp_path_factory, table, chain)
    people = {table.rows["subject"][i] for chosen in chain for i in chosen}
    expected = test.rows.loc[test.rows["subject"].isin(people), "file_name"].tolist()
    assert leaked_rows(test, lineage, table=table) == expected
    message = refused(test, lineage, table=table)
    assert bool(message) == bool(expected)
    assert all(name in message for name in expected[:20])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=populations(), seed=st.integers(0, 10**6))
def test_a_leak_through_other_photographs_of_a_person_is_found_by_population(tmp_path_factory, data, rows, seed):
    """The ancestor saw other files of the same people (another resolution: other bytes)."""
    table = split_table(tmp_path_factory.getbasetemp(), rows, seed, population="p")
    test = table.select(split="test")
    person = data.draw(st.sampled_from(sorted({row["subject"] for row in rows})))
    elsewhere = {
        name: table_of(table.root, photos((person, "train", "other bytes")), population=name) for name in ("p", "q")
    }
    shown = test.rows.loc[test.rows["subject"] == person, "file_name"].tolist()
    assert leaked_rows(test, Lineage.of(elsewhere["p"]), table=table) == shown
    assert leaked_rows(test, Lineage.of(elsewhere["q"]), table=table) == []
