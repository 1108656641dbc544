"""What `edit.refiner=` names: the refiner of a finished run, or of a file."""

from pathlib import Path

import torch

from acne_lab.data.lineage import Lineage
from acne_lab.edit.refine import Refiner
from acne_lab.edit.weights import REFINER_FILE, read_refiner
from acne_lab.runs import REFINER, Run, file_key, find_run


def load_refiner(reference: str, runs_dir: str | Path) -> tuple[Refiner, str, Lineage]:
    """The refiner of a run or a .safetensors file, on the GPU where there is one, its key, and whose photographs it
    has seen; of a file of unknown origin nobody knows.

    Raises:
        ValueError: there is none, the run is not finished, or the file is not one of a refiner.
    """
    path = Path(reference)
    if path.suffix != ".safetensors":
        path = find_run(reference, runs_dir, holds=REFINER).path / REFINER_FILE
    refiner = read_refiner(path)
    refiner.network.to("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(path.parent)
    if path.name == REFINER_FILE and run.done:
        return refiner, run.key, Lineage.read(run.path)
    return refiner, file_key(path), Lineage(known=False)
