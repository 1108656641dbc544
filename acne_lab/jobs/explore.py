"""Pictures of the latent space: `acne-lab generate mode=seeds|psi|mix|sefa|walk|video|project run=...`.

A mode is a function that gets the generators and draws a sheet (`sheets.py`, `video.py`, `project.py`); its node in the
config gives its options. The run holds `images/` (every picture as it is), `sheet.png` (all of them, labelled, to look
at) and in metrics.json what they were made from.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Generator as Rng
from torch import Tensor
from tqdm import tqdm

from acne_lab.build import build, run_logger
from acne_lab.callbacks import as_pictures, to_uint8
from acne_lab.gan.generator import Generator
from acne_lab.gan.latent import seeded_z
from acne_lab.jobs.gans import Gan, checked_psi, find_gan, load_generator
from acne_lab.report.plots import contact_sheet
from acne_lab.runs import Run, file_key, open_run
from acne_lab.tracking import log_and_finish

MIN_SIDE, MAX_SIDE = 128, 256  # of a picture on a sheet, in pixels; of up to FEW in a row, the larger one
FEW = 4

Numbers = int | str | Sequence[int | str]  # 7, "0-31", [0-31, 77]


def explore(config: dict) -> Run:
    """Draw what `config["mode"]` describes."""
    given = config["run"] if isinstance(config["run"], dict) else {"": config["run"]}
    gans = {str(label): find_gan(run, config["runs_dir"]) for label, run in given.items()}
    inputs = [f"{label}:{gan.key}" for label, gan in gans.items()]
    about = config
    if "file" in config["mode"]:
        photo = Path(config["mode"]["file"])
        if not photo.is_file():
            raise ValueError(f"there is no photograph {photo}: give mode.file=<an image>")
        # The key is of the photograph's content; where somebody keeps it is nobody else's business.
        inputs.append(file_key(photo))
        about = {**config, "mode": {name: value for name, value in config["mode"].items() if name != "file"}}
    draw = build(config["mode"])
    with open_run(about, job="generate", inputs=inputs) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        painters = {
            label: Painter(gan=gan, G=load_generator(gan), seed=config["seed"], batch_size=config["batch_size"])
            for label, gan in gans.items()
        }
        sheet = draw(painters, run.path)
        picture = sheet.write(run.path)
        run.write_metrics({"gans": {label: gan.name for label, gan in gans.items()}, **sheet.about})
        logger = run_logger(config, run, only_drawn=all(gan.only_drawn for gan in gans.values()))
        figures = {name: value for name, value in sheet.about.items() if isinstance(value, int | float)}
        log_and_finish(logger, figures, **({} if sheet.shows_photograph else {"sheet": picture}))
    return run


@dataclass(frozen=True)
class Painter:
    """A generator at work.

    Args:
        gan: what it is.
        G: its network.
        seed: from which faces are numbered: a number is the same face as in a table of that seed.
        batch_size: pictures at a time.
    """

    gan: Gan
    G: Generator
    seed: int
    batch_size: int

    @property
    def device(self) -> torch.device:
        return self.G.mapping.w_avg.device

    def title(self, psi: float | None, severity: str | None) -> str:
        """What a sheet's faces are: model, class, truncation."""
        parts = (self.gan.name, severity, None if psi is None else f"psi {psi:g}")
        return ", ".join(str(part) for part in parts if part is not None)

    def map(self, z: Tensor, *, psi: float, severity: str | None) -> Tensor:
        """z [N, z_dim] -> ws [N, num_ws, w_dim]."""
        label = self.gan.label(severity)
        c = None if label is None else label.repeat(len(z), 1).to(self.device)
        return self.G.mapping(z.to(self.device), c, truncation_psi=checked_psi(psi))

    def numbered(self, numbers: Sequence[int], *, psi: float, severity: str | None) -> Tensor:
        """ws of the faces with these numbers."""
        z, _ = seeded_z(numbers, z_dim=self.G.z_dim, seed=self.seed)
        return self.map(z, psi=psi, severity=severity)

    def paint(self, ws: Tensor, *, rngs: Sequence[Rng] | None = None) -> Iterator[Image.Image]:
        """The pictures of ws, with the stored noise, so that they differ in ws alone, or with noise from `rngs`."""
        with tqdm(total=len(ws), desc="paint", unit="img", delay=1) as bar:
            for start in range(0, len(ws), self.batch_size):
                part = slice(start, start + self.batch_size)
                noise = ("const", None) if rngs is None else ("random", rngs[part])
                images = self.G.synthesis(ws[part], *noise)
                yield from as_pictures(to_uint8(images))
                bar.update(len(images))


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows, named and labelled.

    Args:
        title: what they are, to be understood without the command that made them.
        rows: the pictures; None leaves a place empty.
        names: of the pictures' files, without suffix.
        captions: above the pictures; rows at the end may be left out.
        row_labels: on the left of the rows; () is none.
        about: what metrics.json says besides the generators.
        shows_photograph: then it stays out of the logger.
    """

    title: str
    rows: list[list[Image.Image | None]]
    names: list[list[str]]
    captions: list[list[str]]
    row_labels: Sequence[str] = ()
    about: dict = field(default_factory=dict)
    shows_photograph: bool = False

    @classmethod
    def crossed(
        cls,
        title: str,
        pictures: Iterator[Image.Image],
        row_labels: Sequence[str],
        column_labels: Sequence[str],
        about: dict,
    ) -> "Sheet":
        """A picture for each row and column, given row by row."""
        return cls(
            title=title,
            rows=[[next(pictures) for _ in column_labels] for _ in row_labels],
            names=[[f"{row}_{column}" for column in column_labels] for row in row_labels],
            captions=[list(column_labels)],
            row_labels=row_labels,
            about=about,
        )

    def write(self, folder: Path) -> Image.Image:
        """Write images/NAME.png for each picture, and sheet.png; return the sheet."""
        (folder / "images").mkdir(exist_ok=True)
        for row, names in zip(self.rows, self.names, strict=True):
            for picture, name in zip(row, names, strict=True):
                if picture is not None:
                    picture.save(folder / "images" / (re.sub(r"[^\w.+-]", "-", name) + ".png"))
        width = max(picture.width for row in self.rows for picture in row if picture is not None)
        smallest = MAX_SIDE if max(len(row) for row in self.rows) <= FEW else MIN_SIDE
        sheet = contact_sheet(
            self.rows,
            side=min(max(width, smallest), MAX_SIDE),
            title=self.title,
            captions=self.captions,
            row_labels=self.row_labels,
        )
        sheet.save(folder / "sheet.png")
        return sheet


def only(painters: dict[str, Painter]) -> Painter:
    """The one generator of a mode that draws with one."""
    if len(painters) > 1:
        raise ValueError(f"this mode draws with one GAN, and run names {', '.join(painters)}: give run=RUN")
    return next(iter(painters.values()))


def as_numbers(given: Numbers, name: str) -> list[int]:
    """7, "0-31", "0-31,77" or [0-31, 77] as a list; ValueError for anything else."""
    numbers = []
    for part in as_text(given).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"{name} must look like 7, 0-31 or [0-31,77], not {given}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def as_text(given: Numbers) -> str:
    """As one writes it: 7, 0-31 or 0-31,77."""
    return str(given) if isinstance(given, int | str) else ",".join(str(part) for part in given)


def seed_labels(numbers: Sequence[int]) -> list[str]:
    return [f"seed {number}" for number in numbers]
