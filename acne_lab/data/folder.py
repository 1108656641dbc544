"""Any folder of photographs as a source.

Two layouts are understood:

    <root>/<class>/*.jpg        one folder a class, photographs at any depth below it
    <root>/metadata.csv         one row a photograph: file_name (relative to root), severity and/or lesions,
                                optionally subject, split (train|val|test), source, parent and others

Class names match whatever their case, spaces and hyphens count as underscores: "Very Severe" is very_severe.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from acne_lab.data.collect import Collected, Problem, hash_files, severity_of_count
from acne_lab.data.photo import IMAGE_SUFFIXES
from acne_lab.data.table import SOURCES, SPLITS, BadData


class Folder:
    """A folder of photographs, sorted into class folders or described by a metadata.csv.

    Args:
        root: the folder.
        classes: severity names, mildest first; photographs of other class folders are left out.
            None: the sub-folders (or the severities in metadata.csv) in alphabetical order.
        bands: the largest lesion count of each class, mildest first, null for the last, e.g.
            {mild: 5, moderate: 20, severe: 50, very_severe: null}. They grade rows that have a count alone,
            and a row whose severity contradicts its count is bad data. None: counts grade nothing.
        subject_pattern: regular expression whose first group is the subject, searched in the file name
            (relative to root, with forward slashes). Used where metadata.csv has no subject column. None:
            each photograph is its own subject.
        population: whose people the subjects are. Tables of one population have the same people under the same
            names, so what has learned from one of them is not tested on its people in another. None: these names
            are used nowhere else.

    Raises:
        ValueError: the folder, or a class in it, is missing or empty, or an argument contradicts another.
    """

    def __init__(
        self,
        *,
        root: str,
        classes: list[str] | None = None,
        bands: Mapping[str, int | None] | None = None,
        subject_pattern: str | None = None,
        population: str | None = None,
    ) -> None:
        self.root = self.images_root = Path(root).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"data.root={root}: there is no such folder")
        self.asked_classes = None if classes is None else tuple(map(str, classes))  # 0, 1, ... may be numbers
        self.bands = None if bands is None else dict(bands)
        if subject_pattern is not None and re.compile(subject_pattern).groups < 1:
            raise ValueError(rf"subject_pattern={subject_pattern} needs a group around the subject, e.g. ^(p\d+)_")
        self.subject_pattern = subject_pattern
        self.population = population
        self.metadata_path = self.root / "metadata.csv"
        if self.bands is not None:
            _check_bands(self.bands, self.classes)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Severity names, mildest first."""
        if self.asked_classes is not None:
            return self.asked_classes
        if self.bands is not None:
            return tuple(self.bands)
        if self.metadata_path.is_file():
            metadata = self._read_metadata()
            if "severity" not in metadata:
                raise ValueError(
                    f"{self.metadata_path} has no severity column: give data.bands to grade its lesion counts"
                )
            names = metadata["severity"]
        else:
            names = pd.Series([path.name for path in self._class_folders()], dtype=str)
        classes = tuple(sorted({canonical(name) for name in names if name}))
        if not classes:
            raise ValueError(
                f"{self.root} holds neither metadata.csv nor class folders: expected <root>/<class>/*.jpg, "
                f"found {_listing(self.root)}"
            )
        return classes

    def fingerprint(self) -> str:
        """sha256 of the names and the content of every photograph and of metadata.csv."""
        described = [self.metadata_path.name] if self.metadata_path.is_file() else []
        return hash_files(self.root, [*_images(self._files()), *described])

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """Find the photographs and their labels; nothing is decoded yet."""
        files = self._files()
        images = _images(files)
        if not images:
            raise ValueError(f"{self.root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        if self.metadata_path.is_file():
            rows, problems, notes = self._described(images)
        else:
            rows, problems, notes = self._in_class_folders(images)
        problems += self._set_subjects(rows, notes)
        problems += self._name_clashes(rows)
        if self.asked_classes is None and self.bands is None:
            notes.append(f"classes are in alphabetical order, {', '.join(self.classes)}; data.classes sets another")
        notes += _unread(files)
        rows["source"] = rows["source"].replace("", "real") if "source" in rows else "real"
        report = {"notes": notes, "people_known": bool((rows["subject"] != rows["file_name"]).all())}
        if self.population is not None:
            if (rows["subject"] == rows["file_name"]).all():
                raise ValueError(
                    f"data.population={self.population} says whose people the subjects are, and no subject is named: "
                    "give metadata.csv a column subject, or data.subject_pattern"
                )
            report["population"] = str(self.population)
        return Collected(rows=rows, images_root=self.images_root, problems=problems, report=report)

    def _files(self) -> list[str]:
        """All files below root, relative to it, sorted; hidden files and folders left out."""
        found = []
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(folder).relative_to(self.root)
            found += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(found)

    # ------------------------------------------------------------------ <root>/<class>/*.jpg

    def _class_folders(self) -> list[Path]:
        return sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _in_class_folders(self, images: list[str]) -> tuple[pd.DataFrame, list[Problem], list[str]]:
        """The photographs below the class folders, labelled by folder."""
        by_folder: dict[str, list[str]] = {path.name: [] for path in self._class_folders()}
        problems = []
        for name in images:
            folder, _, below = name.partition("/")
            if below:
                by_folder[folder].append(name)
            else:
                problems.append(Problem(name, "lies in no class folder"))
        class_of = {canonical(name): name for name in self.classes}
        by_class: dict[str, list[str]] = defaultdict(list)
        for folder, names in by_folder.items():
            if canonical(folder) in class_of:
                by_class[class_of[canonical(folder)]] += names
        empty = [name for name in self.classes if not by_class[name]]
        if empty:
            raise BadData(
                [f"{self.root / name}: the class folder is {self._missing_or_empty(name)}" for name in empty],
                f"put images there or change data.classes; {self.root} holds {_listing(self.root)}",
            )
        ignored = sorted(folder for folder in by_folder if canonical(folder) not in class_of)
        notes = [f"folders that are no asked class were left out: {', '.join(ignored)}"] if ignored else []
        pairs = [(name, severity) for severity in self.classes for name in by_class[severity]]
        rows = pd.DataFrame(pairs, columns=["file_name", "severity"])
        return rows.assign(lesions=pd.Series(pd.NA, index=rows.index, dtype="Int64")), problems, notes

    def _missing_or_empty(self, severity: str) -> str:
        names = {canonical(path.name) for path in self._class_folders()}
        return "empty" if canonical(severity) in names else "missing"

    # ------------------------------------------------------------------ <root>/metadata.csv

    def _read_metadata(self) -> pd.DataFrame:
        rows = pd.read_csv(self.metadata_path, dtype=str, keep_default_na=False)
        rows = rows.apply(lambda column: column.str.strip())
        if "file_name" not in rows or not {"severity", "lesions"} & set(rows.columns):
            raise ValueError(
                f"{self.metadata_path} needs the column file_name and one of severity, lesions; "
                f"it has {', '.join(rows.columns)}"
            )
        if "severity" not in rows and self.bands is None:
            raise ValueError(
                f"{self.metadata_path} has lesion counts and no severity: say how counts become grades, e.g. "
                "data.bands={mild: 5, moderate: 20, severe: 50, very_severe: null}"
            )
        return rows

    def _described(self, images: list[str]) -> tuple[pd.DataFrame, list[Problem], list[str]]:
        """The rows of metadata.csv, their severities checked or filled in from the counts."""
        rows = self._read_metadata()
        if "split" in rows and (rows["split"] == "").all():
            rows = rows.drop(columns="split")
        class_of = {canonical(name): name for name in self.classes}
        on_disk, repeated = set(images), set(rows.loc[rows["file_name"].duplicated(), "file_name"])
        problems, kept = [], []
        for row in rows.to_dict("records"):
            if "severity" in row:
                row["severity"] = class_of.get(canonical(row["severity"]), row["severity"])
            reason = self._wrong(row, on_disk, repeated)
            if reason:
                problems.append(Problem(row["file_name"], reason))
                continue
            row["lesions"] = int(row["lesions"]) if row.get("lesions") else pd.NA
            row["severity"] = row.get("severity") or severity_of_count(row["lesions"], self.bands)
            kept.append(row)
        unlisted = len(on_disk - set(rows["file_name"]))
        notes = [f"{unlisted} images are not named in metadata.csv and were left out"] if unlisted else []
        kept = pd.DataFrame(kept, columns=list(dict.fromkeys([*rows.columns, "severity", "lesions"])))
        return kept, problems, notes

    def _wrong(self, row: dict[str, str], images: set[str], repeated: set[str]) -> str | None:
        """What is wrong with a row of metadata.csv (the first thing found), or None."""
        name, severity, lesions = row["file_name"], row.get("severity", ""), row.get("lesions", "")
        if name in repeated:
            return "is named twice in metadata.csv"
        if name not in images:
            return f"is named in metadata.csv, but there is no such image below {self.root}"
        if severity and severity not in self.classes:
            return f"has the unknown severity {severity!r} (classes: {', '.join(self.classes)})"
        if lesions and not lesions.isdecimal():
            return f"has the lesion count {lesions!r}, which is not a whole number"
        if not severity and not (lesions and self.bands):
            return "has no severity" + (", and there are no bands to grade its lesion count" * bool(lesions))
        if severity and lesions and self.bands:
            band = severity_of_count(int(lesions), self.bands)
            if band != severity:
                return f"is {severity} with {lesions} lesions, which the bands call {band}"
        if "split" in row and row["split"] not in SPLITS:
            return f"has the unknown split {row['split']!r} (train, val or test)"
        if row.get("source") and row["source"] not in SOURCES:
            return f"has the unknown source {row['source']!r} ({', '.join(SOURCES)})"
        return None

    # ------------------------------------------------------------------ both

    def _set_subjects(self, rows: pd.DataFrame, notes: list[str]) -> list[Problem]:
        """Fill the subject column in place; photographs whose subject cannot be told are problems."""
        names = rows["file_name"]
        if "subject" in rows:
            alone = rows["subject"] == ""
            rows["subject"] = rows["subject"].where(~alone, names)
            if alone.any():
                notes.append(f"{alone.sum()} rows name no subject: each is taken as a subject of its own")
            return []
        if self.subject_pattern is None:
            rows["subject"] = names
            notes.append("no subject column and no data.subject_pattern: each photograph is its own subject")
            return []
        rows["subject"] = names.str.extract(self.subject_pattern)[0]
        untold = names[rows["subject"].isna()]
        return [Problem(name, f"subject_pattern={self.subject_pattern} does not match") for name in untold]

    def _name_clashes(self, rows: pd.DataFrame) -> list[Problem]:
        """Photographs that share a name but not their content, or their content but not their class.

        In class folders the name is the stem, wherever it lies: mild/a.jpg, mild/a.png and severe/a.jpg
        clash. Under a metadata.csv sub-folders are part of the name: p1/a.jpg and p2/a.jpg do not clash.
        """
        described = self.metadata_path.is_file()
        groups = defaultdict(list)
        for name, severity in zip(rows["file_name"], rows["severity"]):
            path = PurePosixPath(name).with_suffix("")
            groups[(path.as_posix() if described else path.name).lower()].append((name, severity))
        problems = []
        for group in groups.values():
            if len(group) == 1:
                continue
            content = {name: (self.root / name).read_bytes() for name, _ in group}
            if len(set(content.values())) > 1:
                reason = "shares its name with different photographs"
            elif len({severity for _, severity in group}) > 1:
                reason = "is the same photograph under two severities"
            else:
                continue
            problems += [Problem(name, f"{reason}: {', '.join(n for n in content if n != name)}") for name in content]
        return problems


def canonical(name: str) -> str:
    """A class name as names are compared: lower case, spaces and hyphens as underscores."""
    return re.sub(r"[\s\-]+", "_", name.strip()).lower()


def _check_bands(bands: dict[str, int | None], classes: tuple[str, ...]) -> None:
    *limits, last = bands.values()
    if tuple(bands) != classes or last is not None or None in limits or limits != sorted(set(limits)):
        raise ValueError(
            f"bands must give each of {', '.join(classes)}, in this order, the largest lesion count it "
            f"covers, rising, and null for the last; not {bands}"
        )


def _images(files: list[str]) -> list[str]:
    return [name for name in files if _suffix(name) in IMAGE_SUFFIXES]


def _unread(files: list[str]) -> list[str]:
    """A note on the files of other kinds: a folder of .heic must not vanish in silence."""
    suffixes = Counter(_suffix(name) for name in files if _suffix(name) not in {*IMAGE_SUFFIXES, ".csv"})
    kinds = ", ".join(f"{number} x {suffix or 'no suffix'}" for suffix, number in sorted(suffixes.items()))
    return [f"files of other kinds were left out: {kinds}"] if kinds else []


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _listing(folder: Path, limit: int = 8) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = [f"... ({len(names)} in all)"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more]) or "nothing"
