"""Splitting by subject, stratified by severity.

Two photographs of one person in train and test inflate a grader's score (on ACNE04 by 4.5 points of balanced
accuracy, all of it in the rare grades), so a subject is dealt whole. This module takes the `subject` column
at its word: it does not know whether two subjects are the same person.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

FRACTIONS = MappingProxyType({"train": 0.7, "val": 0.1, "test": 0.2})


def subject_split(rows: pd.DataFrame, *, fractions: Mapping[str, float] = FRACTIONS, seed: int) -> np.ndarray:
    """Deal subjects into parts; within each severity the parts get their fractions of the subjects.

    A subject with photographs of several severities counts for the rarest of them (the one that the fewest
    subjects have), which in acne is the most severe: rare classes are the ones that a careless split loses.

    Args:
        rows: columns `subject` and `severity`, one row a photograph.
        fractions: part name -> share of the subjects, sum 1; a part with share 0 stays empty.
        seed: another seed, another split.

    Returns:
        str [N]: each row's part. No subject is in two parts. A severity that at least as many subjects
        count for as there are parts is in every part. The result depends on subjects, severities and seed
        alone: not on the order of the rows.

    Raises:
        ValueError: a fraction is negative, or they do not sum to 1.
    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"split fractions must not be negative and must sum to 1, not {dict(fractions)}")
    fractions = {part: share for part, share in fractions.items() if share > 0}
    part_of: dict[str, str] = {}
    severity_of = subject_severity(rows)
    for severity in sorted(set(severity_of)):
        dealt = sorted(severity_of.index[severity_of == severity], key=lambda subject: _lot(subject, seed))
        start = 0
        for part, size in apportion(len(dealt), fractions).items():
            part_of.update(dict.fromkeys(dealt[start : start + size], part))
            start += size
    return rows["subject"].map(part_of).to_numpy(dtype=object).astype(str)


def share_of_each(rows: pd.DataFrame, *, share: float) -> np.ndarray:
    """bool [N]: that share of each subject's rows, rounded down, by a lot that depends on the file names alone.

    Args:
        rows: columns `subject` and `file_name`. Of a subject "" nobody knows who it is: none of its rows is taken.
        share: in (0, 1).
    """
    lots = rows["file_name"].map(lambda name: _lot(name, 0))
    rank = lots.groupby(rows["subject"]).rank(method="first")
    size = rows.groupby("subject")["file_name"].transform("size")
    return ((rank <= np.floor(share * size)) & (rows["subject"] != "")).to_numpy()


def subject_severity(rows: pd.DataFrame) -> pd.Series:
    """subject -> the severity among its photographs that the fewest subjects have (ties by name)."""
    pairs = rows[["subject", "severity"]].fillna("").drop_duplicates()
    pairs = pairs.assign(rarity=pairs.groupby("severity")["subject"].transform("size"))
    return pairs.sort_values(["rarity", "severity"]).groupby("subject")["severity"].first()


def apportion(num_items: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """part -> its whole share of num_items, by largest remainders; no part is empty if items suffice."""
    exact = {part: num_items * fraction for part, fraction in fractions.items()}
    sizes = {part: int(share) for part, share in exact.items()}
    by_remainder = sorted(exact, key=lambda part: sizes[part] - exact[part])
    for part in by_remainder[: num_items - sum(sizes.values())]:
        sizes[part] += 1
    if num_items >= len(sizes):
        while min(sizes.values()) == 0:
            sizes[max(sizes, key=sizes.get)] -= 1
            sizes[min(sizes, key=sizes.get)] += 1
    return sizes


def _lot(subject: str, seed: int) -> str:
    # A hash and not a random generator: the draw is the same under every library version and row order.
    return hashlib.sha256(f"{seed}/{subject}".encode()).hexdigest()
