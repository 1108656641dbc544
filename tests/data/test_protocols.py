import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.data.protocols import PROTOCOLS, leak_of_official_folds, with_splits

CLASSES = ["mild", "moderate", "severe", "very_severe"]
people = st.lists(
    st.tuples(st.integers(0, 30).map("p{}".format), st.sampled_from(CLASSES), st.integers(0, 4)),
    min_size=1,
    max_size=80,
).map(lambda rows: pd.DataFrame(rows, columns=["subject", "severity", "official_fold"]))


@settings(max_examples=30, deadline=None)
@given(rows=people, protocol=st.sampled_from(PROTOCOLS), fold=st.integers(0, 4))
def test_split_families(rows, protocol, fold):
    made = with_splits(rows, protocol=protocol, fold=fold)
    families = made.groupby("subject")[["subject_fold", "subject_split"]].nunique()
    assert (families == 1).all(axis=None)
    assert set(made["split"]) <= {"train", "val", "test"}
    pd.testing.assert_frame_equal(made[rows.columns], rows)
    if protocol == "official":
        assert ((made["split"] == "test") == (made["official_fold"] == fold)).all()
        rest = made[made["split"] != "test"]
        assert (rest.groupby("subject")["split"].nunique() <= 1).all()  # nobody is in train and val even here
    else:
        assert (made.groupby("subject")["split"].nunique() == 1).all()
        expected = made["subject_split"] == "test" if protocol == "subject" else made["subject_fold"] == fold
        assert ((made["split"] == "test") == expected).all()
    shuffled = rows.sample(frac=1, random_state=fold)
    pd.testing.assert_frame_equal(with_splits(shuffled, protocol=protocol, fold=fold).sort_index(), made)


def test_leak_counts_people_and_copies_of_each_fold():
    rows = pd.DataFrame({"subject": list("aabbcd"), "official_fold": [0, 1, 1, 1, 2, 0]})
    leak = leak_of_official_folds(rows, [[0, 1], [2, 3]])
    assert leak["fold_0"] == {
        "test_images": 2,
        "with_a_person_of_trainval": 1,
        "share_of_known_people": 0.5,
        "copies_from_trainval": 1,
        "share_of_copies": 0.5,
    }
    assert [leak[f"fold_{fold}"]["with_a_person_of_trainval"] for fold in range(5)] == [1, 1, 0, 0, 0]
    assert [leak[f"fold_{fold}"]["copies_from_trainval"] for fold in range(5)] == [1, 1, 0, 0, 0]
    assert leak["fold_4"]["test_images"] == 0
