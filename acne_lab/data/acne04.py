"""ACNE04 (Wu et al., "Joint Acne Image Grading and Counting via Label Distribution Learning", ICCV 2019) as
released.

The release comes in two trees, and neither is enough alone:

    <root>/Classification/JPEGImages/levle0_12.jpg          the photographs ("levle" is the release's word)
    <root>/Classification/NNEW_{trainval,test}_{0..4}.txt   five folds; a line is <file> <grade 0-3> <lesions>
    <root>/Detection/VOC2007/Annotations/levle0_12.xml      lesion boxes, Pascal VOC

The split files are the labels; the number in a file's name is not (in the release they disagree for 42
files).

Nor do the official folds keep people apart: the release shows many persons more than once, some on both sides
of a fold, and some photographs twice, under two grades even. So who is on a photograph and which are copies
is found out here (`subjects`, `duplicates`), and two families of splits by subject stand beside the official one.

It does not know a person's name, and finds no face in about one photograph of ten.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from acne_lab.colour import skin_type
from acne_lab.data.annotations import (
    Box,
    VocFile,
    circle_boxes,
    fitted_boxes,
    read_circles,
    read_voc,
    upright_boxes,
)
from acne_lab.data.collect import Collected, Problem, hash_each, hash_files, hash_of, severity_of_count
from acne_lab.data.duplicates import by_quality, connected, copies_of_best, near_duplicates
from acne_lab.data.examine import Examination, Examiner, examine
from acne_lab.data.faces import INSTALL, FaceFinder, IdentityEmbedder, faces_available
from acne_lab.data.photo import IMAGE_SUFFIXES, SIDEWAYS
from acne_lab.data.protocols import NUM_FOLDS, PROTOCOLS, leak_of_official_folds, with_splits
from acne_lab.data.subjects import UNKNOWN, People, group_people
from acne_lab.data.table import BOX_COLUMNS

POPULATION = "acne04"  # how the names of populations begin; each grouping of the photographs is one
HAYASHI_BANDS = (5, 20, 50, None)  # largest lesion count of each grade (Hayashi et al., J. Dermatol. 2008)

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
        classes: names of the grades 0 to 3.
        protocol: which split the table carries: "subject" 70, 10 and 20 % of the people; "subject_fold" the
            people in five folds, of which `fold` is the test split; "official" the release's folds, which share
            people (and copies) between train and test. In the latter two an eighth of the rest is val.
        fold: 0 to 4.
        subjects: how people are told apart: "faces" by the similarity of their faces; "files" not at all, each
            photograph (with its copies) is a subject of its own.
        duplicates: "drop" keeps one copy of each photograph, and none where the copies have different grades (a
            label that contradicts itself is worse than none); "keep" keeps all, under one subject, as released.
        annotations_v2: the JSON file of ACNE04-v2; its lesions take the place of the release's where it has the
            photograph. None: the release's alone.
        cache_dir: where examinations of photographs are kept, which take a few tenths of a second each.
        blazeface: the detectors' .tflite files, if they are not installed (`faces.FaceFinder`).
        identity: "dlib", or an ArcFace .onnx file (`faces.IdentityEmbedder`).

    Raises:
        ValueError: a folder or a split file of the release is missing, an argument is out of range, or what finds
            faces is not installed.
    """

    def __init__(
        self,
        *,
        root: str,
        classes: list[str],
        protocol: Literal["subject", "subject_fold", "official"] = "subject",
        fold: int = 0,
        subjects: Literal["faces", "files"] = "faces",
        duplicates: Literal["drop", "keep"] = "drop",
        annotations_v2: str | None = None,
        cache_dir: str = "runs/examined",
        blazeface: str | None = None,
        identity: str = "dlib",
    ) -> None:
        self.root = Path(root).expanduser()
        self.images_root = self.root / IMAGES
        self.classes = tuple(classes)
        self.protocol, self.fold = protocol, fold
        self.subjects, self.duplicates = subjects, duplicates
        self.annotations_v2 = None if annotations_v2 is None else Path(annotations_v2).expanduser()
        self.cache_dir = Path(cache_dir)
        for name, value, allowed in (
            ("protocol", protocol, PROTOCOLS),
            ("subjects", subjects, ("faces", "files")),
            ("duplicates", duplicates, ("drop", "keep")),
        ):
            if value not in allowed:
                raise ValueError(f"data.{name} must be one of {', '.join(allowed)}, not {value!r}")
        if fold not in range(NUM_FOLDS):
            raise ValueError(f"fold must be 0 to {NUM_FOLDS - 1}, not {fold!r}")
        if len(self.classes) != len(HAYASHI_BANDS):
            raise ValueError(
                f"ACNE04 has {len(HAYASHI_BANDS)} grades; classes names {len(self.classes)}: {list(classes)}"
            )
        self._require_layout()
        if self.annotations_v2 is not None and not self.annotations_v2.is_file():
            raise ValueError(f"data.annotations_v2={annotations_v2}: there is no such file")
        self.circles = {} if self.annotations_v2 is None else read_circles(self.annotations_v2)
        self.examiner = self._examiner(blazeface, identity)

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 of every photograph, split file and annotation: read once, however many ask."""
        return hash_each(self.root, [*self._images(), *self._lists(), *self._annotations()])

    def fingerprint(self) -> str:
        """sha256 of the names and the content of all files, and of what examines them."""
        others = {"examiner": self.examiner.version}
        if self.annotations_v2 is not None:
            others["annotations_v2"] = hash_files(self.annotations_v2.parent, [self.annotations_v2.name])
        return hash_of({**self.digests, **others})

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """Join labels, folds, photographs and boxes; find copies and people; split."""
        images = {Path(name).name for name in self._images()}
        if not images:
            raise ValueError(f"{self.root / IMAGES} holds no images")
        if self.circles and not self.circles.keys() & {Path(name).stem for name in images}:
            raise ValueError(f"data.annotations_v2={self.annotations_v2} marks none of these photographs")
        listings, problems = self._read_lists()
        mislabelled = {problem.file_name for problem in problems}
        records, found = _join([listing for listing in listings if listing.file_name not in mislabelled])
        problems += found
        problems += [Problem(name, "is in a split file, but not in " + IMAGES) for name in sorted({*records} - images)]
        listed = mislabelled | {listing.file_name for listing in listings}
        problems += [Problem(name, "is in no split file") for name in sorted(images - listed)]

        examined, found = self._examine(sorted(images), num_workers)
        problems += found
        boxes, found, notes = self._read_lesions(images, examined)
        problems += found

        wrong = {problem.file_name for problem in problems}
        rows = pd.DataFrame(
            [{"file_name": name, **record} for name, record in sorted(records.items()) if name in examined],
            columns=["file_name", "grade", "lesions", "official_fold"],
        )
        rows["severity"] = [self.classes[grade] for grade in rows["grade"]]
        rows["source"] = "real"
        rows["sha256"] = [self.digests[f"{IMAGES}/{name}"] for name in rows["file_name"]]
        rows = rows[~rows["file_name"].isin(wrong)].reset_index(drop=True)
        rows, report = self._find_people([examined[name] for name in rows["file_name"]], rows)
        boxes = boxes[boxes["file_name"].isin(rows["file_name"])]
        known = self._report(rows, boxes)
        report = {**known, **report, "notes": [*report["notes"], *known["notes"], *notes]}
        return Collected(
            rows=rows.drop(columns="grade"),
            images_root=self.images_root,
            boxes=boxes,
            problems=problems,
            report=report,
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

    def _examine(self, names: list[str], num_workers: int) -> tuple[dict[str, Examination], list[Problem]]:
        """Every photograph looked at, and those that cannot be read."""
        results = examine(
            [self.images_root / name for name in names],
            [self.digests[f"{IMAGES}/{name}"] for name in names],
            self.examiner,
            cache_dir=self.cache_dir,
            num_workers=num_workers,
        )
        unreadable = [Problem(name, result) for name, result in zip(names, results) if isinstance(result, str)]
        return {name: result for name, result in zip(names, results) if not isinstance(result, str)}, unreadable

    def _read_lesions(
        self, images: set[str], examined: dict[str, Examination]
    ) -> tuple[pd.DataFrame, list[Problem], list[str]]:
        """All lesion boxes; a problem for each photograph or annotation that lacks or contradicts the other; notes."""
        file_of = {Path(name).stem: name for name in sorted(images)}
        boxes_of, problems, notes = {}, [], []
        annotations = {Path(name).stem: name for name in self._annotations()}
        for stem, name in annotations.items():
            if stem not in file_of:
                problems.append(Problem(name, "annotates a photograph that is not in " + IMAGES))
                continue
            try:
                annotation = read_voc(self.root / name)
                if (photograph := examined.get(file_of[stem])) is not None:
                    boxes_of[stem] = fitted_boxes(_upright(annotation, photograph), photograph.size)
            except (ElementTree.ParseError, ValueError) as error:
                problems.append(Problem(file_of[stem], f"{name} is not a Pascal VOC annotation of it ({error})"))
        problems += [Problem(file_of[stem], "has no annotation") for stem in sorted({*file_of} - {*annotations})]
        if self.annotations_v2 is not None:
            marked = sorted(stem for stem in self.circles if file_of.get(stem) in examined)
            num_rejected = 0
            for stem in marked:
                photograph = examined[file_of[stem]]
                boxes_of[stem], rejected = circle_boxes(self.circles[stem], photograph.size, photograph.orientation)
                num_rejected += len(rejected)
            notes = [
                f"the lesions of {len(marked)} photographs are those of ACNE04-v2, of the others the release's",
                f"{num_rejected} circles of ACNE04-v2 were left out: outside of the picture, or larger than any lesion",
            ]
        pairs = [(file_of[stem], *box) for stem in sorted(boxes_of) for box in boxes_of[stem]]
        return pd.DataFrame(pairs, columns=list(BOX_COLUMNS)), problems, notes

    def _examiner(self, blazeface: str | None, identity: str) -> Examiner:
        if self.subjects == "files":
            return Examiner()
        if not faces_available():
            raise ValueError(
                f"telling people apart by their faces needs {INSTALL}; data.subjects=files takes each photograph as a "
                "person of its own, and then nothing keeps one person out of both train and test"
            )
        return Examiner(finder=FaceFinder(blazeface=blazeface), embedder=IdentityEmbedder(model=identity))

    # ------------------------------------------------------------------ what follows from them

    def _find_people(self, examined: list[Examination], rows: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
        """The rows that stay, with subjects and splits; and what was found."""
        names = rows["file_name"].tolist()
        sizes = [examination.size for examination in examined]
        links = near_duplicates(
            [examination.hash for examination in examined], [examination.thumbnail for examination in examined], sizes
        )
        by_content = rows.groupby("sha256").indices.values()
        copies = [(int(group[0]), int(other)) for group in by_content for other in group[1:]]
        same = copies + links
        groups = copies_of_best(same, by_quality(sizes, [one.num_bytes for one in examined], names))

        people = self._people(names, examined, same)
        first_of: dict[int, str] = {}
        for name, label in sorted(zip(names, people.labels.tolist())):
            first_of.setdefault(label, name)
        rows = rows.assign(
            subject=[first_of[label] for label in people.labels.tolist()], subject_confidence=people.confidence
        )
        if self.subjects == "faces":
            rows["face_found"] = [bool(examination.detector) for examination in examined]
            rows["skin_tone"] = _skin_tones(rows["subject"], [examination.angle for examination in examined])
        report = {
            "protocol": self.protocol,
            "population": f"{POPULATION}-{hash_of(dict(zip(rows['sha256'], rows['subject'])))[:8]}",
            "people_known": self.subjects == "faces",
            "subjects": people.report,
            "faces": _faces_report(examined) if self.subjects == "faces" else {},
            "leak": leak_of_official_folds(rows, groups),
            **self._copies_report(rows, groups, examined),
        }
        gone = set()
        if self.duplicates == "drop":
            torn = {name for entry in report["conflicts"] for name in entry["file_names"]}
            gone = torn | {entry["file_name"] for entry in report["duplicates"]}
        left_out = rows["file_name"].isin(gone)
        # For the lineage: who has seen one of them elsewhere has seen the person.
        report["left_out"] = rows.loc[left_out, ["sha256", "subject"]].to_dict("records")
        rows = rows[~left_out].reset_index(drop=True)
        report["notes"] = self._notes(report)
        return with_splits(rows, protocol=self.protocol, fold=self.fold), report

    def _people(self, names: list[str], examined: list[Examination], same: list[tuple[int, int]]) -> People:
        if self.subjects == "files":
            labels = connected(len(names), same)
            num = int(labels.max(initial=-1)) + 1
            return People(labels, np.full(len(names), UNKNOWN), {"num_photographs": len(names), "num_subjects": num})
        return group_people(
            names,
            [examination.identity for examination in examined],
            [examination.thumbnail for examination in examined],
            same,
            model=self.examiner.embedder.name,
            mirrored=[examination.mirrored for examination in examined],
        )

    def _copies_report(self, rows: pd.DataFrame, groups: list[list[int]], examined: list[Examination]) -> dict:
        """duplicates: each copy and the one that is the best of them; conflicts: copies with different grades."""
        names, grades, digests = (rows[column].tolist() for column in ("file_name", "severity", "sha256"))
        duplicates, conflicts = [], []
        for best, *others in groups:
            group = [best, *others]
            severities = sorted({grades[i] for i in group}, key=self.classes.index)
            if len(severities) > 1:
                found = sorted(names[i] for i in group)
                conflicts.append({"file_name": found[0], "file_names": found, "severities": severities})
                continue
            duplicates += [
                {
                    "file_name": names[i],
                    "same_as": names[best],
                    "distance_bits": (examined[i].hash ^ examined[best].hash).bit_count(),
                    "bytes_equal": digests[i] == digests[best],
                }
                for i in sorted(others, key=names.__getitem__)
            ]
        return {"duplicates": duplicates, "conflicts": conflicts}

    def _notes(self, report: dict) -> list[str]:
        """What of it a user must know, in sentences."""
        people, faces = report["subjects"], report["faces"]
        fate = "left out" if self.duplicates == "drop" else "kept"
        notes = [
            f"{len(report['duplicates'])} copies of other photographs were {fate}",
            f"{len(report['conflicts'])} photographs are there more than once under different grades: all of their "
            f"copies were {fate}",
        ]
        if self.subjects == "files":
            notes += ["nobody looked at who is who (data.subjects=files): each photograph is a subject of its own"]
        else:
            notes += [
                f"a face was found on {faces['found']} of {faces['photographs']} photographs "
                f"({100 * faces['share_found']:.1f} %)",
                f"{people['num_subjects']} people, {people['largest']} photographs of one at most; links from a "
                f"similarity of {people['threshold']:.3f} on"
                + (
                    ""
                    if people["calibrated"]
                    else ", which is the literature's: too few photographs or people to learn one from"
                ),
            ]
            if 2 * people["largest"] > people["num_photographs"]:
                notes.append(
                    f"{people['largest']} of {people['num_photographs']} photographs show one person: so it is, or "
                    "these faces cannot be told apart, and a split by person says nothing (data.subjects=files takes "
                    "each photograph for a person's only one, data.identity=FILE.onnx compares by another network)"
                )
        known = "" if self.subjects == "faces" else ", as far as copies show it"
        for fold, leak in enumerate(report["leak"].values()):
            notes.append(
                f"official fold {fold}: {100 * leak['share_of_known_people']:.1f} % of the test photographs show a "
                f"person of the trainval file{known}, {100 * leak['share_of_copies']:.1f} % are a copy from there"
            )
        return notes

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
            if Path(name).stem not in self.circles and num_boxes.get(name, 0) != lesions:
                boxed.append({"file_name": name, "lesions": lesions, "boxes": int(num_boxes.get(name, 0))})
        return {
            "fold": self.fold,
            "prefix_conflicts": prefixes,
            "band_conflicts": counts,
            "box_count_conflicts": boxed,
            "notes": [
                f"{len(prefixes)} of {len(rows)} file names disagree with their grade in the split files",
                f"{len(counts)} lesion counts lie outside the Hayashi band of their grade",
                f"{len(boxed)} lesion counts differ from the number of boxes",
            ],
        }


def _faces_report(examined: list[Examination]) -> dict:
    """On how many photographs a face was found, and by which detector."""
    by_detector = Counter(examination.detector for examination in examined if examination.detector)
    found = by_detector.total()
    share = round(found / max(len(examined), 1), 4)
    return {"photographs": len(examined), "found": found, "share_found": share, **dict(sorted(by_detector.items()))}


def _skin_tones(subjects: pd.Series, angles: list[float | None]) -> pd.Series:
    """1 to 6, Int64: of each row's person, whose photographs were taken under different lamps; <NA> if no cheek of
    theirs was seen."""
    angle = pd.Series(angles, index=subjects.index, dtype=float).groupby(subjects).transform("median")
    return angle.map(skin_type, na_action="ignore").astype("Int64")


def _upright(annotation: VocFile, photograph: Examination) -> list[Box]:
    """The boxes on the upright photograph, whether they were drawn on it or on the pixels as they are stored.

    Of a photograph that stands on its head, whose size does not tell, they are taken as drawn upright.
    """
    if annotation.size in (None, photograph.size):
        return annotation.boxes
    if photograph.orientation in SIDEWAYS and annotation.size == photograph.size[::-1]:
        return upright_boxes(annotation.boxes, annotation.size, photograph.orientation)
    raise ValueError(f"it is of a photograph of {_times(annotation.size)} px, this one has {_times(photograph.size)}")


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _join(listings: list[Listing]) -> tuple[dict[str, dict], list[Problem]]:
    """file name -> {grade, lesions, official_fold}; a file on which the split files disagree is a problem."""
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
            records[name] = {"grade": grade, "lesions": lesions, "official_fold": fold}
    return records, problems


def _places(test_fold: int) -> list[tuple[str, int]]:
    return [("test", test_fold), *(("trainval", fold) for fold in range(NUM_FOLDS) if fold != test_fold)]
