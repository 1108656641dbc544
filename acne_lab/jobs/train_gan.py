"""Train a StyleGAN2 from random weights or from those of another, and keep its averaged generator."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from acne_lab.build import build
from acne_lab.callbacks import (
    DISTANCE,
    DivergenceGuard,
    Evaluation,
    MetricsTable,
    Progress,
    RandomState,
    SampleGrid,
    StopWhenNoBetter,
)
from acne_lab.data.lineage import Lineage, check_table, require_held_out
from acne_lab.data.module import GanData
from acne_lab.data.table import ImageTable
from acne_lab.gan.transfer import ROW_HEADER, transfer
from acne_lab.gan.weights import NETWORKS_FILE, read_networks, save_networks
from acne_lab.grade.backbone import PACKAGED, build_backbone, data_config
from acne_lab.jobs.gans import checked_psi, has_seen_only_drawn, lineage_of, run_of, weights_file
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import checkpoint, fit, packed, start_job
from acne_lab.metrics.features import PooledFeatures
from acne_lab.processes import rank
from acne_lab.runs import Run, file_key, open_run, write_text

EVALUATION_SIDE = 112  # px at which the offline network looks at training and generated images


def train_gan(config: dict) -> Run:
    """Train a StyleGAN2 on the training rows, all of them or those of `stage.severity`."""
    check_callbacks(config)
    stage = config["stage"]
    table = table_of(config)
    check_table(table)
    severity = stage["severity"]
    if severity is not None and severity not in table.classes:
        raise ValueError(f"stage.severity={severity} is not one of the data's classes: {', '.join(table.classes)}")
    rows = where(table.select(split="train", severity=severity), stage["where"])
    if len(rows) == 0:
        wanted = ", ".join(f"{k}={v}" for k, v in {"severity": severity, **(stage["where"] or {})}.items() if v)
        raise ValueError(f"{table.root} has no training images" + (f" of {wanted}" if wanted else ""))
    if num_classes := config["model"]["G"]["c_dim"]:
        if num_classes != len(table.classes):
            raise ValueError(f"model.G.c_dim={num_classes}, but the data has the classes {', '.join(table.classes)}")
        if (rows.labels < 0).any():
            raise ValueError(f"{table.root} has images without a severity: a conditional GAN needs them all labelled")
    weights = weights_file(config["init_from"], config["runs_dir"]) if config["init_from"] else None
    inputs = [table.key] + ([file_key(weights)] if weights else [])
    same_classes = None
    if weights and num_classes and (origin := run_of(weights)):
        known = origin.metrics["classes"]
        same_classes = [(table.classes.index(name), known.index(name)) for name in table.classes if name in known]
        inputs.append(f"classes {same_classes}")  # the weights' bytes do not tell them
    only_drawn = rows.is_drawn and (weights is None or has_seen_only_drawn(weights))
    lineage = Lineage.merged(Lineage.of(rows), *([lineage_of(weights)] if weights else []))
    require_held_out(lineage, table, what=f"this GAN, which starts from {weights or 'random weights'},")
    is_first = "strategy" not in config["trainer"] or rank() == 0  # of several processes it writes, and speaks

    with open_run(config, job="train", inputs=inputs) as run:
        if is_first:
            lineage.write(run.path)  # also of a run that was finished before lineages were kept
        if run.done:
            return run
        start_job(config)
        pixels = packed(rows, config)
        data = GanData(
            table=rows,
            pixels=pixels,
            batch_size=stage["batch_size"],
            seed=config["seed"],
            mirror=stage["mirror"],
        )
        model = build(with_precision_of(run, config["model"]))
        if weights and not run.last_checkpoint:
            start_from(model, weights, run, same_classes)
        show = ("ada/p", "loss/G", "loss/D")
        callbacks = [
            RandomState(config["seed"]),
            *gan_callbacks(config["callbacks"], run),
            MetricsTable(run.path / "metrics.csv", x="images_seen"),  # behind those that log
            Progress(unit="img", per_batch=stage["batch_size"], show=show),
            checkpoint(run, "last"),
        ]
        try:
            fit(model, data, config, run, callbacks, x="images_seen", only_drawn=only_drawn)
        except ValueError as error:  # in all processes alike
            if not is_first:  # Lightning kills the first where another exits with an error
                return run
            if run.last_checkpoint is None:
                raise
            model.load_state_dict(torch.load(run.last_checkpoint, weights_only=True)["state_dict"])
            save_networks(run.path / "last_good_tick.safetensors", G_ema=model.G_ema, D=model.D)
            raise ValueError(f"{error}. The last good tick: {run.path / 'last_good_tick.safetensors'}") from error
        if not is_first:
            return run
        best = run.path / "checkpoints" / "best.ckpt"
        if config["callbacks"]["evaluation"] and best.exists():
            checkpoint_of_best = torch.load(best, weights_only=True)
            model.load_state_dict(checkpoint_of_best["state_dict"])
            model.on_load_checkpoint(checkpoint_of_best)
        save_networks(run.path / NETWORKS_FILE, G_ema=model.G_ema, D=model.D)
        run.write_metrics(
            {
                "images_seen": model.images_seen,
                "num_training_images": len(rows),
                "num_nonfinite": int(model.num_nonfinite),
                "ada_p": float(model.augment.p),
                "num_half_res": model.G.init_kwargs["num_half_res"],
                "only_drawn": only_drawn,
                "severity": severity,
                "classes": list(table.classes),
                "table": table.key,
            }
        )
    return run


def where(table: ImageTable, wanted: dict | None) -> ImageTable:
    """The rows that have the wanted values in these columns.

    Raises:
        ValueError: there is no such column.
    """
    for column, value in (wanted or {}).items():
        if column not in table.rows:
            raise ValueError(f"stage.where: {table.root} has no column {column}; it has {', '.join(table.rows)}")
        table = table.matching(column, value)
    return table


def check_callbacks(config: dict) -> None:
    """Raise a ValueError if something is to happen after more ticks than there are, or psi is out of its range."""
    num_ticks, callbacks = config["trainer"]["max_epochs"], config["callbacks"]
    for name in ("evaluation", "snapshots"):
        if callbacks[name] and callbacks[name]["every_ticks"] < 1:
            raise ValueError(f"callbacks.{name}.every_ticks must be at least 1")
    if callbacks["evaluation"] and (every := callbacks["evaluation"]["every_ticks"]) > num_ticks:
        raise ValueError(
            f"callbacks.evaluation.every_ticks={every}, but there are {num_ticks} ticks (num_images / tick_images)"
        )
    if callbacks["sample_grid"]:
        checked_psi(callbacks["sample_grid"]["psi"])


def gan_callbacks(config: dict, run: Run) -> list[pl.Callback]:
    """What conf/callbacks asks for."""
    callbacks = []
    if config["sample_grid"]:
        callbacks.append(SampleGrid(run.path / "samples", **config["sample_grid"]))
    if config["divergence_guard"]:
        callbacks.append(DivergenceGuard(**config["divergence_guard"]))
    if evaluation := config["evaluation"]:
        every = evaluation["every_ticks"]
        backbone = build_backbone(PACKAGED, pretrained="package")
        about = data_config(backbone)
        features = PooledFeatures(backbone, mean=about["mean"], std=about["std"], side=EVALUATION_SIDE)
        callbacks += [
            Evaluation(features, every_ticks=every, num_images=evaluation["num_images"]),
            checkpoint(run, "best", monitor=DISTANCE, mode="min", every_n_epochs=every),
            StopWhenNoBetter(DISTANCE, mode="min", patience=evaluation["patience"]),
        ]
    if snapshots := config["snapshots"]:
        every, keep = snapshots["every_ticks"], snapshots["keep_last"]
        callbacks.append(
            checkpoint(
                run, "{images_seen:.0f}", monitor="images_seen", mode="max", save_top_k=keep, every_n_epochs=every
            )
        )
    return callbacks


def with_precision_of(run: Run, model: dict) -> dict:
    """The model's config; where it leaves 16 bit to the machine, a run goes on as it began, wherever that was.

    So the machine is not in a run's key.
    """
    left_open = [name for name in ("G", "D") if model[name]["num_half_res"] is None]
    if run.last_checkpoint is None or not left_open:
        return model
    began = torch.load(run.last_checkpoint, weights_only=True, mmap=True)["gan"]["num_half_res"]
    return model | {name: model[name] | {"num_half_res": began[name]} for name in left_open}


def start_from(model: pl.LightningModule, weights: Path, run: Run, same_classes: list | None) -> None:
    """Load G, G_ema and D from a file; say what fitted, and record it tensor by tensor. Classes as in `transfer`."""
    networks = read_networks(weights)
    if "D" not in networks:
        raise ValueError(f"{weights} holds no discriminator: fine-tuning goes on with both networks")
    if (channels := networks["G_ema"].img_channels) != model.G.img_channels:
        raise ValueError(
            f"{weights} makes images with {channels} channels, the training images have {model.G.img_channels}: start "
            "from a network of RGB images"
        )
    networks.setdefault("G", networks["G_ema"])
    table, summary = [], [f"init_from {weights.name}"]
    for name in ("G", "G_ema", "D"):
        done = transfer(getattr(model, name), networks[name].state_dict(), same_classes)
        summary.append(f"  {name}: {done}")
        if name != "G_ema":  # the same as G
            summary += [f"    {row}" for row in done.rows if row.fate != "loaded"]
        table += [f"{name}: {done}", ROW_HEADER, *map(str, done.rows), ""]
    if rank() == 0:
        print(*summary, sep="\n", file=sys.stderr)
        write_text(run.path / "init_from.txt", "\n".join(table))
