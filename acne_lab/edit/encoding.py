"""Writes an edited photograph as the original was written: how a file is encoded must not tell who was edited.

Every JPEG leaves its own grid and rounding, and a photograph that was never a JPEG has none. Both are something that a
network sees and a person does not.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

JPEG_SUFFIXES = (".jpg", ".jpeg")


def suffix_like(source_name: str) -> str:
    """The suffix of what `save_like` makes of a photograph of that name: .jpg of a JPEG, .png of anything else."""
    return ".jpg" if Path(source_name).suffix.lower() in JPEG_SUFFIXES else ".png"


def save_like(image: np.ndarray, source_path: str | Path, out_path: str | Path | BinaryIO) -> None:
    """Save uint8 [H, W, 3] in the way of the file at `source_path`, whose suffix says what it is.

    Of a JPEG a JPEG with its quantisation tables and chroma subsampling: where the edit changed nothing, the file then
    holds nearly the source's pixels. Where those do not serve (gray, CMYK): quality 95, no subsampling. Of anything
    else a PNG, which loses nothing. No metadata is copied: EXIF names places and people.

    Raises:
        OSError: the source cannot be read, or the result not written.
    """
    if suffix_like(str(source_path)) == ".png":
        Image.fromarray(image).save(out_path, "PNG")
        return
    with Image.open(source_path) as source:
        if source.format in ("JPEG", "MPO") and source.mode == "RGB":
            how = {"qtables": source.quantization, "subsampling": max(JpegImagePlugin.get_sampling(source), 0)}
        else:
            how = {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(out_path, "JPEG", **how)
