"""Write a study up: one HTML page that needs nothing else, and report.md with its pictures in report_files/.

Both are filled from the same facts. The page has no script and asks for nothing over the network, so it can
be mailed, printed and opened on a hospital computer. Everything that comes from a file is escaped.

What the figures mean, and whether arms can be told apart, is `reading`'s.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from acne_lab.data.table import replace_text
from acne_lab.report import plots
from acne_lab.report.collect import Stage, Study, init_from, read_study, without_machine_paths
from acne_lab.report.grading import attribution_facts, grading_facts
from acne_lab.report.parts import (
    NOT_RUN,
    SOURCE_NAMES,
    THUMBNAIL,
    Picture,
    as_drawing,
    counted,
    html_templates,
    markdown_templates,
    shared_subjects,
    slug,
    thumbnails,
)
from acne_lab.report.reading import answer, reading, summary_lines
from acne_lab.report.realism import SHORT, comparison_rows
from acne_lab.report.results import results_table

NUM_CONTACT = 10  # training images shown of each severity
NUM_BESIDE = 5  # images of each column where real and synthetic lie side by side
GRID_WIDTH = 720  # pixels of a GAN's sample grid

_ENVIRONMENT_FIRST = ("code", "git", "version", "python", "torch", "cuda", "gpu", "cpu", "thread", "platform")


@dataclass(frozen=True)
class Sheet:
    """Pictures of one severity; a column each for what was real and what was made from it."""

    severity: str
    columns: tuple[tuple[Picture, ...], ...]
    notes: tuple[str, ...]


def write_report(study_dir: Path, runs_dir: Path) -> Path:
    """Write the page of a study and return its path.

    Beside `report.html` lie `report.md` with `report_files/` and, of a study with arms, `results.csv`.

    Args:
        study_dir: folder of the study's run (has study.json).
        runs_dir: folder that the runs in study.json are relative to.

    Raises:
        ValueError: `study_dir` has no study.json.
    """
    study_dir, runs_dir = Path(study_dir), Path(runs_dir)
    study = read_study(study_dir, runs_dir)
    facts = _facts(study, runs_dir)
    aside = study_dir / f".report_files.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    facts["files"] = _write_pictures(facts, aside)
    shutil.rmtree(study_dir / "report_files", ignore_errors=True)
    aside.rename(study_dir / "report_files")
    replace_text(study_dir / "report.md", markdown_templates().get_template("page.md.j2").render(facts))
    replace_text(study_dir / "report.html", html_templates().get_template("page.html.j2").render(facts))
    if study.arms:
        replace_text(study_dir / "results.csv", results_table(study).to_csv(index=False, float_format="%.6g"))
    return study_dir / "report.html"


# -------------------------------------------------------------------------------- the facts


def _facts(study: Study, runs_dir: Path) -> dict:
    """Everything either template may name. A list without content means a section without a heading."""
    return {
        "study": study,
        "summary": summary_lines(study),
        "answer": answer(study),
        **grading_facts(study),
        "attribution": _attribution(study),
        "realism": comparison_rows(study.realism),
        "realism_heads": list(SHORT.values()),
        "reading": reading(study),
        "data": _data(study),
        "contact": _contact(study),
        "beside": _beside(study),
        "gans": [_gan(study, stage) for stage in study.gans],
        "further": _further(study),
        "repeats": {name: arm.stages[0] for arm in study.arms for name in arm.stages[1:]},
        "environment": _environment(study, runs_dir),
        **plots.look(len(study.classes)),
    }


def _data(study: Study) -> dict | None:
    if study.real is None:
        return None
    table = study.real.table
    counts = table.counts()
    subjects = {split: table.rows[table.rows["split"] == split]["subject"].nunique() for split in counts.columns}
    rows = _synthetic_rows(study)
    kinds = {kind: rows[rows["source"] == kind]["severity"] for kind in ("edited", "generated")}
    made = [
        (kind, [int((severity == name).sum()) for name in counts.index], len(severity))
        for kind, severity in kinds.items()
        if len(severity)
    ]
    return {
        "stage": study.real.name,
        "source": _source_name(table.rows),
        "splits": list(counts.columns),
        "rows": [
            (name, [int(value) for value in row], int(sum(row))) for name, row in zip(counts.index, counts.to_numpy())
        ],
        "total": [int(value) for value in counts.sum()],
        "num_images": len(table),
        "subjects": list(subjects.values()),
        "num_subjects": table.rows["subject"].nunique(),
        "shared": shared_subjects(table.rows),
        "made": made,
        "report": json.dumps(table.report, indent=2, ensure_ascii=False) if table.report else "",
    }


def _contact(study: Study) -> list[Sheet]:
    """Training images of each severity. The test split is never shown: it is opened once, by the grader."""
    if study.real is None:
        return []
    train = study.real.table.select(split="train")
    sheets = [
        Sheet(name, (thumbnails(study.real.table.root, train.select(severity=name).rows, NUM_CONTACT),), ())
        for name in train.classes
    ]
    return [sheet for sheet in sheets if sheet.columns[0]]


def _beside(study: Study) -> dict | None:
    """Real and synthetic images, a row a severity; None without synthetic ones."""
    if not study.synthetic:
        return None
    made = _synthetic_rows(study)
    made = made[made["split"] == "train"] if (made["split"] == "train").any() else made
    kinds = [kind for kind in ("edited", "generated") if (made["source"] == kind).any()]
    sheets = []
    for name in (*study.synthetic[0].table.classes, ""):
        columns, notes = [], []
        if study.real is not None:
            rows = study.real.table.rows
            rows = rows[(rows["severity"] == name) & (rows["split"] == "train")]
            columns.append(thumbnails(study.real.table.root, rows, NUM_BESIDE))
        for kind in kinds:
            rows = made[(made["source"] == kind) & (made["severity"] == name)]
            pictures: list[Picture] = []
            for stage in study.synthetic:
                of_stage = rows[rows["stage"] == stage.name]
                pictures += thumbnails(stage.table.root, of_stage, NUM_BESIDE - len(pictures))
            columns.append(tuple(pictures))
            notes += [_lineage(study, stage, rows[rows["stage"] == stage.name]) for stage in study.synthetic]
        sheets.append(Sheet(name, tuple(columns), tuple(note for note in notes if note)))
    sheets = [sheet for sheet in sheets if any(sheet.columns)]
    heads = [_source_name(study.real.table.rows)] if study.real is not None else []
    return {"heads": heads + [SOURCE_NAMES[kind] for kind in kinds], "sheets": sheets} if sheets else None


def _synthetic_rows(study: Study) -> pd.DataFrame:
    """The rows of all synthetic tables, with the column `stage` that says which."""
    tables = [stage.table.rows.assign(stage=stage.name) for stage in study.synthetic]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"source": [], "severity": []})


def _lineage(study: Study, stage: Stage, rows: pd.DataFrame) -> str:
    """Where the synthetic images of one severity come from: stage, parents, seeds."""
    if rows.empty:
        return ""
    parents = rows["parent"].unique()
    makers = sorted(
        {maker.name for parent in parents if (maker := study.made(parent)) is not None and maker is not stage}
    )
    words = f"{counted(len(rows), 'image')} by {stage.name}"
    if makers:
        words += f" from {', '.join(makers)}"
    elif len(parents) == 1 and parents[0]:
        words += f" from {parents[0]}"
    elif len(parents) > 1:
        words += f" from {counted(len(parents), 'parent')}"
    seeds = pd.to_numeric(rows["seed"], errors="coerce").dropna() if "seed" in rows else pd.Series(dtype=float)
    if not seeds.empty:
        words += f", seeds {seeds.min():.0f} to {seeds.max():.0f}" if len(seeds) > 1 else f", seed {seeds.iloc[0]:.0f}"
    return words


def _gan(study: Study, stage: Stage) -> dict:
    ticks = stage.ticks
    reals = [path for path in stage.samples if path.stem == "reals"]
    shown = [(path, "training images") for path in reals] + [(path, _tick_name(path)) for path in ticks[-1:]]
    earlier = dict.fromkeys((ticks[0], ticks[len(ticks) // 2])) if len(ticks) > 1 else {}
    before = [(path, _tick_name(path)) for path in earlier if path != ticks[-1]]
    seen = stage.metrics.get("images_seen")
    if seen is None and "images_seen" in stage.curves:
        seen = stage.curves["images_seen"].max()
    return {
        "name": stage.name,
        "state": stage.state,
        "base": _base_note(study, stage),
        "kimg": NOT_RUN if seen is None or seen != seen else f"{seen / 1000:,.1f} kimg",
        "drawing": as_drawing(
            plots.gan_figure(stage.curves), f"gan-{slug(stage.name)}", f"Training curves of {stage.name}"
        ),
        "grids": _grids(shown),
        "before": _grids(before),
    }


def _further(study: Study) -> list[tuple[str, str]]:
    """(what it shows, command) of pictures that the finished generators can still draw."""
    done = [stage for stage in study.gans if stage.state == "done"]
    if not done:
        return []
    pictures = {}
    siblings: dict[str, list[Stage]] = {}  # by what they were fine-tuned from
    for stage in done:
        if (base := init_from(stage.config)) and not _is_conditional(stage):
            siblings.setdefault(base, []).append(stage)
    family = max(siblings.values(), key=len, default=[])
    if len(family) > 1:
        runs = ", ".join(f"{stage.name}: {stage.run}" for stage in family)
        pictures["one face through every model"] = ["mode=walk", f"run={{{runs}}}"]
    run = f"run={done[-1].run}"
    severity = [f"mode.severity={study.classes[-1]}"] if _is_conditional(done[-1]) and study.classes else []
    pictures |= {
        "numbered faces": ["mode=seeds", run, *severity],
        "from the mean face to each face": ["mode=psi", run, *severity],
        "the directions that change faces most": ["mode=sefa", run, *severity],
        "a film from face to face": ["mode=video", run, *severity],
        "the face nearest to a photograph": ["mode=project", run, "mode.file=face.jpg"],
    }
    return [(what, shlex.join(["acne-lab", "generate", *words])) for what, words in pictures.items()]


def _is_conditional(stage: Stage) -> bool:
    return bool(stage.config.get("model", {}).get("G", {}).get("c_dim"))


def _base_note(study: Study, stage: Stage) -> str:
    """Where the weights began: at random, in a stage of this study, in an earlier run, in a shipped file."""
    base = init_from(stage.config)
    if base is None:
        return "Trained here from random weights."
    maker = study.named(base) or study.made(base)
    if maker is not None:
        return f"Starts from the weights of stage “{maker.name}” of this study."
    if base.startswith("runs/") or "/runs/" in base:
        return f"Starts from an earlier run, {base.split('runs/')[-1]}, which is not part of this study."
    return f"Starts from the shipped base “{base.rsplit('/', 1)[-1]}”, which was not trained in this study."


def _attribution(study: Study) -> dict | None:
    facts = attribution_facts(study)
    if facts is not None:
        for row in facts["rows"]:
            row["pictures"] = _grids(row["pictures"])
    return facts


def _environment(study: Study, runs_dir: Path) -> dict:
    """What the stages recorded: one line a fact, more than one value where the stages differ."""
    facts: dict[str, dict[str, None]] = {}
    for stage in study.stages:
        for key, value in _flat(stage.environment):
            facts.setdefault(key, {})[without_machine_paths(value, runs_dir)] = None
    rows = [(key, list(values)) for key, values in facts.items()]

    def place(row: tuple[str, list[str]]) -> int:
        known = [index for index, word in enumerate(_ENVIRONMENT_FIRST) if word in row[0].lower()]
        return known[0] if known else len(_ENVIRONMENT_FIRST)

    top = sorted((row for row in rows if "." not in row[0]), key=place)
    return {"rows": top or rows, "more": [row for row in rows if "." in row[0]] if top else []}


# -------------------------------------------------------------------------------- pictures


def _grids(paths: Iterable[tuple[Path, str]]) -> list[Picture]:
    grids = []
    for path, title in paths:
        with Image.open(path) as image:
            grids.append(Picture(plots.shrunk(image, width=GRID_WIDTH), title))
    return grids


def _write_pictures(facts: dict, folder: Path) -> dict[str, str]:
    """Write what report.md shows into `folder`; returns {name of the picture: its link}."""
    files = {}

    def write(name: str, suffix: str, data: bytes) -> None:
        (folder / f"{name}.{suffix}").write_bytes(data)
        files[name] = f"report_files/{name}.{suffix}"

    drawings = [facts[f"{name}_drawing"] for name in ("arms", "differences", "reliability", "graders")]
    drawings += [*(gan["drawing"] for gan in facts["gans"])]
    for drawing in drawings:
        if drawing is not None:
            write(drawing.name, "png", drawing.png)
    sheets = {"contact": facts["contact"], "beside": facts["beside"]["sheets"] if facts["beside"] else []}
    for name, rows in sheets.items():
        for column in range(len(rows[0].columns) if rows else 0):
            images = [[picture.image for picture in sheet.columns[column]] for sheet in rows]
            if any(images):
                media_type, data = plots.encoded(plots.contact_sheet(images, side=THUMBNAIL // 2))
                write(f"{name}-{column + 1}", media_type.split("/")[1], data)
    for number, row in enumerate(facts["attribution"]["rows"] if facts["attribution"] else [], start=1):
        for index, picture in enumerate(row["pictures"], start=1):
            media_type, data = plots.encoded(picture.image)
            write(f"attribution-{number}-{index}", media_type.split("/")[1], data)
    for gan in facts["gans"]:
        for index, grid in enumerate(gan["grids"], start=1):
            media_type, data = plots.encoded(grid.image)
            write(f"gan-{slug(gan['name'])}-{index}", media_type.split("/")[1], data)
    return files


# -------------------------------------------------------------------------------- words


def _source_name(rows: pd.DataFrame) -> str:
    return SOURCE_NAMES["toy" if (rows["source"] == "toy").all() else "real"]


def _tick_name(path: Path) -> str:
    digits = re.sub(r"\D", "", path.stem)
    return f"tick {int(digits)}" if digits else path.stem


def _flat(facts: dict, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# -------------------------------------------------------------------------------- templates
