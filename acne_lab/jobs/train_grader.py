"""Train a grader on the training rows of a table and test it once, on rows of people that it has not seen."""

from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from acne_lab.build import build
from acne_lab.callbacks import MetricsTable, Progress, RandomState
from acne_lab.data.lineage import (
    MADE,
    Lineage,
    check_parents,
    check_table,
    leaked_rows,
    require_held_out,
    require_unseen,
)
from acne_lab.data.module import GraderData
from acne_lab.data.table import ImageTable
from acne_lab.grade.backbone import weights_path
from acne_lab.grade.module import Grader
from acne_lab.jobs.balance import added_rows
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import checkpoint, fit, packed, start_job
from acne_lab.metrics.grading import grading_report
from acne_lab.runs import Run, file_key, find_table, open_run
from acne_lab.tracking import finish, log_grading


def train_grader(config: dict) -> Run:
    """Train a grader on the table's training rows and those that `balance` adds; test it once.

    The test rows are those of `test`, or of the table itself.
    """
    if config["init_from"]:
        raise ValueError(f"init_from={config['init_from']}: a grader starts from model.pretrained, leave init_from out")
    table = table_of(config)
    test_table = ImageTable.read(find_table(config["test"], config["runs_dir"])) if config["test"] else table
    train_rows, val_rows, test_rows = (
        table.select(split="train"),
        table.select(split="val"),
        test_table.select(split="test"),
    )
    for name, rows in (("train", train_rows), ("val", val_rows), ("test", test_rows)):
        if len(rows) == 0:
            hint = ": give test=<table or run> with authentic images" if name == "test" else ""
            raise ValueError(f"{rows.root} has no {name} images{hint}")
    for each in (table, test_table):
        check_table(each)
    lineage = Lineage.merged(*map(Lineage.of, (train_rows, val_rows)))  # the best epoch was chosen on the second
    about = {"table": test_table, "allow_unknown_parents": config["allow_unknown_parents"], "what": "this grader"}
    require_unseen(test_rows, lineage, **about)  # before images are made for it
    inputs, parts = [table.key, test_table.key], [train_rows]
    if (added := added_rows(config, table)) is not None:
        check_parents(added, table)
        only_added = config["balance"]["only"]
        inputs.append(f"{'only' if only_added else 'and'} {added.key}")
        parts = [added] if only_added else [train_rows, added]
        lineage = Lineage.merged(*map(Lineage.of, (*parts, val_rows)))
        require_unseen(test_rows, lineage, **about)
    made = [Lineage.of(part.only(part.rows["source"].isin(MADE))) for part in parts]
    what = "what made the generated or edited training images"
    require_held_out(Lineage.merged(*made), table, what=what, parts=["val"])  # the best epoch is chosen on these

    if (weights := weights_path(config["model"]["pretrained"])) is not None:
        inputs.append(f"pretrained {file_key(weights)}")
        known = lineage_beside(weights)
        require_unseen(test_rows, known, **about | {"what": f"model.pretrained={weights}"})
        lineage = Lineage.merged(lineage, known)

    with open_run(config, job="train", inputs=inputs) as run:
        lineage.write(run.path)
        people_known = all(each.report.get("people_known", True) for each in (table, test_table))
        seen = about_lineage(lineage, test_rows, test_table, people_known=people_known)
        if run.done:
            if run.metrics.get("lineage") != seen:  # more is known than when it was trained
                run.write_metrics({**run.metrics, "lineage": seen})
            return run
        start_job(config)
        model = build(config["model"], classes=table.classes)
        data = GraderData(
            train=[(part, packed(part, config)) for part in parts],
            val=(val_rows, packed(val_rows, config)),
            test=(test_rows, packed(test_rows, config)),
            augment=build(config["grader_augment"]) if config["grader_augment"] else None,
            seed=config["seed"],
            mean=model.data_config["mean"],
            std=model.data_config["std"],
            **config["loader"],
        )
        best = checkpoint(run, "best", monitor="val/balanced_accuracy", mode="max")
        last = checkpoint(run, "last")
        table_callback = MetricsTable(run.path / "metrics.csv", x="epoch")
        bar = Progress(unit="batch", per_batch=1, show=("val/balanced_accuracy",))
        logger, trainer = fit(
            model,
            data,
            config,
            run,
            [RandomState(config["seed"]), table_callback, bar, best, last],
            x="epoch",
            close=False,
        )
        try:
            weights = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
            model.load_state_dict(weights)
            report, predictions = test(model, trainer, data)
            predictions.to_csv(run.path / "predictions.csv", index=False)
            log_grading(logger, report["test"], predictions, report["classes"])
        finally:
            finish(logger)
        sources = pd.concat([part.rows["source"] for part in parts]).value_counts().to_dict()
        run.write_metrics(
            {
                **report,
                "train": {"num_images": sum(map(len, parts)), "sources": sources},
                "lineage": seen,
            }
        )
    return run


def lineage_beside(weights: Path) -> Lineage:
    """Whose photographs the weights in a file have seen: those of the finished run that has it, else nobody knows."""
    runs = (Run(folder) for folder in weights.resolve().parents[:2])  # a run's own file, or one of its checkpoints
    run = next((run for run in runs if run.done), None)
    return Lineage.read(run.path) if run else Lineage(known=False)


def about_lineage(lineage: Lineage, test_rows: ImageTable, test_table: ImageTable, *, people_known: bool) -> dict:
    """What metrics.json says of whom the grader has seen.

    `leaked_share` is that of the test images: 0 unless the folds are published ones, and null where nobody has told
    who is on the photographs.
    """
    leaked = leaked_rows(test_rows, lineage, table=test_table)
    return {
        "known": lineage.known,
        "num_photographs": len(lineage),
        "protocol": test_table.report.get("protocol"),
        "leaked_share": len(leaked) / len(test_rows) if people_known else None,
    }


def test(model: Grader, trainer: pl.Trainer, data: GraderData) -> tuple[dict, pd.DataFrame]:
    """Grade validation and test images with the best epoch's weights: the figures, and every test prediction."""

    def probabilities(loader: object) -> Tensor:
        return torch.cat([probabilities for probabilities, _ in trainer.predict(model, loader)])

    classes = list(data.classes)
    val, tested = probabilities(data.val_dataloader()), probabilities(data.test_dataloader())
    rows = data.test[0].rows
    predictions = rows[["file_name", "subject", "severity"]].assign(
        predicted=[classes[i] for i in tested.argmax(dim=1)],
        **{f"p_{name}": tested[:, i].numpy() for i, name in enumerate(classes)},
    )
    report = {
        "test": grading_report(tested, torch.as_tensor(data.test[0].labels), classes),
        "val": grading_report(val, torch.as_tensor(data.val[0].labels), classes),
        "classes": classes,
    }
    return report, predictions
