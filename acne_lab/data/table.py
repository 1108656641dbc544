"""The image table: the one thing that passes between two jobs.

An image table is a folder:

    metadata.csv   one row an image: file_name, severity, lesions, subject, split, source, parent, sha256; where it
                   is known, skin_tone, 1 to 6 in the order of Fitzpatrick's types, camera, and face_found, whether a
                   detector saw one
    table.json     {"classes": [mildest, ..., most severe], "report": {what was counted, noted and dropped}}
    boxes.csv      optional, one row a lesion: file_name, x0, y0, x1, y1 in pixels of the upright photograph
    images/        the files, or a link to the user's folder (real photographs are never copied)

`metadata.csv` follows the Hugging Face imagefolder convention, so other tools load the same folder.

This module knows names, labels and hashes. It never opens an image: whether one decodes is `collect`'s
question, and what it looks like at 256 px is `pack`'s.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")
SOURCES = ("real", "toy", "edited", "generated")
COLUMNS = ("file_name", "severity", "lesions", "subject", "split", "source", "parent", "sha256")
BOX_COLUMNS = ("file_name", "x0", "y0", "x1", "y1")
NUM_SHOWN = 20

_TEXT_COLUMNS = tuple(column for column in COLUMNS if column != "lesions")


class BadData(ValueError):
    """The user's images or labels are wrong: how many, the first 20 by name, and what to do about it.

    Attributes:
        problems: every problem, one line each (the message shows the first `NUM_SHOWN`).
        fix: what the user can do about it.
    """

    def __init__(self, problems: list[str], fix: str) -> None:
        self.problems = problems
        self.fix = fix
        super().__init__(f"{len(problems)} problem(s) in the data:\n{first_lines(problems)}\nFix: {fix}")


def first_lines(lines: list[str]) -> str:
    """The first `NUM_SHOWN` lines, indented, and how many were left out."""
    shown = [f"  {line}" for line in lines[:NUM_SHOWN]]
    if len(lines) > NUM_SHOWN:
        shown.append(f"  ... and {len(lines) - NUM_SHOWN} more")
    return "\n".join(shown)


@dataclass(frozen=True)
class ImageTable:
    """Images with their labels, subjects, splits and lineage.

    Args:
        root: the table's folder; `file_name` is relative to it.
        rows: the columns of `COLUMNS`, then any others. Text is "" where unknown, lesions is <NA> (dtype
            Int64).
        classes: severity names from the mildest to the most severe.
        report: what the build counted, noted and dropped; plain JSON values.
        boxes: the columns of `BOX_COLUMNS`, float pixels of the upright photograph (EXIF orientation applied); None:
            lesions were not located.

    Raises:
        ValueError: a column is missing or a value is impossible; names the rows.
    """

    root: Path
    rows: pd.DataFrame
    classes: tuple[str, ...]
    report: dict = field(default_factory=dict)
    boxes: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        # One set of dtypes whoever made the table: a table and its re-read copy are equal and share a key.
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "rows", _tidy_rows(self.rows))
        if self.boxes is not None:
            object.__setattr__(self, "boxes", _tidy_boxes(self.boxes))
        _check(self)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, path: str | Path) -> "ImageTable":
        """Read the table at `path`: its own folder, or the folder of a run that has it under `table/`.

        Raises:
            ValueError: there is no image table, or what is there is not a valid one.
        """
        path = Path(path)
        root = path if (path / "metadata.csv").is_file() else path / "table"
        for name in ("metadata.csv", "table.json"):
            if not (root / name).is_file():
                raise ValueError(
                    f"{path} is not an image table: it has no {name} (nor has {path / 'table'}). "
                    "An image table is a folder with metadata.csv, table.json and images/; "
                    "make one from photographs with `acne-lab prepare data=folder data.root=<photographs>`."
                )
        about = json.loads((root / "table.json").read_text(encoding="utf-8"))
        boxes = root / "boxes.csv"
        return cls(
            root=root,
            rows=_read_csv(root / "metadata.csv"),
            classes=tuple(about["classes"]),
            report=about["report"],
            boxes=_read_csv(boxes) if boxes.is_file() else None,
        )

    def write(self) -> None:
        """Write the table's files into `root`; metadata.csv comes last: where it is, the table is whole."""
        self.root.mkdir(parents=True, exist_ok=True)
        about = {"classes": list(self.classes), "report": self.report}
        replace_text(self.root / "table.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        if self.boxes is None:
            (self.root / "boxes.csv").unlink(missing_ok=True)
        else:
            replace_text(self.root / "boxes.csv", self.boxes.to_csv(index=False))
        replace_text(self.root / "metadata.csv", self.rows.to_csv(index=False))

    @property
    def paths(self) -> list[Path]:
        """Where each image lies, in row order."""
        return [self.root / name for name in self.rows["file_name"]]

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]: index of each row's severity in `classes`, -1 where it is unknown."""
        return np.asarray(pd.Index(self.classes).get_indexer(self.rows["severity"]), dtype=np.int64)

    @property
    def lesion_counts(self) -> np.ndarray:
        """float32 [N]: lesions of each row, NaN where nobody has counted them."""
        return self.rows["lesions"].to_numpy(dtype=np.float32, na_value=np.nan)

    @property
    def is_drawn(self) -> bool:
        """Every image is one of data=toy: nobody's photograph, and no network's memory of one."""
        return bool((self.rows["source"] == "toy").all())

    @property
    def key(self) -> str:
        """16 hex digits of what training can see: pixels, labels, subjects, splits, sources, boxes and the
        order of classes and rows (a seed draws the same rows of two tables only if both have one order).

        It depends neither on where the table lies nor on its file names.
        """
        rows = self.rows[["sha256", "severity", "lesions", "subject", "split", "source"]].astype(str)
        boxes: dict[str, list[tuple[float, ...]]] = {}
        if self.boxes is not None:
            for name, *corners in self.boxes[list(BOX_COLUMNS)].itertuples(index=False):
                boxes.setdefault(name, []).append(tuple(corners))
        lines = [
            [*row, sorted(boxes.get(name, []))]
            for name, row in zip(self.rows["file_name"], rows.itertuples(index=False))
        ]
        return hashlib.sha256(json.dumps([self.classes, lines]).encode()).hexdigest()[:16]

    def select(self, *, split: str | None = None, severity: str | None = None) -> "ImageTable":
        """The rows of one split and/or one severity, in order; None takes all. The result may be empty."""
        if split is not None and split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)} or null, not {split!r}")
        if severity is not None and severity not in self.classes:
            raise ValueError(f"severity must be one of {', '.join(self.classes)} or null, not {severity!r}")
        keep = pd.Series(True, index=self.rows.index)
        if split is not None:
            keep &= self.rows["split"] == split
        if severity is not None:
            keep &= self.rows["severity"] == severity
        return self.only(keep)

    def matching(self, column: str, value: object) -> "ImageTable":
        """The rows whose `column`, written as text, is `value`, in order. The result may be empty."""
        return self.only(self.rows[column].astype(str) == str(value))

    def only(self, keep: pd.Series) -> "ImageTable":
        """The rows for which `keep` (bool [N]) is true, in order. The result may be empty."""
        rows = self.rows[keep]
        boxes = None if self.boxes is None else self.boxes[self.boxes["file_name"].isin(rows["file_name"])]
        return replace(self, rows=rows, boxes=boxes)

    def counts(self) -> pd.DataFrame:
        """Number of images, classes x splits (rows of unknown severity are not counted)."""
        counts = pd.crosstab(self.rows["severity"], self.rows["split"])
        return counts.reindex(index=list(self.classes), columns=list(SPLITS), fill_value=0)


def _tidy_rows(rows: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in COLUMNS if column not in rows.columns]
    if missing:
        raise ValueError(f"an image table needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    extras = [column for column in rows.columns if column not in COLUMNS]
    rows = rows[[*COLUMNS, *extras]].reset_index(drop=True)
    for column in _TEXT_COLUMNS:
        rows[column] = rows[column].astype(object).where(rows[column].notna(), "").astype(str)
    try:
        rows["lesions"] = pd.to_numeric(rows["lesions"]).astype("Int64")
    except (ValueError, TypeError) as error:
        raise ValueError(f"column lesions must hold whole numbers or nothing: {error}") from error
    if "skin_tone" in rows:
        with suppress(ValueError, TypeError):  # other people's labels; but a gap among numbers makes 3.0 of a 3
            rows["skin_tone"] = pd.to_numeric(rows["skin_tone"]).astype("Int64")
    return rows


def _tidy_boxes(boxes: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in BOX_COLUMNS if column not in boxes.columns]
    if missing:
        raise ValueError(f"boxes need the columns {', '.join(BOX_COLUMNS)}; missing: {', '.join(missing)}")
    corners = dict.fromkeys(BOX_COLUMNS[1:], "float64")
    return boxes[list(BOX_COLUMNS)].astype({"file_name": str, **corners}).reset_index(drop=True)


def _check(table: ImageTable) -> None:
    """Raise a ValueError that names the rows whose values no image table can have."""
    rows, names = table.rows, table.rows["file_name"]
    if len(set(table.classes)) != len(table.classes) or "" in table.classes:
        raise ValueError(f"classes must be distinct names, not {list(table.classes)}")
    _reject(names[names.duplicated()], "file_name appears twice")
    _reject(
        names[[not _stays_inside(name) for name in names]],
        "file_name must be a relative path inside the table",
    )
    for column, allowed in (
        ("severity", (*table.classes, "")),
        ("split", SPLITS),
        ("source", SOURCES),
    ):
        wrong = ~rows[column].isin(allowed)
        _reject(
            names[wrong] + ": " + rows.loc[wrong, column],
            f"{column} must be one of {', '.join(value or '(empty)' for value in allowed)}",
        )
    if table.boxes is not None:
        boxed = table.boxes["file_name"]
        _reject(boxed[~boxed.isin(names)].drop_duplicates(), "boxes.csv names images that metadata.csv lacks")


def _reject(names: Iterable[str], rule: str) -> None:
    names = list(names)
    if names:
        raise ValueError(f"{rule}, but {len(names)} row(s) break this:\n{first_lines(names)}")


def _stays_inside(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _read_csv(path: Path) -> pd.DataFrame:
    # Only an empty cell is missing: a subject may well be called "NA" or "null", or "007".
    text = dict.fromkeys(_TEXT_COLUMNS, str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def replace_text(path: Path, text: str) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
