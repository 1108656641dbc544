"""Finished graders, for the jobs that use them."""

from pathlib import Path

import torch

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.grade.module import Grader
from acne_lab.runs import GRADER, Run, find_run


def load_grader(reference: str | Path, runs_dir: str | Path) -> tuple[Grader, Run, Lineage]:
    """A finished grader run: the network in eval mode with its best weights, the run, and whom it has seen.

    Args:
        reference: of the run, see `find_run`.
        runs_dir: where runs lie.

    Raises:
        ValueError: there is no such run, it is not finished, or its checkpoint is not one of today's graders.
    """
    run = find_run(reference, runs_dir, holds=GRADER)
    path = run.path / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise ValueError(
            f"{path} is gone, and with it the grader: remove {run.path} and repeat the command that made it"
        )
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    arguments = checkpoint["hyper_parameters"]
    if "head" not in arguments:
        raise ValueError(f"{run.path} was made by an earlier version of acne_lab: train that grader again")
    grader = Grader(**arguments)
    grader.load_state_dict(checkpoint["state_dict"])
    grader.use_average()
    return grader.eval(), run, Lineage.read(run.path)


def require_classes(grader: Grader, table: ImageTable) -> None:
    """Raise a ValueError unless the grader's classes are the table's, in the same order."""
    if list(table.classes) != grader.classes:
        raise ValueError(
            f"the grader has the classes {grader.classes}, {table.root} has {list(table.classes)}: choose a grader "
            "that was trained on this data, or prepare the data with the grader's classes"
        )
