"""Which images a grader learns from, is chosen by and is tested on, and whom it has seen when it comes to the test.

The rules of lineage are kept here, before any training: nobody is tested who was seen.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from acne_lab.data.lineage import (
    MADE,
    Lineage,
    check_parents,
    check_table,
    leaked_rows,
    require_held_out,
    require_unseen,
)
from acne_lab.data.splits import share_of_each
from acne_lab.data.table import ImageTable
from acne_lab.grade.backbone import weights_path
from acne_lab.jobs.balance import added_rows, dealt_anew
from acne_lab.jobs.prepare import table_of
from acne_lab.runs import Run, file_key, find_table


@dataclass(frozen=True)
class Images:
    """The images of one grader.

    Args:
        train: tables to learn from: photographs, and what was added to them.
        val: rows by which everything is chosen.
        test: rows to test on, once.
        test_table: the table that these are from.
        lineage: everybody whom the grader has seen, directly or through what made its images or its weights.
        inputs: keys of all of it, for the run's key.
        people_known: somebody has told who is on the photographs.
    """

    train: list[ImageTable]
    val: ImageTable
    test: ImageTable
    test_table: ImageTable
    lineage: Lineage
    inputs: list[str]
    people_known: bool

    def about_lineage(self) -> dict:
        """What metrics.json says of whom the grader has seen.

        `leaked_share` is that of the test images: 0 unless the folds are published ones or a leak was asked for, and
        null where nobody has told who is on the photographs.
        """
        leaked = leaked_rows(self.test, self.lineage, table=self.test_table)
        return {
            "known": self.lineage.known,
            "num_photographs": len(self.lineage),
            "protocol": self.test_table.report.get("protocol"),
            "leaked_share": len(leaked) / len(self.test) if self.people_known else None,
        }


def images_of(config: dict) -> Images:
    """The images of the grader that a config describes; those that `balance` adds are made now, if they are not there.

    Raises:
        ValueError: a part has no image, a class cannot be learned, or somebody would be tested who was seen.
    """
    weights = weights_path(config["model"]["pretrained"])  # before images are made, which takes hours
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
    if weights is not None:
        known = lineage_beside(weights)
        require_unseen(test_rows, known, **about | {"what": f"model.pretrained={weights}"})
    parts, told = training_parts(config, table)
    inputs = [table.key, test_table.key, *told]
    if told:
        lineage = Lineage.merged(*map(Lineage.of, (*parts, val_rows)))
        require_unseen(test_rows, lineage, **about)
    if leaked is not None:  # behind the rules that it breaks, and in the lineage that tells of it
        inputs.append(f"leak {config['leak']}")
        parts = [*parts, leaked]
        lineage = Lineage.merged(lineage, Lineage.of(leaked))
    require_every_class(parts, val_rows, test_rows)
    if config["balance"]["permute_labels"] == "all":
        inputs.append("all labels permuted")
        parts = dealt_anew(parts, seed=config["seed"])
        (val_rows,) = dealt_anew([val_rows], seed=config["seed"])  # true ones would choose the luckiest epoch
    made = [Lineage.of(part.only(part.rows["source"].isin(MADE))) for part in parts]
    what = "what made the generated or edited training images"
    require_held_out(Lineage.merged(*made), table, what=what, parts=["val"])  # the best epoch is chosen on these

    if weights is not None:
        inputs.append(f"pretrained {file_key(weights)}")
        lineage = Lineage.merged(lineage, known)

    people_known = all(each.report.get("people_known", True) for each in (table, test_table))
    return Images(parts, val_rows, test_rows, test_table, lineage, inputs, people_known)


def training_parts(config: dict, table: ImageTable) -> tuple[list[ImageTable], list[str]]:
    """The tables to learn from, a leak apart: training photographs, and what `balance` adds or puts in their place.

    Returns:
        the tables; what the run's key says of those that `balance` made, empty if it made none.
    """
    train_rows = table.select(split="train")
    added = added_rows(config, table)
    if added is None:
        return [train_rows], []
    check_parents(added, table)
    if config["balance"]["only"]:
        return [added], [f"only {added.key}"]
    return [train_rows, added], [f"and {added.key}"]


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


def require_every_class(parts: Sequence[ImageTable], val_rows: ImageTable, test_rows: ImageTable) -> None:
    """ValueError if a class has no training image; a line on standard error if val or test lacks one."""
    classes = parts[0].classes

    def missing(*tables: ImageTable) -> str:
        there = {*pd.concat([table.rows["severity"] for table in tables])}
        return " or ".join(name for name in classes if name not in there)

    if names := missing(*parts):
        raise ValueError(
            f"no training image of {parts[0].root} is {names}, so a grader would never say it. Put some "
            "into split train, prepare the table with another data.split.seed, or leave the class out of data.classes"
        )
    if names := missing(val_rows):
        print(f"no validation image is {names}: the epoch and the temperature are chosen without it", file=sys.stderr)
    if names := missing(test_rows):
        print(f"no test image is {names}: figures are means over the other classes", file=sys.stderr)


def lineage_beside(weights: Path) -> Lineage:
    """Whose photographs the weights in a file have seen: those of the finished run that has it, else nobody knows."""
    runs = (Run(folder) for folder in weights.resolve().parents[:2])  # a run's own file, or one of its checkpoints
    run = next((run for run in runs if run.done), None)
    return Lineage.read(run.path) if run else Lineage(known=False)
