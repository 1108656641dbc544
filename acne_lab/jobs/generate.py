"""`acne-lab generate run=<run> num_images=500`: a generated image table, with the lineage of every image.

With `mode=seeds|psi|mix|video|sefa|walk|project` it draws pictures of the latent space instead: `explore.py`.
"""

import hashlib
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from acne_lab.build import run_logger
from acne_lab.callbacks import as_pictures, to_uint8
from acne_lab.data.table import ImageTable
from acne_lab.gan.generator import Generator
from acne_lab.gan.latent import seeded_z
from acne_lab.jobs.explore import explore
from acne_lab.jobs.gans import Gan, checked_psi, find_gan, load_generator
from acne_lab.report.plots import contact_sheet
from acne_lab.runs import Run, open_run
from acne_lab.tracking import log_and_finish

FORMATS = {"png": {"format": "PNG"}, "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0}}


def generate(config: dict) -> Run:
    """Write an image table, or draw what `config["mode"]` describes."""
    return explore(config) if config["mode"] else write_table(config)


def write_table(config: dict) -> Run:
    """Sample each severity from its GAN (or all from one conditional GAN) and write them as one table."""
    if config["format"] not in FORMATS:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, not {config['format']}")
    checked_psi(config["psi"])
    plan = sampling_plan(config)
    if config["format"] == "jpg" and any(gan.num_channels == 4 for gan, _, _ in plan):
        raise ValueError("JPEG has no transparency, and these images have: format=png")
    gans = {gan.key: gan for gan, _, _ in plan}
    with open_run(config, job="generate", inputs=[f"{severity}:{gan.key}" for gan, severity, _ in plan]) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        folder = run.path / "table"
        generators = {key: load_generator(gan) for key, gan in gans.items()}
        rows = []
        with tqdm(total=sum(n for _, _, n in plan), unit="img", desc="generate") as bar:
            for gan, severity, num_images in plan:
                seeds = range(len(rows), len(rows) + num_images)
                rows += sample(generators[gan.key], gan, severity, seeds, config, folder, bar)
        table = pd.DataFrame(rows)
        table["split"] = split_column(table, val_share=config["val_share"])
        classes = plan[0][0].classes
        report = {"notes": [f"generated with psi={config['psi']}, seed={config['seed']}"]}
        written = ImageTable(root=folder, rows=table, classes=classes, report=report, boxes=None)
        written.write()
        counts = written.counts()
        run.write_metrics({"num_images": len(table), "counts": counts.T.to_dict(), "table": written.key})
        logger = run_logger(config, run)
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


def sample(G: Generator, gan: Gan, severity: str, seeds: range, config: dict, folder: Path, bar: tqdm) -> list[dict]:
    """Write one image a seed; return their rows. An image depends on (seed, its number), not on its batch."""
    images_dir = folder / "images" / (severity or "unknown")
    images_dir.mkdir(parents=True, exist_ok=True)
    device = next(G.parameters()).device
    rows = []
    for start in range(0, len(seeds), config["batch_size"]):
        batch = seeds[start : start + config["batch_size"]]
        z, rngs = seeded_z(batch, z_dim=G.z_dim, seed=config["seed"])
        label = gan.label(severity if gan.is_conditional else None)
        c = None if label is None else label.repeat(len(batch), 1).to(device)
        images = to_uint8(G(z.to(device), c, truncation_psi=config["psi"], rngs=rngs))
        for number, picture in zip(batch, as_pictures(images), strict=True):
            path = images_dir / f"seed{number:06d}.{config['format']}"
            picture.save(path, **FORMATS[config["format"]])
            rows.append(
                {
                    "file_name": path.relative_to(folder).as_posix(),
                    "severity": severity,
                    "lesions": None,
                    "subject": f"generated-{number:06d}",
                    "source": "generated",
                    "parent": gan.name,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "seed": number,
                }
            )
        bar.update(len(batch))
    return rows


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
