"""What `edit.refiner=` names: the refiner of a finished run, or of a file."""

from pathlib import Path

from acne_lab.data.lineage import Lineage
from acne_lab.edit.refine import Refiner
from acne_lab.edit.weights import REFINER_FILE, read_refiner
from acne_lab.runs import REFINER, Run, file_key, find_run


def find_refiner(reference: str, runs_dir: str | Path) -> tuple[Path, str, Lineage]:
    """The file of a run's refiner, or a .safetensors file itself, its key, and whose photographs it has seen; of a
    file of unknown origin nobody knows.

    Raises:
        ValueError: there is none, or the run is not finished.
    """
    path = Path(reference)
    if path.suffix != ".safetensors":
        path = find_run(reference, runs_dir, holds=REFINER).path / REFINER_FILE
    if not path.is_file():
        raise ValueError(
            f"edit.refiner={reference} is no file: give a run of experiment=refiner, or its {REFINER_FILE}"
        )
    run = Run(path.parent)
    if path.name == REFINER_FILE and run.done:
        return path, run.key, Lineage.read(run.path)
    return path, file_key(path), Lineage(known=False)


def load_refiner(reference: str, runs_dir: str | Path) -> Refiner:
    """The refiner of `find_refiner`.

    Raises:
        ValueError: as `find_refiner`, or the file is not one of a refiner.
    """
    path, *_ = find_refiner(reference, runs_dir)
    return read_refiner(path)
