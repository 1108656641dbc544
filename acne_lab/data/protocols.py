"""The families of splits of ACNE04: two by subject and the released one, and how much the released one leaks."""

import numpy as np
import pandas as pd

from acne_lab.data.splits import subject_split

NUM_FOLDS = 5
VAL_FRACTION = 0.125  # of a fold's trainval: train, val and test are 70, 10 and 20 %
PROTOCOLS = ("subject", "subject_fold", "official")


def with_splits(rows: pd.DataFrame, *, protocol: str, fold: int) -> pd.DataFrame:
    """Rows with all three families of splits, and the chosen one as `split`; the same on every machine.

    Args:
        rows: columns `subject`, `severity` and `official_fold`.
        protocol, fold: as `Acne04`.
    """
    even = {str(fold): 1 / NUM_FOLDS for fold in range(NUM_FOLDS)}
    subject_fold = subject_split(rows, fractions=even, seed=0).astype(int)
    rows = rows.assign(subject_fold=subject_fold, subject_split=subject_split(rows, seed=0))
    if protocol == "subject":
        return rows.assign(split=rows["subject_split"])
    rest = rows["subject_fold" if protocol == "subject_fold" else "official_fold"] != fold
    split = pd.Series("test", index=rows.index)
    fractions = {"train": 1 - VAL_FRACTION, "val": VAL_FRACTION}
    split[rest] = subject_split(rows[rest], fractions=fractions, seed=fold)
    return rows.assign(split=split)


def leak_of_official_folds(rows: pd.DataFrame, copies: list[list[int]]) -> dict:
    """How much of each official test file, as released, is known from its trainval file.

    Args:
        rows: columns `subject` and `official_fold`, one row a photograph, copies among them.
        copies: groups of positions that show the same photograph.

    Returns:
        "fold_0" to "fold_4" -> how many of the test photographs show a person of the trainval file, how many are
        a copy of a photograph there, and both as shares.
    """
    copy_of = np.full(len(rows), -1)
    for number, group in enumerate(copies):
        copy_of[group] = number
    leak = {}
    for fold in range(NUM_FOLDS):
        is_test = (rows["official_fold"] == fold).to_numpy()
        known = rows["subject"].isin(rows.loc[~is_test, "subject"]).to_numpy() & is_test
        copied = np.isin(copy_of, copy_of[~is_test]) & (copy_of >= 0) & is_test
        num = max(int(is_test.sum()), 1)
        leak[f"fold_{fold}"] = {
            "test_images": int(is_test.sum()),
            "with_a_person_of_trainval": int(known.sum()),
            "share_of_known_people": round(known.sum() / num, 4),
            "copies_from_trainval": int(copied.sum()),
            "share_of_copies": round(copied.sum() / num, 4),
        }
    return leak
