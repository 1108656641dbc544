"""`acne-lab generate run=<run> num_images=500`: a generated image table, with the lineage of every image.

Kill it at any moment and repeat the command: it goes on with the images that are not on the disk yet.
With `mode=seeds|psi|mix|video|sefa|walk|project` it draws pictures of the latent space instead: `explore.py`.
"""

import hashlib
import time
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from acne_lab.build import run_logger
from acne_lab.callbacks import as_pictures, to_uint8
from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.gan.generator import Generator
from acne_lab.gan.latent import seeded_z
from acne_lab.jobs.explore import explore
from acne_lab.jobs.gans import Gan, checked_psi, find_gan, load_generator
from acne_lab.jobs.memory import advice_on_memory
from acne_lab.jobs.writer import FORMATS, PictureWriter
from acne_lab.report.plots import contact_sheet
from acne_lab.runs import Run, open_run
from acne_lab.tracking import log_and_finish


def generate(config: dict) -> Run:
    """Write an image table, or draw what `config["mode"]` describes."""
    with advice_on_memory(config):
        return explore(config) if config["mode"] else write_table(config)


def write_table(config: dict) -> Run:
    """Sample each severity from its GAN (or all from one conditional GAN) and write them as one table."""
    if config["format"] not in FORMATS:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, not {config['format']}")
    checked_psi(config["psi"])
    for name in ("batch_size", "num_workers"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {config[name]}")
    plan = sampling_plan(config)
    if config["format"] == "jpg" and any(gan.num_channels == 4 for gan, _, _ in plan):
        raise ValueError("JPEG has no transparency, and these images have: format=png")
    gans = {gan.key: gan for gan, _, _ in plan}
    lineage = Lineage.merged(*(gan.lineage for gan in gans.values()))
    with open_run(config, job="generate", inputs=[f"{severity}:{gan.key}" for gan, severity, _ in plan]) as run:
        folder = run.path / "table"
        folder.mkdir(exist_ok=True)
        lineage.write(folder)  # also of a run that was finished before lineages were kept
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        table = planned_rows(plan, config["format"])
        busy_share = draw_table(plan, table, config, folder)
        table["sha256"] = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table["file_name"]]
        table["split"] = split_column(table, val_share=config["val_share"])
        classes = plan[0][0].classes
        report = {"notes": [f"generated with psi={config['psi']}, seed={config['seed']}"]}
        written = ImageTable(root=folder, rows=table, classes=classes, report=report, boxes=None)
        written.write()
        counts = written.counts()
        run.write_metrics(
            {
                "num_images": len(table),
                "counts": counts.T.to_dict(),
                "table": written.key,
                "generator_busy_share": round(busy_share, 3),  # of the time from the first image to the last file
            }
        )
        logger = run_logger(config, run, only_drawn=all(gan.only_drawn for gan in gans.values()))
        figures = {f"num_images/{name}": int(n) for name, n in counts.sum(axis=1).items()}
        log_and_finish(logger, figures, samples=first_of_each(written))
    return run


def sampling_plan(config: dict) -> list[tuple[Gan, str, int]]:
    """(GAN, severity, number of images) triples, in the order of the classes.

    Raises:
        ValueError: the counts name a severity that no GAN has learned, or the GANs disagree about the classes.
    """
    given = config["run"]
    if isinstance(given, dict):
        given = {str(severity): run for severity, run in given.items()}  # a class may be called 0
    gans = [find_gan(r, config["runs_dir"]) for r in (given.values() if isinstance(given, dict) else [given])]
    classes = gans[0].classes
    if any(gan.classes != classes for gan in gans):
        raise ValueError("the GANs were trained on data with different classes: generate from them one by one")
    if isinstance(given, dict):
        if unknown := set(given) - set(classes):
            raise ValueError(f"run names {', '.join(sorted(unknown))}, but the classes are {', '.join(classes)}")
        by_severity = dict(zip(given, gans, strict=True))
        for severity, gan in by_severity.items():
            if gan.severity not in (None, severity):
                raise ValueError(f"run asks {gan.name} for {severity} faces, but it has learned {gan.severity} ones")
    elif gans[0].is_conditional:
        by_severity = dict.fromkeys(classes, gans[0])
    else:
        by_severity = {gans[0].severity or "": gans[0]}

    counts = config["counts"]
    if counts is not None:
        counts = {str(severity): number for severity, number in counts.items()}
    else:
        share, rest = divmod(config["num_images"], len(by_severity))
        counts = {name: share + (i < rest) for i, name in enumerate(by_severity)}
    unknown = set(counts) - set(by_severity)
    if unknown:
        raise ValueError(
            f"counts asks for {', '.join(sorted(unknown))}, but the runs have learned {', '.join(by_severity)}: "
            "give run={severity: run, ...}"
        )
    if not any(counts.values()):
        raise ValueError("no images are asked for: give num_images or counts")
    order = [name for name in (*classes, "") if name in counts and counts[name] > 0]
    return [(by_severity[name], name, counts[name]) for name in order]


def planned_rows(plan: list[tuple[Gan, str, int]], suffix: str) -> pd.DataFrame:
    """What the table says of each image before it is drawn. Images are numbered through."""
    rows = []
    for gan, severity, num_images in plan:
        for number in range(len(rows), len(rows) + num_images):
            row = {
                "file_name": f"images/{severity or 'unknown'}/seed{number:06d}.{suffix}",
                "severity": severity,
                "lesions": None,
                "subject": f"generated-{number:06d}",
                "source": "generated",
                "parent": gan.name,
                "seed": number,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def draw_table(plan: list[tuple[Gan, str, int]], table: pd.DataFrame, config: dict, folder: Path) -> float:
    """Draw the planned rows that are not in the folder yet; the share of the time in which a generator was busy."""
    for half_written in folder.glob("images/*/.*"):  # by a process that was killed
        half_written.unlink(missing_ok=True)
    generators = {key: load_generator(gan) for key, gan in {gan.key: gan for gan, _, _ in plan}.items()}
    started, busy = time.perf_counter(), 0.0
    with (
        PictureWriter(num_workers=config["num_workers"], max_waiting=2 * config["batch_size"]) as writer,
        tqdm(total=len(table), unit="img", desc="generate") as bar,
    ):
        for gan, severity, _ in plan:
            rows = table[table["severity"] == severity]
            busy += draw_missing(generators[gan.key], gan, rows, config, folder, writer, bar)
    return busy / (time.perf_counter() - started)


def draw_missing(
    G: Generator,
    gan: Gan,
    rows: pd.DataFrame,
    config: dict,
    folder: Path,
    writer: PictureWriter,
    bar: tqdm,
) -> float:
    """Draw those images of one severity's rows that are not in the folder; return the seconds spent in the network.

    An image depends on (seed, its number), and its batch can change no more than the last bit of a sum. So that a
    command that was killed and repeated ends with the same bytes, a batch that lacks an image is drawn as a whole.
    """
    paths = [folder / name for name in rows["file_name"]]
    numbers = rows["seed"].tolist()
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    device = next(G.parameters()).device
    label = gan.label(rows["severity"].iloc[0] if gan.is_conditional else None)
    seconds = 0.0
    for start in range(0, len(paths), config["batch_size"]):
        batch = slice(start, start + config["batch_size"])
        missing = [not path.exists() for path in paths[batch]]
        if any(missing):
            z, rngs = seeded_z(numbers[batch], z_dim=G.z_dim, seed=config["seed"])
            c = None if label is None else label.repeat(len(z), 1).to(device)
            began = time.perf_counter()
            pictures = as_pictures(to_uint8(G(z.to(device), c, truncation_psi=config["psi"], rngs=rngs)))
            seconds += time.perf_counter() - began
            for path, picture, is_missing in zip(paths[batch], pictures, missing, strict=True):
                if is_missing:
                    writer.put(path, picture)
        bar.update(len(missing))
    return seconds


def first_of_each(table: ImageTable, *, columns: int = 8) -> Image.Image:
    """A sheet with the first images of each severity, a row each."""
    rows = [group["file_name"].head(columns) for _, group in table.rows.groupby("severity", sort=False)]
    pictures = [[Image.open(table.root / name) for name in row] for row in rows]
    return contact_sheet(pictures, side=pictures[0][0].width)


def split_column(table: pd.DataFrame, *, val_share: float) -> pd.Series:
    """Every k-th image of a severity validates, so that about `val_share` of each does; the others train."""
    rank = table.groupby("severity").cumcount()
    validates = ((rank + 1) * val_share).astype(int) > (rank * val_share).astype(int)
    return validates.map({True: "val", False: "train"})
