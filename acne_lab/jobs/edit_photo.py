"""One edit, from a photograph on the disk to an image and a mask on the disk: what the processes of a balance run do.

A file is whole or absent, whatever is killed and when.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from acne_lab.data.photo import read_photo
from acne_lab.edit.editor import Skipped
from acne_lab.edit.encoding import save_like
from acne_lab.jobs.writer import write_aside


@dataclass(frozen=True)
class Task:
    """An edit that is to be made.

    Args:
        candidate: its place in the plan.
        photo: the photograph's file.
        boxes: float [M, 4], its known lesions, x0 y0 x1 y1 in px; None: nobody knows.
        num_added, severity, seed: for the editor.
        image, mask: the files to write; the mask's is a .png.
    """

    candidate: int
    photo: Path
    boxes: np.ndarray | None
    num_added: int
    severity: str
    seed: int
    image: Path
    mask: Path


def edit_photo(editor: Callable, task: Task) -> dict:
    """Edit a photograph and write the files; a record for the journal, of JSON values.

    The image is encoded as its photograph was, so that nothing but the lesions tells them apart.

    Returns:
        candidate and: skipped, the reason; or sha256 (of the image file), boxes [N, 4] of the added lesions,
        lesions_added (None: not known) and parameters.
    """
    photo = np.asarray(read_photo(task.photo))
    try:
        edit = editor(photo, boxes=task.boxes, num_added=task.num_added, severity=task.severity, seed=task.seed)
    except Skipped as skipped:
        return {"candidate": task.candidate, "skipped": str(skipped)}
    write_aside(task.mask, lambda path: Image.fromarray(edit.mask.astype(np.uint8) * 255).save(path))
    write_aside(task.image, lambda path: save_like(edit.image, task.photo, path))
    return {
        "candidate": task.candidate,
        "sha256": hashlib.sha256(task.image.read_bytes()).hexdigest(),
        "boxes": np.asarray(edit.boxes, dtype=np.float64).round(2).tolist(),
        "lesions_added": edit.lesions_added,
        "parameters": edit.parameters,
    }


# ---- in a process of its own: the editor comes once, with the process ----

_editor: Callable | None = None


def take_editor(editor: Callable, num_threads: int) -> None:
    global _editor
    _editor = editor
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def edit_with_own_editor(task: Task) -> dict:
    return edit_photo(_editor, task)


@contextmanager
def limited_threads(num_threads: int) -> Iterator[None]:
    """Sums of networks depend on the number of threads: the same, however many processes there are.

    The block's alone: what this process trains afterwards has its own.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
