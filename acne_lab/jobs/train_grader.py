"""Train a grader on the training rows of a table and test it once, on rows of people that it has not seen.

The best epoch, the temperature and all else that is chosen is chosen on the validation rows (`opening`).
"""

import sys
from dataclasses import asdict

import pandas as pd
import pytorch_lightning as pl

from acne_lab.build import build
from acne_lab.callbacks import MetricsTable, Progress, RandomState, StopWhenNoBetter
from acne_lab.data.module import GraderData
from acne_lab.grade.backbone import check_name, require_weights
from acne_lab.jobs.grader_images import Images, images_of
from acne_lab.jobs.opening import CHOSEN_ON, open_test, opened, opening
from acne_lab.jobs.probing import check_recipe, fit_heads
from acne_lab.jobs.training import checkpoint, fit, packed, start_job
from acne_lab.metrics.grading import figures
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import figures_with_intervals
from acne_lab.report.card import write_card
from acne_lab.runs import Run, open_run
from acne_lab.tracking import finish, log_grading


def train_grader(config: dict) -> Run:
    """Train a grader on the table's training rows and those that `balance` adds; test it once.

    The test rows are those of `test`, or of the table itself.
    """
    if config["init_from"]:
        raise ValueError(f"init_from={config['init_from']}: a grader starts from model.pretrained, leave init_from out")
    check_name(config["model"]["backbone"])
    if config["model"]["pretrained"] is not True:  # a finished run is found without the hub
        require_weights(config["model"])
    if config["probe"]:
        check_recipe(config)
    images = images_of(config)

    with open_run(config, job="train", inputs=images.inputs) as run:
        images.lineage.write(run.path)
        seen = images.about_lineage()
        if not run.done:
            predictions = opened(run)
            if predictions is None:
                predictions = trained_and_tested(config, images, run)
            train = pd.concat([part.rows for part in images.train])
            learned_from = {"num_images": len(train), "sources": train["source"].value_counts().to_dict()}
            run.write_metrics({**report_of(predictions, run), "train": learned_from, "lineage": seen})
            rows = {"train": train, "val": images.val.rows, "test": images.test.rows}
            write_card(run.path, parts=rows, columns=predictions.frame.columns)
        elif run.metrics.get("lineage") != seen:  # more is known than when it was trained
            run.write_metrics({**run.metrics, "lineage": seen})
    print(summary_line(run.metrics), file=sys.stderr)
    return run


def trained_and_tested(config: dict, images: Images, run: Run) -> Predictions:
    """Train the grader, or its heads alone, resuming where it stopped; open its test; log the figures."""
    require_weights(config["model"])
    start_job(config)
    model = build(config["model"], classes=images.val.classes)
    data = GraderData(
        train=[(part, packed(part, config)) for part in images.train],
        val=(images.val, packed(images.val, config)),
        test=(images.test, packed(images.test, config)),
        augment=build(config["grader_augment"]) if config["grader_augment"] else None,
        seed=config["seed"],
        mean=model.data_config["mean"],
        std=model.data_config["std"],
        **config["loader"],
    )
    if config["probe"]:
        logger, trainer, data = fit_heads(model, data, config, run)
    else:
        logger, trainer = fit(model, data, config, run, grader_callbacks(config, run), x="epoch", close=False)
    try:
        predictions = open_test(run, model, trainer, data, decision=config["decision"])
        tested = predictions.of("test")
        grades = {"truth": tested.labels.tolist(), "predicted": tested.predicted.tolist()}
        log_grading(logger, figures(tested), **grades, classes=tested.classes)
    finally:
        finish(logger)
    return predictions


def summary_line(metrics: dict) -> str:
    """How a finished grader did on its test, in a line."""
    test = metrics["test"]
    interval = test.get("interval", {}).get("balanced_accuracy", {})
    about = f" ({interval['low']:.3f} to {interval['high']:.3f} over people)" if "low" in interval else ""
    num_classes = sum(value is not None for value in test["recall"].values())  # those with test images
    return (
        f"balanced accuracy {test['balanced_accuracy']:.3f}{about} on {test['num_test']} test images; "
        f"chance is {1 / num_classes:.2f}"
    )


def grader_callbacks(config: dict, run: Run) -> list[pl.Callback]:
    """The best epoch is kept, and the last one; with `patience` training ends where no better one comes."""
    callbacks = [
        RandomState(config["seed"]),
        MetricsTable(run.path / "metrics.csv", x="epoch"),
        Progress(unit="batch", per_batch=1, show=(CHOSEN_ON,)),
    ]
    if config["patience"] is not None:
        callbacks.append(StopWhenNoBetter(CHOSEN_ON, mode="max", patience=config["patience"]))
    return [*callbacks, checkpoint(run, "best", monitor=CHOSEN_ON, mode="max"), checkpoint(run, "last")]


def report_of(predictions: Predictions, run: Run) -> dict:
    """What metrics.json says of a grader that was tested."""
    return {
        "test": figures_with_intervals(predictions.of("test")),
        "val": figures_with_intervals(predictions.of("val")),
        "classes": list(predictions.classes),
        "decision": asdict(predictions.decision),
        "test_opened": opening(run),
    }
