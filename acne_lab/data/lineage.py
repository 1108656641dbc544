"""Whose photographs something descends from, and the rules that keep a test honest: the one place of both.

Whatever has learned (a GAN, a refiner, a grader) and every table of made images has a `lineage.csv`, one row for each
photograph that it or any of its ancestors has seen: population, subject, sha256. Four rules follow from it:

    1. no subject is in two parts of a table,
    2. a generated or edited image never tests: it is nobody's photograph, and its parent is a training row,
    3. a test image is tested on nothing that has seen its subject,
    4. nor has what makes images for a table seen the subjects of its validation and test photographs: a grader's best
       epoch would be chosen on people that its training images remember.

A photograph is known by its bytes (sha256), a person by population and subject: `s00007` of population `toy-0` is one
person in every table, `7` of a folder that names no population is somebody only there, where other photographs of the
same person are found through the table's own subject column. What this module does not know: whether two subjects are
one person, and photographs that were re-encoded under a new name and without a population. Weights that were trained on
other things than the photographs of a study (ImageNet) are no ancestors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from acne_lab.data.table import ImageTable, first_lines, replace_text

FILE = "lineage.csv"
COLUMNS = ("population", "subject", "sha256")
MADE = ("edited", "generated")  # sources of images that have ancestors
OFFICIAL = "official"  # the protocol of published folds, in which people are in training and test


@dataclass(frozen=True, eq=False)
class Lineage:
    """Photographs, and whether they are all.

    Args:
        rows: the columns of `COLUMNS`, text; sha256 is "" where only the person is known, population is "" where
            nobody else uses these subject names. Kept sorted and without repetition.
        known: False: it also descends from photographs that nobody has listed.
    """

    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS), dtype=str))
    known: bool = True

    def __post_init__(self) -> None:
        rows = self.rows[list(COLUMNS)].fillna("").astype(str).drop_duplicates()
        object.__setattr__(self, "rows", rows.sort_values(list(COLUMNS), ignore_index=True))

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, table: ImageTable) -> "Lineage":
        """That of a table's rows: real and toy rows are photographs themselves, made ones have the table's own file."""
        made = table.rows["source"].isin(MADE)
        rows = table.rows.loc[~made, ["subject", "sha256"]].assign(population=table.report.get("population", ""))
        own = cls(rows, known=not table.report.get("unknown_parents", False))
        return cls.merged(own, cls.read(table.root)) if made.any() else own

    @classmethod
    def merged(cls, *lineages: "Lineage") -> "Lineage":
        """All their photographs; known if all of them are. Of none: nothing was seen."""
        rows = [lineage.rows for lineage in lineages]
        return cls(pd.concat([cls().rows, *rows]), known=all(lineage.known for lineage in lineages))

    @classmethod
    def read(cls, folder: str | Path) -> "Lineage":
        """That of the table or the run in `folder`; one without the file descends from nobody knows whom.

        Raises:
            ValueError: the file is not one of ours.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return cls(known=False)
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if tuple(rows.columns) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; remove it to have it written again")
        nobody = (rows == "").all(axis=1)
        return cls(rows[~nobody], known=not nobody.any())

    def write(self, folder: str | Path) -> None:
        """Write lineage.csv; its row of empty cells stands for the photographs that nobody has listed."""
        rows = self.rows if self.known else pd.concat([self.rows, pd.DataFrame([dict.fromkeys(COLUMNS, "")])])
        path, text = Path(folder) / FILE, rows.to_csv(index=False)
        if path.is_file() and path.read_text(encoding="utf-8") == text:  # of a finished run: nothing new is known
            return
        replace_text(path, text)

    def touched(self, table: ImageTable) -> list[str]:
        """File names of the rows of `table`, in order, whose subject is in the lineage.

        A subject is, if one of its photographs in `table` (of whatever part) was seen, or a copy that the table left
        out (`report["left_out"]`), or any other photograph of the same person of the same population.
        """
        rows, population = table.rows, table.report.get("population", "")
        people = self.rows.loc[self.rows["population"] == population, "subject"] if population else ()
        photographs = _named(self.rows["sha256"])
        copied = (one["subject"] for one in table.report.get("left_out", []) if one["sha256"] in photographs)
        seen = rows["sha256"].isin(photographs) | rows["subject"].isin(_named([*people, *copied]))
        return rows.loc[seen | rows["subject"].isin(_named(rows.loc[seen, "subject"])), "file_name"].tolist()

    def without(self, table: ImageTable) -> "Lineage":
        """The same without the photographs of `table`."""
        return Lineage(self.rows[~self.rows["sha256"].isin(_named(table.rows["sha256"]))], known=self.known)


def check_table(table: ImageTable) -> None:
    """Rules 1 and 2 for a table; published folds (`report["protocol"]`) may break the first.

    Raises:
        ValueError: names the rows that break a rule, and says what to do.
    """
    rows = table.rows
    made = rows.loc[rows["source"].isin(MADE) & (rows["split"] == "test"), "file_name"]
    if len(made):
        raise ValueError(
            f"{len(made)} generated or edited image(s) of {table.root} are test images:\n{first_lines(list(made))}\n"
            "Fix: test on authentic images; put these into split train or val"
        )
    check_parents(table, table)
    if table.report.get("protocol") == OFFICIAL:
        return
    named = rows[rows["subject"] != ""]
    torn = named[named.groupby("subject")["split"].transform("nunique") > 1].sort_values(["subject", "file_name"])
    if len(torn):
        lines = [f"{row.subject}: {row.file_name} ({row.split})" for row in torn.itertuples()]
        raise ValueError(
            f"{torn['subject'].nunique()} subject(s) of {table.root} are in more than one of train, val and test: what "
            f"is tested there has seen their faces.\n{first_lines(lines)}\n"
            "Fix: split by subject. Where the split came with the images, prepare the table again with "
            "data.split.override=true, which replaces it"
        )


def check_parents(made: ImageTable, table: ImageTable) -> None:
    """Rule 2 for the generated and edited rows of `made` whose parents are rows of `table`: of the same one, or not.

    Raises:
        ValueError: a parent is no training row, or another subject; names both.
    """
    rows = made.rows[made.rows["source"].isin(MADE) & made.rows["parent"].isin(table.rows["file_name"])]
    parents = table.rows.set_index("file_name").loc[rows["parent"]]
    wrong = (parents["split"] != "train").to_numpy() | (parents["subject"].to_numpy() != rows["subject"].to_numpy())
    if wrong.any():
        lines = [
            f"{row.file_name} ({row.subject or 'no subject'}), made of {row.parent} ({parent.subject}, {parent.split})"
            for row, parent in zip(rows[wrong].itertuples(), parents[wrong].itertuples())
        ]
        raise ValueError(
            f"{len(lines)} generated or edited image(s) of {made.root} are not of a training photograph of their own "
            f"subject:\n{first_lines(lines)}\n"
            "Fix: make images of training photographs alone, and give each the subject of its parent"
        )


def require_held_out(lineage: Lineage, table: ImageTable, *, what: str, parts: Sequence[str] = ("val", "test")) -> None:
    """Rule 4: refuse to make or train something whose ancestors have seen what `table` holds out, before the work.

    Unknown ancestors pass: who tests must allow them (`require_unseen`). Under the official protocol the table's own
    training people may be in its test rows, as published.

    Args:
        lineage: of what makes or is to make images.
        table: the whole table that it is for. Only its photographs count, not its generated and edited rows.
        what: for the message, e.g. "this GAN".
        parts: which of the table's parts it must not have seen.

    Raises:
        ValueError: names the rows, and says what to do.
    """
    if table.report.get("protocol") == OFFICIAL:
        lineage = lineage.without(table.select(split="train"))
    rows = table.rows[table.rows["split"].isin(parts) & ~table.rows["source"].isin(MADE)]
    seen = rows[rows["file_name"].isin(lineage.touched(table))]
    if len(seen):
        held_out = " and ".join({"val": "validation", "test": "test"}[part] for part in parts)
        raise ValueError(
            f"{what} has seen the people on {len(seen)} of {len(rows)} {held_out} images of {table.root}:\n"
            f"{first_lines([f'{row.file_name} ({row.split})' for row in seen.itertuples()])}\n"
            "Fix: start from what has learned from the training rows of this table alone, or from other people"
        )


def require_unseen(
    test_rows: ImageTable, lineage: Lineage, *, table: ImageTable, allow_unknown_parents: bool, what: str
) -> None:
    """Rule 3: refuse to test on rows whose subjects are in the lineage of what is tested.

    Under the official protocol the table's own training people may be in its test rows, as published; people that the
    lineage has from elsewhere may not.

    Args:
        test_rows: the rows to test on.
        lineage: of everything that is tested: of the grader and all it has learned from.
        table: the whole table that `test_rows` are from, through which other photographs of a subject are found.
        allow_unknown_parents: go on where the lineage is not known.
        what: is tested, for the message, e.g. "this grader".

    Raises:
        ValueError: names the rows, or says that nobody can know them; and what to do.
    """
    if not lineage.known and not allow_unknown_parents:
        raise ValueError(
            f"{what} descends from images whose photographs are not listed, so nobody can say whether they show the "
            "people of the test. If they come from a run of before lineages were kept, repeat the command of that run: "
            f"it adds its {FILE} at once. Else allow_unknown_parents=true goes on, and metrics and report say so"
        )
    if table.report.get("protocol") == OFFICIAL:
        is_test = table.rows["file_name"].isin(test_rows.rows["file_name"])
        lineage = lineage.without(table.only(~is_test))
    leaked = leaked_rows(test_rows, lineage, table=table)
    if leaked:
        raise ValueError(
            f"{what} has seen the people on {len(leaked)} of {len(test_rows)} test images of {table.root}:\n"
            f"{first_lines(leaked)}\n"
            "Fix: train it, and all it descends from, on the training rows of this table alone, or test on other people"
        )


def leaked_rows(test_rows: ImageTable, lineage: Lineage, *, table: ImageTable) -> list[str]:
    """File names of the test rows whose subjects are in the lineage; arguments as of `require_unseen`."""
    touched = set(lineage.touched(table))
    return [name for name in test_rows.rows["file_name"] if name in touched]


def _named(values: Iterable[str]) -> set[str]:
    return set(values) - {""}
