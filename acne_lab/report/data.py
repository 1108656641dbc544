"""Write an image table up: one HTML page of what it holds, what was found wrong in it, and what follows for its use.

The page is for the person who has the photographs: thumbnails of them are part of it, unless they are left out. Where
they lie on the machine is not said. Of whom the photographs are, whether labels are right: it repeats what the table's
report says, and finds out nothing by itself but sizes, exact duplicates and who is in several splits.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from acne_lab.data.slices import lesion_diameters
from acne_lab.data.table import SOURCES, SPLITS, ImageTable, replace_text
from acne_lab.report import plots
from acne_lab.report.collect import without_machine_paths
from acne_lab.report.parts import (
    SOURCE_NAMES,
    Picture,
    as_drawing,
    counted,
    html_templates,
    shared_subjects,
    thumbnails,
)

PAGE = "report.html"
NUM_CONTACT = 10  # images shown of each severity and source
_KIND, _YES_NO = '<meta name="contact-sheet" content="{}">', {True: "yes", False: "no"}
NUM_LISTED = 40  # lines of a finding on the page; table.json has them all
ACNE04_V2_SIZES = (-4.259, 0.516, "ACNE04-v2, log-normal")  # 32,443 circles on 1,204 photographs

_KINDS = {  # what the images of one source are called, together
    "real": ("photograph", "photographs"),
    "toy": ("toy face", "toy faces"),
    "edited": ("edited photograph", "edited photographs"),
    "generated": ("generated image", "generated images"),
}
_FINDINGS = {  # lists in a table's report that have a heading of their own: heading, one, several, explanation
    "duplicates": ("Duplicates", "duplicate", "duplicates", "Photographs that are in the source more than once."),
    "conflicts": ("Conflicts", "conflict", "conflicts", "Labels that contradict each other."),
    "prefix_conflicts": (
        "Names and grades",
        "name against its grade",
        "names against their grades",
        "Files whose name has another grade than the split files say.",
    ),
    "band_conflicts": (
        "Counts and grades",
        "count outside of its grade",
        "counts outside of their grades",
        "Lesion counts outside of the Hayashi band of their grade.",
    ),
    "box_count_conflicts": (
        "Counts and boxes",
        "count unlike its boxes",
        "counts unlike their boxes",
        "Lesion counts that are not the number of boxes.",
    ),
    "dropped": ("Left out", "file left out", "files left out", "Not in the table, although the source has them."),
}
_WHO = {  # numbers in a table's report that belong to the people
    "faces": ("Faces", "On how many photographs one was found, and by which detector."),
    "subjects": ("Who is who", "How photographs were put together into people."),
}
_LEAK = {"leak": ("Leak of the official folds", "What their test photographs share with those they train on.")}
_SHOWN = {"notes", "num_images", "num_subjects", "protocol", "population", "unknown_parents", *_FINDINGS, *_WHO, *_LEAK}
_SHOWN |= {"left_out", "people_known"}  # for lineages; the findings and notes tell what there is to it


@dataclass(frozen=True)
class Finding:
    """Something that was found: a list of lines or a table of numbers."""

    title: str
    about: str
    number: int | None  # None: what is shown is measured, not counted
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def num_more(self) -> int:
        return max(0, (self.number or 0) - len(self.rows))


@dataclass(frozen=True)
class Strip:
    """Images of one severity and source."""

    severity: str
    source: str
    images: tuple[Picture, ...]


def write_data_report(table: ImageTable, run_dir: Path, *, contact_sheet: bool = True) -> Path:
    """Write `report.html` into `run_dir`, the folder of the run that holds the table or of the table, and return it.

    Args:
        table: of any source; what it does not know has no section.
        run_dir: its last part names the page.
        contact_sheet: False: no image is on the page.
    """
    run_dir = Path(run_dir).resolve()
    facts = _facts(_without_paths(table, run_dir), run_dir, contact_sheet)
    replace_text(run_dir / PAGE, html_templates().get_template("data.html.j2").render(facts))
    return run_dir / PAGE


def has_data_report(run_dir: Path, *, contact_sheet: bool) -> bool:
    """Whether the page is there, and written with the contact sheet that is wanted: with it, or without any image."""
    page = Path(run_dir) / PAGE
    return page.is_file() and _KIND.format(_YES_NO[contact_sheet]) in page.read_text(encoding="utf-8")


def data_lines(table: ImageTable) -> list[str]:
    """What the job that made the table prints, each time it is asked, and the page begins with: at most six lines."""
    rows = table.rows
    lines = [_headline(table)]
    if table.classes:
        by_class = table.counts().sum(axis=1)
        lines.append(", ".join(f"{name} {number:,}" for name, number in by_class.items()))
    by_split = rows["split"].value_counts().reindex(list(SPLITS), fill_value=0)
    protocol = table.report.get("protocol")
    in_splits = ", ".join(f"{name} {number:,}" for name, number in by_split.items())
    lines.append(in_splits + (f" (protocol {protocol})" if protocol else ""))
    found = [
        counted(len(table.report[key]), one, many)
        for key, (_, one, many, _) in _FINDINGS.items()
        if table.report.get(key)
    ]
    if found:
        lines.append("found: " + ", ".join(found))
    if leak := table.report.get("leak"):
        lines.append(_leak_line(leak.values(), by_face=bool(table.report.get("faces"))))
    if table.report.get("unknown_parents"):
        lines.append("unknown parents: nobody has listed whose photographs these are or descend from")
    return lines


def _leak_line(folds: Iterable[Mapping], *, by_face: bool) -> str:
    """What the official folds share between train and test, on average; people, if nobody compared faces, by copies."""
    folds = list(folds)

    def percent(key: str) -> str:
        return f"{100 * np.mean([fold[key] for fold in folds]):.1f} %"

    known = "" if by_face else ", as far as copies show it"
    return (
        f"official folds as released: {percent('share_of_known_people')} of the test photographs show a person of the "
        f"trainval file{known}, {percent('share_of_copies')} are a copy from there"
    )


def reading(table: ImageTable) -> list[str]:
    """What must be known before a number that comes from this table is believed."""
    rows, report = table.rows, table.report
    made = rows["source"].isin(("edited", "generated"))
    said = []
    if table.is_drawn:
        said.append("The faces are drawn by code. They show whether a pipeline works, and nothing about acne.")
    shared = shared_subjects(rows)
    known = rows.loc[rows["subject"] != "", "subject"]
    if shared:
        said.append(
            f"{counted(shared, 'subject')} {'is' if shared == 1 else 'are'} in more than one split: a grader meets "
            "people of its test set in training, and its scores come out too high."
        )
    elif len(known) > 1 and known.is_unique and not made.all() and not any(_numbers(rows, "subject_confidence") or ()):
        said.append(
            "Each photograph counts as a person of its own. If people are there more than once, they are in several "
            "splits, and scores come out too high."
        )
    if len(known) > 1 and 2 * (most := int(known.value_counts().iloc[0])) > len(known):
        said.append(
            f"{most:,} of {len(known):,} photographs are of one person, by the table's account: a split by person "
            "cannot share them out."
        )
    if empty := [name for name in ("train", "val") if name not in set(rows["split"])]:
        said.append(f"No image is in {' or '.join(empty)}: a grader needs both.")
    if report.get("unknown_parents"):
        said.append(
            "Nobody has listed whose photographs these are or descend from. A test that is to be free of the people of "
            "its training refuses what has learned from them, unless it is told allow_unknown_parents=true."
        )
    if (rows["source"] == "generated").any():
        said.append(
            "Synthetic does not mean anonymous: a network that learned from some hundred photographs can repeat them. "
            "This page has no measurement of that."
        )
    if (duplicates := _torn_duplicates(rows)) is not None:
        said.append(duplicates)
    test = table.select(split="test").rows["severity"].value_counts()
    test = test[test > 0]
    if len(test) > 1:
        rarest, number = test.index[-1], int(test.iloc[-1])
        said.append(
            f"The test split has {counted(number, 'image')} of “{rarest}”: each moves that recall by "
            f"{100 / number:.1f} points, and balanced accuracy by {100 / number / len(test):.1f}."
        )
    missing = [name for name in table.classes if name not in set(test.index)]
    if len(test) and missing:
        said.append(f"The test split has no image of {', '.join(missing)}.")
    if made.any() and not made.all():
        said.append(f"{int(made.sum()):,} of {len(rows):,} images are edited or generated; they are never test images.")
    return said


# -------------------------------------------------------------------------------- the facts


def _facts(table: ImageTable, run_dir: Path, contact_sheet: bool) -> dict:
    """Everything that the template names. What is empty has no section."""
    rows, is_run = table.rows, _is_run(run_dir)
    num_images = _images_of_subjects(rows)
    confidence = _numbers(rows, "subject_confidence")
    with_count = rows[rows["lesions"].notna()]
    lesions = {name: with_count.loc[with_count["severity"] == name, "lesions"].astype(int) for name in table.classes}
    sizes = _lesion_sizes(table)
    counts = _counts(table)
    return {
        "kind": Markup(_KIND.format(_YES_NO[contact_sheet])),
        "name": run_dir.name.rsplit("-", 1)[0] if is_run else run_dir.name,
        "run": f"{run_dir.parent.name}/{run_dir.name}" if is_run else run_dir.name,
        "key": table.key,
        "title": _headline(table),
        "summary": data_lines(table)[1:],
        "reading": reading(table),
        "counts": counts,
        "counts_drawing": as_drawing(
            plots.counts_figure(_parts(table)) if len(rows) else None, "counts", "Number of images of each severity"
        ),
        "people": _people(table, num_images, confidence),
        "people_drawing": as_drawing(
            plots.subjects_figure(num_images, confidence), "subjects", "Number of images of each subject"
        ),
        "lesions": _lesion_facts(table, sizes),
        "lesions_drawing": as_drawing(
            plots.lesions_figure(sizes, lesions, reference=ACNE04_V2_SIZES),
            "lesions",
            "Sizes of lesions, and images by their number of lesions",
        ),
        "who": _measures(table.report, _WHO),
        "findings": [*_findings(table.report), *_measures(table.report, _LEAK)],
        "contact": _contact(table) if contact_sheet else [],
        "contact_sheet": contact_sheet,
        "is_drawn": table.is_drawn,
        "has_people": bool((~rows["source"].isin(("toy", "generated"))).any()),
        "notes": table.report.get("notes", []),
        "rest": _rest(table.report),
        "classes": table.classes,
        **plots.look(len(table.classes)),
    }


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _without_paths(table: ImageTable, run_dir: Path) -> ImageTable:
    """The table with every path of this machine cut to its last part."""
    images = str((table.root / "images").resolve())
    runs_dir = run_dir.parent.parent if _is_run(run_dir) else run_dir

    def shortened(text: str) -> str:
        return without_machine_paths(text.replace(images, "…"), runs_dir)

    def each(value: object) -> object:
        """Every text of a report as it is, and not as JSON writes it: there Windows' paths have two backslashes."""
        if isinstance(value, Mapping):
            return {each(key): each(item) for key, item in value.items()}
        if isinstance(value, list):
            return [each(item) for item in value]
        return shortened(value) if isinstance(value, str) else value

    rows = table.rows.assign(parent=[shortened(parent) for parent in table.rows["parent"]])
    return replace(table, rows=rows, report=each(table.report))


def _headline(table: ImageTable) -> str:
    """How many images of what, and of how many people."""
    rows = table.rows
    sources = {name: int((rows["source"] == name).sum()) for name in SOURCES if (rows["source"] == name).any()}
    if len(sources) == 1:
        (source,) = sources
        text = counted(len(rows), *_KINDS[source])
    else:
        parts = ", ".join(f"{number:,} {name}" for name, number in sources.items())
        text = counted(len(rows), "image") + (f" ({parts})" if parts else "")
    subjects = rows.loc[~rows["source"].isin(("generated",)) & (rows["subject"] != ""), "subject"]
    if len(subjects) and not subjects.is_unique:
        text += f" of {counted(subjects.nunique(), 'subject')}"
    return text


def _counts(table: ImageTable) -> dict:
    """The table of numbers: severities x splits, then x sources where there are several."""
    rows = table.rows
    severity = [*table.classes, *([""] if (rows["severity"] == "").any() else [])]
    splits = pd.crosstab(rows["severity"], rows["split"]).reindex(index=severity, columns=list(SPLITS), fill_value=0)
    sources = pd.crosstab(rows["severity"], rows["source"]).reindex(index=severity, fill_value=0)
    sources = sources[[name for name in SOURCES if name in sources]]
    known = rows[(rows["subject"] != "") & (rows["source"] != "generated")]
    subjects = {split: known.loc[known["split"] == split, "subject"].nunique() for split in SPLITS}
    return {
        "splits": list(SPLITS),
        "sources": list(sources) if len(sources.columns) > 1 else [],
        "rows": [
            (name or "unlabelled", splits.loc[name].tolist(), int(splits.loc[name].sum()), sources.loc[name].tolist())
            for name in severity
        ],
        "total": splits.sum().tolist(),
        "sources_total": sources.sum().tolist(),
        "subjects": list(subjects.values()) if len(known) else [],
        "num_subjects": known["subject"].nunique(),
        "origin": [
            f"{SOURCE_NAMES[name]}: {number:,}" + _parents(rows[rows["source"] == name])
            for name, number in sources.sum().items()
        ],
    }


def _parents(rows: pd.DataFrame) -> str:
    """Where made images come from, as far as the table knows."""
    parents = rows.loc[rows["parent"] != "", "parent"]
    if parents.empty:
        return ", parents unknown" if rows["source"].iloc[0] in ("edited", "generated") else ""
    names = parents.unique()
    return f", from {names[0]}" if len(names) == 1 else f", from {counted(len(names), 'parent')}"


def _parts(table: ImageTable) -> pd.DataFrame:
    """What the bars are made of: sources where there are several, else splits."""
    rows = table.rows
    column, order = ("source", SOURCES) if rows["source"].nunique() > 1 else ("split", SPLITS)
    severity = [*table.classes, *([""] if (rows["severity"] == "").any() else [])]
    parts = pd.crosstab(rows["severity"], rows[column]).reindex(index=severity, fill_value=0)
    return parts[[name for name in order if name in parts]].rename(index={"": "unlabelled"})


def _images_of_subjects(rows: pd.DataFrame) -> list[int]:
    """Number of images of each subject; generated faces are nobody's."""
    people = rows[(rows["subject"] != "") & (rows["source"] != "generated")]
    return people["subject"].value_counts().tolist()


def _people(table: ImageTable, num_images: list[int], confidence: list[float] | None) -> list[tuple[str, str]]:
    facts = []
    if num_images:
        facts.append(("subjects", f"{len(num_images):,}"))
        facts.append(("images of a subject", f"{np.mean(num_images):.1f} on average, {max(num_images):,} at most"))
        shared = shared_subjects(table.rows)
        facts.append(("in more than one split", f"{shared:,}" if shared else "none"))
    if confidence is not None:
        sure = 100 * np.mean(np.asarray(confidence) >= 1)
        facts.append(("subject confidence", f"{np.mean(confidence):.2f} on average, 1 for {sure:.0f} % of the images"))
    for key, name in (("protocol", "split protocol"), ("population", "population")):
        if table.report.get(key):
            facts.append((name, str(table.report[key])))
    return facts if num_images or confidence is not None else []


def _lesion_sizes(table: ImageTable) -> np.ndarray:
    """Diameter of each box, in short sides of its photograph: [N]; photographs that are gone are left out."""
    diameters = lesion_diameters(table)
    return diameters[diameters > 0].to_numpy()


def _lesion_facts(table: ImageTable, sizes: np.ndarray) -> list[tuple[str, str]]:
    facts = []
    numbers = table.rows["lesions"].dropna().astype(int)
    if len(numbers):
        counted_on = f"{counted(int(numbers.sum()), 'lesion')} on {counted(len(numbers), 'image')}"
        facts.append(("counted", f"{counted_on}: median {numbers.median():.0f}, at most {numbers.max():,}"))
    if len(sizes):
        low, middle, high = np.quantile(sizes, (0.05, 0.5, 0.95))
        facts.append(("boxes", f"{len(sizes):,}"))
        span = f"nine in ten between {100 * low:.2f} and {100 * high:.2f} %"
        facts.append(("median diameter", f"{100 * middle:.2f} % of the photograph's short side; {span}"))
        facts.append(("in pixels", ", ".join(f"{middle * side:.1f} at {side} px" for side in (256, 512, 1024))))
    return facts


def _findings(report: dict) -> list[Finding]:
    found = []
    for key, (title, _, _, about) in _FINDINGS.items():
        lines = report.get(key)
        if lines:
            columns, rows = _as_table(lines[:NUM_LISTED])
            found.append(Finding(title, about, len(lines), columns, rows))
    return found


def _measures(report: dict, headings: Mapping[str, tuple[str, str]]) -> list[Finding]:
    found = []
    for key, (title, about) in headings.items():
        if report.get(key):
            columns, rows = _as_table(_as_lines(report[key]))
            found.append(Finding(title, about, None, columns, rows))
    return found


def _as_lines(numbers: Mapping) -> list[dict]:
    """Numbers by name, or by the names of groups of them, as the lines of a table."""
    names = {name: _words(name) for name in numbers}
    if all(isinstance(value, Mapping) for value in numbers.values()):
        return [{"": names[name], **group} for name, group in numbers.items()]
    return [{"": names[name], " ": _said(value, name)} for name, value in numbers.items() if value is not None]


def _as_table(lines: Iterable[Mapping]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    lines = list(lines)
    columns = list(dict.fromkeys(column for line in lines for column in line))
    rows = tuple(tuple(_said(line.get(column, ""), column) for column in columns) for line in lines)
    return tuple(map(_words, columns)), rows


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")


def _said(value: object, name: str = "") -> str:
    """A value of a report in words; one named a share is in percent."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if "share" in name else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(_said(item, name) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(item, key)}" for key, item in value.items())
    return "" if value is None else str(value)


def _rest(report: dict) -> str:
    """What no section shows, as it stands in the table."""
    rest = {key: value for key, value in report.items() if key not in _SHOWN}
    return json.dumps(rest, indent=2, ensure_ascii=False) if rest else ""


def _contact(table: ImageTable) -> list[Strip]:
    """Images of each severity, and of each source where there are several. The test split is not shown."""
    train = table.rows[table.rows["split"] == "train"]
    sources = [name for name in SOURCES if (train["source"] == name).any()]
    strips = []
    for name in (*table.classes, ""):
        for source in sources:
            rows = train[(train["severity"] == name) & (train["source"] == source)]
            images = thumbnails(table.root, rows, NUM_CONTACT)
            if images:
                strips.append(Strip(name, source if len(sources) > 1 else "", images))
    return strips


def _numbers(rows: pd.DataFrame, column: str) -> list[float] | None:
    """The numbers of a column; None where there are none."""
    if column not in rows:
        return None
    known = pd.to_numeric(rows[column], errors="coerce").dropna()
    return known.tolist() if len(known) else None


def _torn_duplicates(rows: pd.DataFrame) -> str | None:
    """Exact copies that are still in the table, and whether splits or severities part them."""
    known = rows[rows["sha256"] != ""]
    same = known.groupby("sha256")
    num_copies = len(known) - known["sha256"].nunique()
    if not num_copies:
        return None
    parted = [
        f"{number:,} in {what}"
        for column, what in (("split", "two splits"), ("severity", "two severities"))
        if (number := int((same[column].nunique() > 1).sum()))
    ]
    text = f"{counted(num_copies, 'image')} {'is' if num_copies == 1 else 'are'} an exact copy of another"
    return text + (f"; copies lie {', '.join(parted)}." if parted else ".")
