"""What every page is made of: drawings and pictures inside the page, templates that escape, a few words.

A page is one file: no script, nothing asked for over the network. Everything that comes from a file is escaped.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from acne_lab.report import plots

NOT_RUN = "not run"
THUMBNAIL = 176  # pixels: twice what a page shows, for sharp screens

SOURCE_NAMES = {
    "real": "Real photographs",
    "toy": "Toy faces, drawn by code in place of photographs",
    "edited": "Edited photographs",
    "generated": "Generated",
}


@dataclass(frozen=True)
class Drawing:
    """A plot in both its forms."""

    name: str
    alt: str
    svg: Markup
    png: bytes


@dataclass(frozen=True)
class Picture:
    """An image from a run, at the size of the page."""

    image: Image.Image
    title: str

    @property
    def uri(self) -> str:
        return plots.data_uri(self.image)


def as_drawing(figure: Figure | None, name: str, alt: str) -> Drawing | None:
    """The figure for a page, `alt` in words for who cannot see it; None where there is no figure."""
    if figure is None:
        return None
    return Drawing(
        name,
        alt,
        Markup(plots.inline_svg(figure, name=name, description=str(escape(alt)))),
        plots.png(figure),
    )


def thumbnails(root: Path, rows: pd.DataFrame, num: int) -> tuple[Picture, ...]:
    """`num` of the rows of the table at `root`, spread evenly, of different subjects if there are enough."""
    people = rows.drop_duplicates("subject")
    rows = people if len(people) >= num else rows
    spread = np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int)
    found = []
    for row in rows.iloc[spread].to_dict("records"):
        image = _thumbnail(root / row["file_name"])
        if image is not None:
            facts = [
                row["file_name"],
                f"from {row['parent']}" if row["parent"] else "",
                f"seed {row['seed']}" if "seed" in row else "",
            ]
            found.append(Picture(image, ", ".join(fact for fact in facts if fact)))
    return tuple(found)


def _thumbnail(path: Path) -> Image.Image | None:
    """None where the photograph is gone: real ones are only linked, and the user may have moved them."""
    try:
        with Image.open(path) as image:
            return plots.thumbnail(image, side=THUMBNAIL)
    except OSError:
        return None


# -------------------------------------------------------------------------------- words


def score(value: float | None) -> str:
    """A share in [0, 1] with three digits; `NOT_RUN` where there is none."""
    return NOT_RUN if value is None or value != value else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 8 s, 12 min 5 s, 3 h 20 min."""
    if seconds is None:
        return NOT_RUN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def slug(name: str) -> str:
    """A name from a file as part of a file name or an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "unnamed"


def shared_subjects(rows: pd.DataFrame) -> int:
    """Number of subjects with images in more than one split."""
    known = rows[rows["subject"] != ""]
    return int((known.groupby("subject")["split"].nunique() > 1).sum())


# -------------------------------------------------------------------------------- templates


def html_templates() -> Environment:
    return _environment_of_templates(autoescape=True)


def markdown_templates() -> Environment:
    """Markdown has no autoescape: `finalize` escapes every expression that is not Markup."""
    return _environment_of_templates(autoescape=False, finalize=_escape_markdown)


def _environment_of_templates(**options) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters.update(duration=duration, score=score, slug=slug, fenced=_fenced, breakable=_breakable)
    return environment


def _escape_markdown(value: object) -> object:
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


def _breakable(name: str) -> Markup:
    """A long name that a narrow column may break behind its underscores and slashes."""
    return Markup(re.sub(r"([_/.])", r"\1<wbr>", str(escape(name))))


def _fenced(text: str) -> Markup:
    """A code block that its text cannot end. Markup: nothing in it needs, or may get, escapes."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text}\n{fence}")
