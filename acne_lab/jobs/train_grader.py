"""Train a grader on the training rows of a table and test it once, on rows of people that it has not seen.

The best epoch, the temperature and all else that is chosen is chosen on the validation rows (`opening`).
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl

from acne_lab.build import build
from acne_lab.callbacks import MetricsTable, Progress, RandomState, StopWhenNoBetter
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
from acne_lab.data.splits import share_of_each
from acne_lab.data.table import ImageTable
from acne_lab.grade.backbone import check_name, weights_path
from acne_lab.jobs.balance import added_rows, dealt_anew
from acne_lab.jobs.opening import CHOSEN_ON, open_test, opened, opening
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.probing import check_recipe, fit_heads
from acne_lab.jobs.training import checkpoint, fit, packed, start_job
from acne_lab.metrics.predictions import Predictions
from acne_lab.metrics.statistics import figures_with_intervals
from acne_lab.report.card import write_card
from acne_lab.runs import Run, file_key, find_table, open_run
from acne_lab.tracking import finish, log_grading


def train_grader(config: dict) -> Run:
    """Train a grader on the table's training rows and those that `balance` adds; test it once.

    The test rows are those of `test`, or of the table itself.
    """
    if config["init_from"]:
        raise ValueError(f"init_from={config['init_from']}: a grader starts from model.pretrained, leave init_from out")
    check_name(config["model"]["backbone"])
    if config["probe"]:
        check_recipe(config)
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
            raise ValueError(f"{rows.root} has no {name} images{hint}{of_one_person(test_table)}")
    for each in (table, test_table):
        check_table(each)
    leaked, test_rows = leaked_from(test_rows, share=config["leak"])
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
    if leaked is not None:  # behind the rules that it breaks, and in the lineage that tells of it
        inputs.append(f"leak {config['leak']}")
        parts = [*parts, leaked]
        lineage = Lineage.merged(lineage, Lineage.of(leaked))
    require_every_class(parts, test_rows)
    if config["balance"]["permute_labels"] == "all":
        inputs.append("all labels permuted")
        parts = dealt_anew(parts, seed=config["seed"])
        (val_rows,) = dealt_anew([val_rows], seed=config["seed"])  # true ones would choose the luckiest epoch
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
        predictions = opened(run)
        if predictions is None:
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
            if config["probe"]:
                logger, trainer, data = fit_heads(model, data, config, run)
            else:
                logger, trainer = fit(model, data, config, run, grader_callbacks(config, run), x="epoch", close=False)
            try:
                predictions = open_test(run, model, trainer, data, decision=config["decision"])
                report, tested = report_of(predictions, run), predictions.of("test")
                grades = {"truth": tested.labels.tolist(), "predicted": tested.predicted.tolist()}
                log_grading(logger, report["test"], **grades, classes=tested.classes)
            finally:
                finish(logger)
        else:
            report = report_of(predictions, run)
        sources = pd.concat([part.rows["source"] for part in parts]).value_counts().to_dict()
        run.write_metrics(
            {
                **report,
                "train": {"num_images": sum(map(len, parts)), "sources": sources},
                "lineage": seen,
            }
        )
        rows = {"train": pd.concat([part.rows for part in parts]), "val": val_rows.rows, "test": test_rows.rows}
        write_card(run.path, parts=rows, columns=predictions.frame.columns)
    return run


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


def leaked_from(test_rows: ImageTable, *, share: float | None) -> tuple[ImageTable | None, ImageTable]:
    """The test photographs that are to be training images too, and those that are left to test on.

    Raises:
        ValueError: `share` is none, or no test person has as many photographs as it takes.
    """
    if share is None:
        return None, test_rows
    if not 0 < share < 1:
        raise ValueError(f"leak is the share of each test person's photographs to train on, e.g. 0.5, not {share}")
    chosen = share_of_each(test_rows.rows, share=share)
    if not chosen.any():
        raise ValueError(f"leak={share}: no test person of {test_rows.root} has so many photographs, leave leak out")
    return test_rows.only(chosen), test_rows.only(~chosen)


def of_one_person(table: ImageTable) -> str:
    """What else to say where a part is empty."""
    people = set(table.rows["subject"]) - {""}
    return f" (all images show one person, {people.pop()}: a test needs others)" if len(people) == 1 else ""


def require_every_class(parts: Sequence[ImageTable], test_rows: ImageTable) -> None:
    """ValueError if a class has no training image; a word on standard error if one has no test image."""
    trained, tested = ({*pd.concat([table.rows["severity"] for table in each])} for each in (parts, [test_rows]))
    classes = parts[0].classes
    if missing := [name for name in classes if name not in trained]:
        raise ValueError(
            f"no training image of {parts[0].root} is {' or '.join(missing)}, so a grader would never say it. Put some "
            "into split train, prepare the table with another data.split.seed, or leave the class out of data.classes"
        )
    if missing := [name for name in classes if name not in tested]:
        print(f"no test image is {' or '.join(missing)}: figures are means over the other classes", file=sys.stderr)


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
