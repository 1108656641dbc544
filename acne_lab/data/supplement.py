"""The published supplement to ACNE04 (DGM4MICCAI 2025, LNCS 16128, pages 99-108): edited faces for its rare grades.

    <root>/levle2_generated/*.jpg      218 faces that count as severe
    <root>/levle3_generated/*.jpg      271 faces that count as very severe

The folder is the grade. Which photographs of ACNE04 they were edited from has not been published, so their people may
be in any test set of it: `report["unknown_parents"]` says so to whoever trains on them.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import pandas as pd

from acne_lab.data.collect import Collected, Problem, build_table, hash_files
from acne_lab.data.photo import IMAGE_SUFFIXES
from acne_lab.data.table import ImageTable


@dataclass(frozen=True)
class Part:
    """A folder of the supplement."""

    folder: str
    grade: int  # of ACNE04, 0 to 3
    num_published: int


PARTS = (Part("levle2_generated", 2, 218), Part("levle3_generated", 3, 271))
NUM_GRADES = 4


def read_supplement(root: str | Path, table: ImageTable, out_dir: Path) -> ImageTable:
    """The image table of the supplement, in `out_dir`: training rows of the two rare grades of `table`.

    Args:
        root: the folder that holds the two folders.
        table: the ACNE04 table that the rows are to join. A file that is one of its photographs, byte by byte, is no
            edit: it is left out, and `report["dropped"]` names it.
        out_dir: the new table's folder; it links to `root`.

    Returns:
        rows with source "edited", split "train", and neither parent, subject nor lesion count, which nobody has
        published. The folder is part of their names, so that these are none of the table's; `classes` are the table's.

    Raises:
        BadData: files cannot be read as images, or a folder has none.
        ValueError: a folder is missing, or the table has not ACNE04's four grades.
    """
    found = build_table(Supplement(root, classes=table.classes), out_dir, split=None, on_bad="error", num_workers=2)
    place = {row.sha256: f"{row.file_name}, split {row.split}" for row in table.rows.itertuples()}
    is_copy = found.rows["sha256"].isin(place)
    copies = [
        Problem(row.file_name, f"is a photograph of the table, unchanged: {place[row.sha256]}")
        for row in found.rows[is_copy].itertuples()
    ]
    rows = found.rows[~is_copy]
    first = rows.drop_duplicates("sha256").set_index("sha256")["file_name"]
    again = rows[rows["sha256"].duplicated()]
    taken = {PurePosixPath(name).name for name in table.rows["file_name"]}
    num_homonyms = sum(PurePosixPath(name).name in taken for name in rows["file_name"])
    notes = list(found.report["notes"])
    if copies:
        notes.append(f"{len(copies)} files are unchanged photographs of the table and were left out")
    if num_homonyms:
        notes.append(f"{num_homonyms} files are called as a photograph of the table is, in another folder")
    report = {
        **found.report,
        "num_images": len(rows),
        "num_subjects": 0,
        "dropped": [asdict(problem) for problem in copies],
        "duplicates": [
            {"file_name": row.file_name, "same_as": first[row.sha256], "kept": True} for row in again.itertuples()
        ],
        "notes": notes,
    }
    supplement = replace(found, rows=rows, classes=table.classes, report=report)
    supplement.write()
    return supplement


class Supplement:
    """The user's copy of the supplement as a source.

    Args:
        root: the folder that holds the two folders.
        classes: the names of ACNE04's four grades.

    Raises:
        ValueError: a folder is missing, or there are not four grades.
    """

    def __init__(self, root: str | Path, *, classes: tuple[str, ...]) -> None:
        if len(classes) != NUM_GRADES:
            raise ValueError(
                f"the supplement belongs to ACNE04 with its {NUM_GRADES} grades; the table has {', '.join(classes)}"
            )
        self.images_root = Path(root).expanduser()
        missing = [part.folder for part in PARTS if not (self.images_root / part.folder).is_dir()]
        if missing:
            here = self.images_root
            found = ", ".join(sorted(path.name for path in here.iterdir())) if here.is_dir() else "no such folder"
            raise ValueError(
                f"balance.root={root} is not the supplement to ACNE04: expected the folders "
                f"{' and '.join(part.folder for part in PARTS)} in it, found {found or 'nothing'}"
            )
        self.severity_of = {part.folder: classes[part.grade] for part in PARTS}
        self.classes = tuple(self.severity_of.values())

    def fingerprint(self) -> str:
        """sha256 of the names and the content of the images."""
        return hash_files(self.images_root, self._images())

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """The images with the grades of their folders; nothing is decoded yet."""
        rows = pd.DataFrame({"file_name": self._images()}, dtype=object)
        folder = rows["file_name"].str.partition("/")[0]
        rows["severity"] = folder.map(self.severity_of)
        rows = rows.assign(lesions=None, subject="", source="edited", split="train", parent="")
        return Collected(
            rows=rows,
            images_root=self.images_root,
            report={
                "unknown_parents": True,
                "population": "",
                "notes": [
                    "edited photographs of ACNE04; of which ones, and so of whom, has not been published",
                    *(
                        f"{part.folder}: {int((folder == part.folder).sum())} of the {part.num_published} published"
                        for part in PARTS
                    ),
                ],
            },
        )

    def _images(self) -> list[str]:
        """Their names relative to `images_root`, hidden ones left out."""
        return [
            f"{part.folder}/{path.name}"
            for part in PARTS
            for path in sorted((self.images_root / part.folder).iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
