"""Saves an edited photograph as its camera saved the original.

Every JPEG leaves its own grid and rounding; an edited photograph saved otherwise would differ from real ones in
something a network sees and a person does not.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin


def save_like(image: np.ndarray, source_path: str | Path, out_path: str | Path | BinaryIO) -> None:
    """Save uint8 [H, W, 3] as a JPEG with the quantisation tables and chroma subsampling of the file at `source_path`.

    Where the edit changed nothing the file then holds nearly the source's pixels. If the source is no JPEG in
    colour: quality 95, no subsampling. No metadata is copied: EXIF names places and people.

    Raises:
        OSError: the source cannot be read, or the result not written.
    """
    with Image.open(source_path) as source:
        if source.format in ("JPEG", "MPO") and source.mode == "RGB":
            how = {"qtables": source.quantization, "subsampling": max(JpegImagePlugin.get_sampling(source), 0)}
        else:
            how = {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(out_path, "JPEG", **how)
