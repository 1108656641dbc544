"""Weights & Biases: one W&B run for each of our runs, grouped by study, offline unless a key is set.

What is sent: configs without folders, figures, curves, confusion matrices. Pictures (training images, sample grids,
sheets) are sent where all faces that the networks have learned from were drawn. A GAN that has seen photographs may
have memorised some, so what it generates stays here unless `send_generated` says otherwise. Photographs always stay.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import wandb
from PIL import Image
from pytorch_lightning.loggers import Logger, WandbLogger

from acne_lab.runs import Run


class PictureGuard(WandbLogger):
    """The logger of a run, who decides what pictures it sends.

    Args:
        only_drawn: all faces that the run's networks have learned from were drawn.
        send_generated: generated ones are sent even if not.
        kwargs: of WandbLogger.
    """

    def __init__(self, *, only_drawn: bool, send_generated: bool, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.only_drawn, self.send_generated = only_drawn, send_generated

    def log_picture(self, name: str, picture: Image.Image, *, generated: bool, step: int | None = None) -> None:
        """Send a picture of generated or of training images, if it may be seen."""
        if self.only_drawn or (generated and self.send_generated):
            self.log_image(name, [picture], step=step)


def wandb_logger(
    run: Run,
    *,
    x: str | None = None,
    only_drawn: bool = False,
    send_generated: bool = False,
    project: str = "acne_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    mode: str | None = None,
) -> PictureGuard:
    """A Lightning logger whose W&B run has this run's name and key, so that a resumed run goes on in it.

    Args:
        run: its config is logged; files go to its `wandb` folder.
        x: the metric on the horizontal axis of every chart; None: there are no curves.
        only_drawn: all faces that the run's networks have learned from were drawn: its pictures may be seen.
        send_generated: generated pictures may be seen in any case.
        project: W&B project.
        entity: W&B team or user; None is the key's own.
        group: the study.
        tags: free words.
        mode: "online" or "offline"; None is online where WANDB_API_KEY is set, else offline.
    """
    mode = mode or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    logger = PictureGuard(
        only_drawn=only_drawn,
        send_generated=send_generated,
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        job_type=run.job,
        name=run.path.name,
        id=run.key,
        resume="allow",
        save_dir=run.path,
        offline=mode == "offline",
        config=without_paths(run.config),
        # no user, command line, folders; the host's name cannot be left out, so it is the project's
        settings=wandb.Settings(x_disable_meta=True, disable_git=True, console="off", host="acne_lab"),
    )
    if x is not None:
        logger.experiment.define_metric("*", step_metric=x)
    return logger


def without_paths(value: object) -> object:
    """A config in which paths are their last names: where a photograph lies may tell whose it is."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def log_grading(
    logger: Logger | None, report: dict, *, truth: Sequence[int], predicted: Sequence[int], classes: Sequence[str]
) -> None:
    """Log a test's figures and its confusion matrix; `truth` and `predicted` are indices into `classes`."""
    if not isinstance(logger, WandbLogger):
        return
    numbers = {f"test/{name}": value for name, value in report.items() if isinstance(value, int | float)}
    log_figures(logger, numbers)
    chart = wandb.plot.confusion_matrix(y_true=list(truth), preds=list(predicted), class_names=list(classes))
    logger.experiment.log({"test/confusion": chart})


def log_figures(logger: Logger | None, figures: dict[str, float]) -> None:
    """Log numbers, which W&B also shows in its table of runs."""
    if isinstance(logger, WandbLogger):
        logger.experiment.log(figures)


def log_and_finish(logger: Logger | None, figures: dict[str, float], **generated: Image.Image) -> None:
    """All that a run without curves has to say: numbers, and generated pictures under their names."""
    try:
        log_figures(logger, figures)
        for name, picture in generated.items() if isinstance(logger, PictureGuard) else ():
            logger.log_picture(name, picture, generated=True)
    finally:
        finish(logger)


def finish(logger: Logger | None) -> None:
    """Close the W&B run: without this the runs of a sweep merge."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
