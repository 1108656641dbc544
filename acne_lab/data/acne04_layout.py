"""A table and the rows that were added to it, laid out as ACNE04 is released, for code that knows nothing else.

    Classification/JPEGImages/*                             links to the photographs and to the added images
    Classification/NNEW_{trainval,test}_{0..4}.txt          <file> <grade> <lesions>; added images in trainval alone
    Detection/VOC2007/Annotations/*.xml                     all boxes, old and new, in px of the upright photograph

An added image is in the trainval list of those folds alone whose test list shows nobody that it descends from. It does
not know of photographs that the table has dropped, duplicates for one: they are not in the folder either.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pandas as pd
from PIL import Image

from acne_lab.data.acne04 import ANNOTATIONS, IMAGES, LISTS, NUM_FOLDS
from acne_lab.data.lineage import OFFICIAL, Lineage
from acne_lab.data.photo import upright_size
from acne_lab.data.splits import subject_split
from acne_lab.data.table import BOX_COLUMNS, ImageTable


def write_acne04(
    folder: Path,
    table: ImageTable,
    added: ImageTable,
    *,
    folds: Literal["official", "subject"],
    learned_from: Lineage,
    copy: bool,
) -> dict[int, int]:
    """Write the folder, in the place of an older one.

    Args:
        folder: what `data.root` of other people's code is to be.
        table: the photographs; column `official_fold` or `subject_fold` (0-4). A table without it is dealt into five
            folds by subject.
        added: edits of its rows (column `parent`).
        folds: which of the two.
        learned_from: whose photographs the editor had seen, besides the one that it edited.
        copy: files in place of links.

    Returns:
        fold -> number of added images in its trainval list.

    Raises:
        ValueError: images without a lesion count, or two of one name.
    """
    if uncounted := int(table.rows["lesions"].isna().sum() + added.rows["lesions"].isna().sum()):
        raise ValueError(
            f"ACNE04's lists have a lesion count for every image, and {uncounted} of these have none: "
            "use the table itself (layout=table), or edits that count (balance=acnedit)"
        )
    names, added_names = _flat_names(table.rows["file_name"]), [Path(name).name for name in added.rows["file_name"]]
    if len({*names, *added_names}) < len(names) + len(added_names):
        raise ValueError(f"images of {table.root} and {added.root} would have the same name in ACNE04's one folder")
    fold = fold_of(table, folds)
    relatives = table.rows.set_index("file_name")["subject"]
    photographs, seen = set(relatives.index), _seen_by_editor(table, learned_from)

    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    for part in (IMAGES, ANNOTATIONS):
        (aside / part).mkdir(parents=True)
    for each, flat in ((table, names), (added, added_names)):
        boxes = {} if each.boxes is None else dict(list(each.boxes.groupby("file_name")))
        for file_name, name in zip(each.rows["file_name"], flat, strict=True):
            _place(each.root / file_name, aside / IMAGES / name, folder / IMAGES / name, copy=copy)
            found = boxes[file_name][list(BOX_COLUMNS[1:])].to_numpy().tolist() if file_name in boxes else []
            annotation = (aside / ANNOTATIONS / name).with_suffix(".xml")
            annotation.write_bytes(voc_annotation(name, _size(each.root / file_name), found))

    numbers = {}
    for number in range(NUM_FOLDS):
        tested = table.rows[fold == number]
        barred = {*tested["file_name"], *relatives.index[relatives.isin(set(tested["subject"]) - {""})]}
        if not learned_from.known or not seen.isdisjoint(tested["file_name"]):
            barred = photographs
        joins = added.rows["parent"].isin(photographs - barred)
        trained = [*_lines(table, names, fold != number), *_lines(added, added_names, joins)]
        (aside / LISTS / f"NNEW_trainval_{number}.txt").write_text("".join(trained))
        (aside / LISTS / f"NNEW_test_{number}.txt").write_text("".join(_lines(table, names, fold == number)))
        numbers[number] = int(joins.sum())
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)
    return numbers


def _seen_by_editor(table: ImageTable, learned_from: Lineage) -> set[str]:
    """File names of the photographs whose people it has seen; of published folds, which share people, its own alone."""
    if table.report.get("protocol") != OFFICIAL:
        return set(learned_from.touched(table))
    return set(table.rows.loc[table.rows["sha256"].isin(learned_from.rows["sha256"]), "file_name"])


def fold_of(table: ImageTable, folds: Literal["official", "subject"]) -> pd.Series:
    """Each row's fold, 0 to 4."""
    if folds not in ("official", "subject"):
        raise ValueError(f"folds must be official or subject, not {folds!r}")
    if (column := f"{folds}_fold") in table.rows:
        return table.rows[column]
    shares = {str(number): 1 / NUM_FOLDS for number in range(NUM_FOLDS)}
    people = table.rows.assign(
        subject=table.rows["subject"].where(table.rows["subject"] != "", table.rows["file_name"])
    )
    return pd.Series(subject_split(people, fractions=shares, seed=0)).astype(int)


def voc_annotation(name: str, size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> bytes:
    """A Pascal VOC annotation with one class, `fore`.

    Args:
        name: of the image file.
        size: its width and height in px.
        boxes: x0 y0 x1 y1 in px; they are rounded, to one pixel at least.
    """
    annotation = ElementTree.Element("annotation")
    _texts(annotation, folder="JPEGImages", filename=name)
    _texts(ElementTree.SubElement(annotation, "size"), width=size[0], height=size[1], depth=3)
    for corners in boxes:
        x0, y0 = (min(round(corner), side - 1) for corner, side in zip(corners, size))
        x1, y1 = max(round(corners[2]), x0 + 1), max(round(corners[3]), y0 + 1)
        item = ElementTree.SubElement(annotation, "object")
        _texts(item, name="fore", pose="Unspecified", truncated=0, difficult=0)
        corner = ElementTree.SubElement(item, "bndbox")
        _texts(corner, xmin=x0, ymin=y0, xmax=x1, ymax=y1)
    ElementTree.indent(annotation)
    return ElementTree.tostring(annotation)


def _texts(element: ElementTree.Element, **values: object) -> None:
    for name, value in values.items():
        ElementTree.SubElement(element, name).text = str(value)


def _flat_names(file_names: Sequence[str]) -> list[str]:
    """images/a b/c.jpg -> a_b_c.jpg: names in one folder, which lists can hold."""
    return [re.sub(r"[\s/]+", "_", name.removeprefix("images/")) for name in file_names]


def _lines(table: ImageTable, names: Sequence[str], chosen: pd.Series) -> list[str]:
    listed = zip(names, table.labels, table.rows["lesions"], chosen, strict=True)
    return [f"{name}  {grade}  {lesions}\n" for name, grade, lesions, is_chosen in listed if is_chosen]


def _place(source: Path, aside: Path, place: Path, *, copy: bool) -> None:
    """Copy or link a file; a link inside of one run is relative, so that the run can be moved."""
    if copy:
        shutil.copyfile(source, aside)
        return
    source, run = source.resolve(), place.parents[3].resolve()
    aside.symlink_to(os.path.relpath(source, place.parent.resolve()) if source.is_relative_to(run) else source)


def _size(path: Path) -> tuple[int, int]:
    """(width, height) in px of the upright photograph, as the table's boxes are; only the file's header is read."""
    with Image.open(path) as image:
        return upright_size(image)
