"""ACNE04 (Wu et al., "Joint Acne Image Grading and Counting via Label Distribution Learning", ICCV 2019) as
released.

The release comes in two trees, and neither is enough alone:

    <root>/Classification/JPEGImages/levle0_12.jpg          the photographs ("levle" is the release's word)
    <root>/Classification/NNEW_{trainval,test}_{0..4}.txt   five folds; a line is <file> <grade 0-3> <lesions>
    <root>/Detection/VOC2007/Annotations/levle0_12.xml      lesion boxes, Pascal VOC

The split files are the labels; the number in a file's name is not (in the release they disagree for 42
files).

It does not know who is on a photograph: every file is its own subject, although the release shows many
people more than once, some on both sides of its folds.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from acne_lab.data.collect import Collected, Problem, hash_files, severity_of_count
from acne_lab.data.photo import IMAGE_SUFFIXES
from acne_lab.data.splits import subject_split
from acne_lab.data.table import BOX_COLUMNS

NUM_FOLDS = 5
HAYASHI_BANDS = (5, 20, 50, None)  # largest lesion count of each grade (Hayashi et al., J. Dermatol. 2008)
VAL_FRACTION = 0.125  # of a fold's trainval: train, val and test are 70, 10 and 20 %

IMAGES = "Classification/JPEGImages"
LISTS = "Classification"
ANNOTATIONS = "Detection/VOC2007/Annotations"


@dataclass(frozen=True)
class Listing:
    """One line of a split file: which file, what it says, and where it stands."""

    file_name: str
    grade: int
    lesions: int
    part: str  # trainval or test
    fold: int


class Acne04:
    """The user's own copy of ACNE04 (academic use only; it shows identifiable patients).

    Args:
        root: the folder that holds Classification/ and Detection/.
        fold: which of the five official folds: its test file is the test split; of its trainval file an
            eighth, stratified by severity, is val.
        classes: names of the grades 0 to 3.

    Raises:
        ValueError: a folder or a split file of the release is missing, or an argument is out of range.
    """

    def __init__(self, *, root: str, fold: int = 0, classes: list[str]) -> None:
        self.root = Path(root).expanduser()
        self.images_root = self.root / IMAGES
        self.fold = fold
        self.classes = tuple(classes)
        if fold not in range(NUM_FOLDS):
            raise ValueError(f"fold must be 0 to {NUM_FOLDS - 1}, not {fold!r}")
        if len(self.classes) != len(HAYASHI_BANDS):
            raise ValueError(
                f"ACNE04 has {len(HAYASHI_BANDS)} grades; classes names {len(self.classes)}: {list(classes)}"
            )
        self._require_layout()

    def fingerprint(self) -> str:
        """sha256 of the names and the content of every photograph, split file and annotation."""
        return hash_files(self.root, [*self._images(), *self._lists(), *self._annotations()])

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """Join labels, folds, photographs and boxes; nothing is decoded yet."""
        images = {Path(name).name for name in self._images()}
        if not images:
            raise ValueError(f"{self.root / IMAGES} holds no images")
        listings, problems = self._read_lists()
        mislabelled = {problem.file_name for problem in problems}
        records, found = _join([listing for listing in listings if listing.file_name not in mislabelled])
        problems += found
        boxes, found = self._read_boxes(images)
        problems += found
        problems += [Problem(name, "is in a split file, but not in " + IMAGES) for name in sorted({*records} - images)]
        listed = mislabelled | {listing.file_name for listing in listings}
        problems += [Problem(name, "is in no split file") for name in sorted(images - listed)]

        rows = pd.DataFrame(
            [{"file_name": name, **record} for name, record in records.items() if name in images],
            columns=["file_name", "grade", "lesions", "fold"],
        )
        rows["severity"] = [self.classes[grade] for grade in rows["grade"]]
        rows["subject"] = rows["file_name"]
        rows["source"] = "real"
        rows["split"] = self._split(rows)
        boxes = boxes[boxes["file_name"].isin(rows["file_name"])]
        return Collected(
            rows=rows.drop(columns="grade"),
            images_root=self.images_root,
            boxes=boxes,
            problems=problems,
            report=self._report(rows, boxes),
        )

    # ------------------------------------------------------------------ files

    def _require_layout(self) -> None:
        for folder in (IMAGES, ANNOTATIONS):
            if not (self.root / folder).is_dir():
                found = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else "no such folder"
                raise ValueError(
                    f"data.root={self.root} is not ACNE04: expected {self.root / folder}; found {found}. "
                    "data.root is the folder that holds both Classification/ and Detection/"
                )
        missing = [name for name in self._lists() if not (self.root / name).is_file()]
        if missing:
            found = sorted(path.name for path in (self.root / LISTS).glob("*.txt"))
            raise ValueError(f"ACNE04 split files are missing below {self.root}: {', '.join(missing)}; found {found}")

    def _lists(self) -> list[str]:
        return [f"{LISTS}/NNEW_{part}_{fold}.txt" for part in ("trainval", "test") for fold in range(NUM_FOLDS)]

    def _images(self) -> list[str]:
        paths = sorted((self.root / IMAGES).iterdir())
        return [f"{IMAGES}/{path.name}" for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]

    def _annotations(self) -> list[str]:
        return [f"{ANNOTATIONS}/{path.name}" for path in sorted((self.root / ANNOTATIONS).glob("*.xml"))]

    def _read_lists(self) -> tuple[list[Listing], list[Problem]]:
        listings, problems = [], []
        for name in self._lists():
            _, part, fold = Path(name).stem.split("_")
            for number, line in enumerate((self.root / name).read_text(encoding="utf-8").splitlines(), start=1):
                words = line.split()
                if not words:
                    continue
                grade_and_lesions = words[1:]
                if len(words) != 3 or not all(word.isdecimal() for word in grade_and_lesions):
                    reason = f"{name} line {number} is not <file> <grade> <lesions>: {line.strip()!r}"
                elif int(words[1]) >= len(self.classes):
                    reason = f"{name} line {number} gives the grade {words[1]} (0 to 3 exist)"
                else:
                    listings.append(Listing(words[0], int(words[1]), int(words[2]), part, int(fold)))
                    continue
                problems.append(Problem(words[0], reason))
        return listings, problems

    def _read_boxes(self, images: set[str]) -> tuple[pd.DataFrame, list[Problem]]:
        """All lesion boxes, and a problem for each photograph or annotation that lacks the other."""
        file_of = {Path(name).stem: name for name in sorted(images)}
        boxes, problems = [], []
        annotations = {Path(name).stem: name for name in self._annotations()}
        for stem, name in annotations.items():
            if stem not in file_of:
                problems.append(Problem(name, "annotates a photograph that is not in " + IMAGES))
                continue
            try:
                boxes += [(file_of[stem], *corners) for corners in voc_boxes(self.root / name)]
            except (ElementTree.ParseError, ValueError) as error:
                problems.append(Problem(file_of[stem], f"{name} is not a Pascal VOC annotation ({error})"))
        problems += [Problem(file_of[stem], "has no annotation") for stem in sorted({*file_of} - {*annotations})]
        return pd.DataFrame(boxes, columns=list(BOX_COLUMNS)), problems

    # ------------------------------------------------------------------ what follows from them

    def _split(self, rows: pd.DataFrame) -> pd.Series:
        """test: the chosen fold. train and val: the others, the same way on every machine."""
        split = pd.Series("test", index=rows.index)
        rest = rows["fold"] != self.fold
        fractions = {"train": 1 - VAL_FRACTION, "val": VAL_FRACTION}
        split[rest] = subject_split(rows[rest], fractions=fractions, seed=self.fold)
        return split

    def _report(self, rows: pd.DataFrame, boxes: pd.DataFrame) -> dict:
        """Contradictions within the release that are known, counted, and left as they are."""
        bands = dict(zip(self.classes, HAYASHI_BANDS))
        num_boxes = boxes["file_name"].value_counts()
        prefixes, counts, boxed = [], [], []
        for name, grade, lesions in rows[["file_name", "grade", "lesions"]].itertuples(index=False):
            prefix = re.match(r"levle(\d+)_", name)
            if prefix and int(prefix[1]) != grade:
                prefixes.append({"file_name": name, "prefix": int(prefix[1]), "grade": grade})
            band = severity_of_count(lesions, bands)
            if band != self.classes[grade]:
                counts.append({"file_name": name, "lesions": lesions, "severity": self.classes[grade], "band": band})
            if num_boxes.get(name, 0) != lesions:
                boxed.append({"file_name": name, "lesions": lesions, "boxes": int(num_boxes.get(name, 0))})
        return {
            "fold": self.fold,
            "prefix_conflicts": prefixes,
            "band_conflicts": counts,
            "box_count_conflicts": boxed,
            "notes": [
                "each file is taken as a subject of its own",
                f"{len(prefixes)} of {len(rows)} file names disagree with their grade in the split files",
                f"{len(counts)} lesion counts lie outside the Hayashi band of their grade",
                f"{len(boxed)} lesion counts differ from the number of boxes",
            ],
        }


def voc_boxes(path: Path) -> list[tuple[float, float, float, float]]:
    """x0, y0, x1, y1 in pixels of every object of a Pascal VOC annotation.

    Raises:
        ElementTree.ParseError: not XML.
        ValueError: an object has no box of positive area.
    """
    boxes = []
    for number, item in enumerate(ElementTree.parse(path).getroot().iter("object"), start=1):
        corners = [item.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            raise ValueError(f"object {number} has no box")
        x0, y0, x1, y1 = map(float, corners)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"object {number} has a box without area: {x0:g}, {y0:g}, {x1:g}, {y1:g}")
        boxes.append((x0, y0, x1, y1))
    return boxes


def _join(listings: list[Listing]) -> tuple[dict[str, dict], list[Problem]]:
    """file name -> {grade, lesions, fold}; a file on which the split files disagree is a problem."""
    by_file: dict[str, list[Listing]] = defaultdict(list)
    for listing in listings:
        by_file[listing.file_name].append(listing)
    records, problems = {}, []
    for name, group in sorted(by_file.items()):
        labels = sorted({(listing.grade, listing.lesions) for listing in group})
        places = sorted((listing.part, listing.fold) for listing in group)
        test_folds = [fold for part, fold in places if part == "test"]
        if len(labels) > 1:
            said = " and ".join(f"grade {grade} with {lesions} lesions" for grade, lesions in labels)
            problems.append(Problem(name, f"the split files contradict each other: {said}"))
        elif places != _places(test_folds[0] if test_folds else -1):
            found = ", ".join(f"{part}_{fold}" for part, fold in places)
            problems.append(
                Problem(name, f"must be in one test file and the other four trainval files, but is in {found}")
            )
        else:
            (grade, lesions), (fold,) = labels[0], test_folds
            records[name] = {"grade": grade, "lesions": lesions, "fold": fold}
    return records, problems


def _places(test_fold: int) -> list[tuple[str, int]]:
    return [("test", test_fold), *(("trainval", fold) for fold in range(NUM_FOLDS) if fold != test_fold)]
