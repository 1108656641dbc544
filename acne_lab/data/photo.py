"""One photograph, from any file that a clinic, a phone or a dermatoscope writes, to square uint8 RGB.

It does not know colour management: an embedded ICC profile is ignored, CMYK is converted by the plain
formula, and 16 bits are taken as using their whole range.
"""

from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 200_000_000  # the largest phone sensors; ACNE04's photographs have 11 million
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

Image.MAX_IMAGE_PIXELS = MAX_PIXELS

Fit = Literal["crop", "pad", "stretch"]


def read_photo(file: str | Path | BinaryIO, *, draft_side: int | None = None) -> Image.Image:
    """Decode a photograph as it is meant to be seen: RGB, 8 bits, upright.

    EXIF orientation is applied, transparency is composited on white, 16 bits are scaled to 8, gray, palette
    and CMYK are converted, and of an animation the first frame is taken.

    Args:
        file: path, or a binary file.
        draft_side: if the short side is at least twice this, a JPEG may be decoded at 1/2, 1/4 or 1/8 size,
            with no side below `draft_side`: faster, and every byte is still read. None: full size.

    Raises:
        OSError: the file is missing or truncated.
        ValueError: it is no image, damaged, too large, or has no definite range (float, 32 bits).
    """
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
            if draft_side is not None:
                image.draft(image.mode, (draft_side, draft_side))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError("not an image of a known kind") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        # On a damaged file Pillow's decoders raise whatever the damage makes them trip over.
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def orientation(image: Image.Image) -> int:
    """1 to 8: how an opened file is to be turned to stand upright, by its EXIF; 1 as it is."""
    told = image.getexif().get(0x0112, 1)
    return told if told in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in px of an opened file, turned upright; from its header alone."""
    return image.size[::-1] if orientation(image) in SIDEWAYS else image.size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("a floating-point image has no definite range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("a 32-bit image has no definite range; save it with 8 or 16 bits")
    gray = np.round(values / 257).astype(np.uint8)  # 65535 = 255 * 257
    return Image.fromarray(gray).convert("RGB")


def fit_square(image: Image.Image, resolution: int, fit: Fit) -> Image.Image:
    """Make a photograph `resolution` x `resolution` with an antialiased Lanczos resize.

    Args:
        image: RGB.
        resolution: side of the result in pixels.
        fit: "crop" keeps the centre square; "pad" keeps all, centred on the mean colour of the photograph's
            border (black bars would be a sharp edge for a network to learn); "stretch" keeps all and
            changes proportions.
    """
    width, height = image.size
    square = (resolution, resolution)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return image.resize(square, Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    if fit == "stretch":
        return image.resize(square, Image.Resampling.LANCZOS)
    if fit != "pad":
        raise ValueError(f"fit must be crop, pad or stretch, not {fit!r}")
    inner = image.resize(_inner_size(image.size, resolution), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", square, border_colour(inner))
    canvas.paste(inner, ((resolution - inner.width) // 2, (resolution - inner.height) // 2))
    return canvas


def fit_boxes(boxes: np.ndarray, size: tuple[int, int], resolution: int, fit: Fit) -> np.ndarray:
    """Where boxes of a photograph lie after `fit_square`; those beyond its edges lie beyond the square's.

    Args:
        boxes: float [N, 4], x0 y0 x1 y1 in px of the upright photograph.
        size: its width and height in px.
        resolution, fit: as of `fit_square`.

    Returns:
        float64 [N, 4] in px of the square.
    """
    width, height = size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        scale, offset = (resolution / side,) * 2, (-left * resolution / side, -top * resolution / side)
    elif fit == "stretch":
        scale, offset = (resolution / width, resolution / height), (0, 0)
    elif fit == "pad":
        inner = _inner_size(size, resolution)
        scale = (inner[0] / width, inner[1] / height)
        offset = tuple((resolution - side) // 2 for side in inner)
    else:
        raise ValueError(f"fit must be crop, pad or stretch, not {fit!r}")
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * (*scale, *scale) + (*offset, *offset)


def _inner_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Width and height in px of a photograph that is fitted whole into a square."""
    scale = resolution / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def border_colour(image: Image.Image) -> tuple[int, int, int]:
    """Mean RGB of the outermost pixels."""
    pixels = np.asarray(image)
    ring = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    red, green, blue = np.round(ring.mean(axis=0)).astype(int).tolist()
    return red, green, blue
