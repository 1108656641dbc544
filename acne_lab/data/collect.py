"""From a source of images to an image table: collect, verify, split, write.

A source (`folder.Folder`, `acne04.Acne04`, `toy.ToyFaces`) knows where images lie and what their labels are.
`build_table` does what is common to all: it reads every file once, in parallel, to hash it and to prove
that it decodes; it stops on bad data with a message that names every offender, or drops and records them;
it splits by subject; and only then does it write.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import pandas as pd
from tqdm import tqdm

from acne_lab.data.duplicates import connected
from acne_lab.data.lineage import check_table
from acne_lab.data.photo import read_photo
from acne_lab.data.splits import subject_split
from acne_lab.data.table import NUM_SHOWN, BadData, ImageTable

SKIP = "repair or remove them, or leave them out with data.on_bad=skip (recorded in the table's report)"

T = TypeVar("T")

_VERIFY_SIDE = 64  # px; JPEGs are decoded at 1/8 size, which still reads every byte, so truncation shows


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file. With `on_bad=skip` the file is left out for this reason."""

    file_name: str
    reason: str


@dataclass(frozen=True)
class Collected:
    """What a source found.

    Args:
        rows: `file_name` (relative to images_root), `severity`, `lesions`, `subject`, `source`, optionally
            `split`, `parent` and `sha256`, then any extra columns. With `sha256` the source has read and decoded
            every file itself.
        images_root: the user's own folder, or the scratch folder where the source has rendered its files.
        boxes: lesion boxes as in `ImageTable.boxes`, with the file names of `rows`; None: not located.
        problems: what is wrong with single files.
        report: facts for the table's report (JSON values); "notes" is a list of sentences for the user, "population"
            names whose people the subjects are, where other tables have the same people under the same names,
            "left_out" lists sha256 and subject of copies that are not among the rows, and "people_known" is false where
            photographs are subjects of their own because nobody has told who is on them.
        unlabelled: True: rows may have no severity.
    """

    rows: pd.DataFrame
    images_root: Path
    boxes: pd.DataFrame | None = None
    problems: list[Problem] = field(default_factory=list)
    report: dict = field(default_factory=dict)
    unlabelled: bool = False


class Source(Protocol):
    """Where images come from."""

    classes: tuple[str, ...]
    images_root: Path | None  # the user's own folder, which the table links to; None: the source renders

    def fingerprint(self) -> str:
        """Hash of all that `collect` would read: equal fingerprints give equal tables."""

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """Find images and labels. A source that renders its own images puts them into `scratch`."""


def build_table(
    source: Source,
    out_dir: Path,
    *,
    split: Mapping | None,
    on_bad: Literal["error", "skip"],
    num_workers: int,
) -> ImageTable:
    """Make the image table of `source` in `out_dir`.

    Args:
        source: where the images come from.
        out_dir: the table's folder.
        split: `{"seed": int, "fractions": {"train": .7, "val": .1, "test": .2}, "override": False}`; rows
            are split by subject unless the source brings its own `split` column, which wins unless
            `override` is true (the report's "protocol" and "fold" go with it). None: the source must bring one.
        on_bad: "error" stops before anything is written; "skip" drops bad files into `report["dropped"]`.
        num_workers: threads that read and decode.

    Raises:
        BadData: some images or labels are wrong (`on_bad="error"`), or a class has no image left (either
        way). ValueError: the source's layout is not what it must be, there is no way to split, or the split that
        came with the images breaks a rule of `lineage.check_table`.
    """
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad must be error or skip, not {on_bad!r}")
    images_dir = Path(out_dir) / "images"
    if images_dir.is_symlink():  # of a build that was cut off; a source must not render through it
        images_dir.unlink()

    found = source.collect(images_dir, num_workers)
    rows, problems = _verify(found, num_workers)
    problems = [*found.problems, *problems]
    if problems and on_bad == "error":
        raise BadData([f"{problem.file_name}: {problem.reason}" for problem in problems], SKIP)
    rows = rows[~rows["file_name"].isin({problem.file_name for problem in problems})]
    _require_every_class(rows, source.classes, problems)
    rows, copy_notes = _with_copies_together(rows.sort_values("file_name", ignore_index=True))
    rows, split_notes = _split(rows, split)
    of_own_split = {"protocol", "fold"} if (split or {}).get("override") else set()

    table = ImageTable(
        root=out_dir,
        rows=_in_images(rows),
        classes=source.classes,
        report={
            **{name: value for name, value in found.report.items() if name not in of_own_split},
            "num_images": len(rows),
            "num_subjects": int(rows["subject"].nunique()),
            "dropped": [asdict(problem) for problem in problems],
            "notes": [*found.report.get("notes", []), *copy_notes, *split_notes],
        },
        boxes=_boxes_of(rows, found.boxes),
    )
    check_table(table)
    if found.images_root != images_dir:
        images_dir.parent.mkdir(parents=True, exist_ok=True)
        images_dir.symlink_to(found.images_root.resolve(), target_is_directory=True)
    table.write()
    return table


def severity_of_count(lesions: int, bands: Mapping[str, int | None]) -> str:
    """The class whose band a lesion count falls in.

    Args:
        lesions: how many.
        bands: class -> the largest count it covers, in rising order; the last is None and covers the rest.
    """
    return next(severity for severity, largest in bands.items() if largest is None or lesions <= largest)


def hash_files(root: Path, files: Iterable[str], *, num_workers: int = 8) -> str:
    """sha256 over the relative paths and the content of `files` (relative to `root`), in any order.

    Content and not modification times: a copy, a checkout or a restored backup changes every time and no
    pixel, and a file can change within a timestamp's resolution. Reading is cheap beside what is built from
    it.
    """
    return hash_of(hash_each(root, files, num_workers=num_workers))


def hash_each(root: Path, files: Iterable[str], *, num_workers: int = 8) -> dict[str, str]:
    """file -> sha256 of its content, in the order of their names."""
    files = sorted(set(files))
    return dict(zip(files, _in_threads(lambda name: _sha256(root / name), files, num_workers, "fingerprint")))


def hash_of(digests: Mapping[str, str]) -> str:
    """sha256 over names and the digests of their content (`hash_each`)."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{digests[name]}  {name}\n".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(found: Collected, num_workers: int) -> tuple[pd.DataFrame, list[Problem]]:
    """Read each file once: its sha256 becomes a column, and what does not decode becomes a problem."""
    problems = []
    if not found.unlabelled:
        unlabelled = found.rows["severity"].fillna("") == ""
        problems += [Problem(name, "has no severity") for name in found.rows.loc[unlabelled, "file_name"]]
    rows = found.rows if "parent" in found.rows else found.rows.assign(parent="")
    if "sha256" in rows:
        return rows, problems

    def check(name: str) -> tuple[str, str]:
        try:
            content = (found.images_root / name).read_bytes()
            read_photo(io.BytesIO(content), draft_side=_VERIFY_SIDE)
        except (OSError, ValueError) as error:
            return "", f"cannot be read as an image ({error})"
        return hashlib.sha256(content).hexdigest(), ""

    names = found.rows["file_name"].tolist()
    results = _in_threads(check, names, num_workers, "verify")
    unreadable = [Problem(name, reason) for name, (_, reason) in zip(names, results) if reason]
    return rows.assign(sha256=[digest for digest, _ in results]), [*unreadable, *problems]


def _in_threads(function: Callable[[str], T], items: list[str], num_workers: int, description: str) -> list[T]:
    """`[function(item) for item in items]` in threads, with a progress bar after the first second."""
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc=description, unit="file", delay=1))


def _require_every_class(rows: pd.DataFrame, classes: tuple[str, ...], problems: list[Problem]) -> None:
    """A class that lost its last image makes a different experiment: that is never skipped."""
    present = set(rows["severity"])
    empty = [name for name in classes if name not in present]
    if empty:
        lines = [f"class {name}: no usable image" for name in empty]
        lines += [f"{problem.file_name}: {problem.reason}" for problem in problems]
        raise BadData(lines, "give each class at least one readable image, or take it out of data.classes")


def _with_copies_together(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows, with one subject for all who have a file in common, byte by byte; and a note if there are any."""
    named = rows[rows["subject"].fillna("") != ""]
    codes, names = pd.factorize(named["subject"], sort=True)
    owners = pd.Series(codes, index=named.index).groupby(named["sha256"]).unique()
    links = [(int(first), int(other)) for first, *others in owners for other in others]
    if not links:
        return rows, []
    first_of: dict[int, str] = {}
    together: dict[str, list[str]] = defaultdict(list)
    for name, label in zip(names, connected(len(names), links).tolist()):
        together[first_of.setdefault(label, name)].append(name)
    shared = [", ".join(group) for group in together.values() if len(group) > 1]
    new_name = {name: first for first, group in together.items() for name in group}
    note = f"files that are equal byte by byte make these subjects one: {'; '.join(shared[:NUM_SHOWN])}"
    if len(shared) > NUM_SHOWN:
        note += f"; and {len(shared) - NUM_SHOWN} more"
    return rows.assign(subject=rows["subject"].map(new_name).fillna(rows["subject"])), [note]


def _split(rows: pd.DataFrame, split: Mapping | None) -> tuple[pd.DataFrame, list[str]]:
    """Rows with a split: their own if they have one and `split` does not override it, else one by subject.

    Returns:
        the rows, and what the user must know about a split that came with the images.
    """
    options = dict(split or {})
    override = options.pop("override", False)
    if "split" not in rows or override:
        if not options:
            raise ValueError("the images come without a split: ask for one, e.g. data.split={seed: 0}")
        return rows.assign(split=subject_split(rows, **options)), []
    return rows, ["the split that came with the images was kept (data.split.override=true makes another)"]


def _in_images(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, and parents among them, under the names that the table uses."""
    is_row = rows["parent"].isin(rows["file_name"])
    parent = rows["parent"].where(~is_row, "images/" + rows["parent"].astype(str))
    return rows.assign(file_name="images/" + rows["file_name"], parent=parent)


def _boxes_of(rows: pd.DataFrame, boxes: pd.DataFrame | None) -> pd.DataFrame | None:
    """The boxes of the rows that are left, under the names that the table uses."""
    if boxes is None:
        return None
    boxes = boxes[boxes["file_name"].isin(rows["file_name"])]
    return boxes.assign(file_name="images/" + boxes["file_name"])
