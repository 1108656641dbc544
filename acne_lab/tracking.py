"""Weights & Biases: one W&B run for each of our runs, grouped by study, offline unless a key is set."""

import os

from pytorch_lightning.loggers import Logger, WandbLogger

from acne_lab.runs import Run


def wandb_logger(
    run: Run,
    *,
    job_type: str,
    x: str,
    project: str = "acne_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    mode: str | None = None,
) -> WandbLogger:
    """A Lightning logger whose W&B run has this run's name and key, so that a resumed run goes on in it.

    Args:
        run: its config is logged; files go to its `wandb` folder.
        job_type: "gan" or "grader".
        x: the metric on the horizontal axis of every chart.
        project: W&B project.
        entity: W&B team or user; None is the key's own.
        group: the study.
        tags: free words.
        mode: "online" or "offline"; None is online where WANDB_API_KEY is set, else offline.
    """
    mode = mode or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    logger = WandbLogger(
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        job_type=job_type,
        name=run.path.name,
        id=run.key,
        resume="allow",
        save_dir=run.path,
        offline=mode == "offline",
        config=run.config,
    )
    logger.experiment.define_metric("*", step_metric=x)
    return logger


def log_grading(logger: Logger | None, report: dict, classes: list[str]) -> None:
    """Log a test's figures and its confusion matrix (rows are the truth)."""
    if not isinstance(logger, WandbLogger):
        return
    logger.log_metrics({f"test/{k}": report[k] for k in ("accuracy", "balanced_accuracy", "macro_f1", "num_test")})
    rows = [[name, *counts] for name, counts in zip(classes, report["confusion"], strict=True)]
    logger.log_table("test/confusion", columns=["truth", *classes], data=rows)


def finish(logger: Logger | None) -> None:
    """Close the W&B run: without this the runs of a sweep merge."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
