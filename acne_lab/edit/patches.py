"""Patches of training photographs for the refiner, cut once and kept.

A patch is cut at the photograph's own scale, most of them around a lesion. With it are kept the same patch healed, what
was read from its photograph (skin, light, tone, blur), and for each lesion drawn ones that resemble it: exercises that
paired any drawn lesion with any real one would teach the refiner to overrule what is asked for.
"""

import hashlib
import io
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from scipy import ndimage
from tqdm import tqdm

from acne_lab.data.faces import Face
from acne_lab.data.photo import read_photo
from acne_lab.data.table import BadData, ImageTable
from acne_lab.data.workers import in_order
from acne_lab.edit.face import Analyser, Analysis, Tone
from acne_lab.edit.heal import REACH, ellipses, healed
from acne_lab.edit.lesions import ProceduralLesion, ProceduralLesions
from acne_lab.edit.overlay import Overlay
from acne_lab.edit.skin import NoSkin

VERSION = 3  # change it with anything that changes what is cut, healed or drawn
NEAR_A_LESION = 0.75  # share of the patches that are cut around one
CLEAR = 0.97  # share of what is healed that must be skin
NUM_TRIED, NUM_KEPT = 6, 2  # drawn lesions that are held against a real one, and those that resemble it most
NAMES = [[part.name for part in fields(kind)] for kind in (Analysis, ProceduralLesion)]  # what is kept of them
ARRAYS = ("pixels", "maps", "boxes", "drawn", "first", "about", "sizes")


@dataclass(frozen=True)
class Patches:
    """M patches of S x S pixels and the K lesions in them.

    Args:
        pixels: uint8 [M, 2, S, S, 3]: the patch and the same without lesions, memory-mapped.
        maps: float16 [M, 2, S, S]: `Analysis.skin` and `Analysis.illumination`, memory-mapped.
        boxes: float32 [K, 4], x0 y0 x1 y1 in pixels of the patch: lesions that lie in it with all that is healed.
        drawn: text [K, NUM_KEPT]: arguments of `ProceduralLesion`, as JSON.
        first: int64 [M + 1]: patch i has the lesions from first[i] to first[i + 1].
        about: text [M]: the rest of each patch's `Analysis`, as JSON.
        sizes: float32 [L]: diameters of all lesions of the photographs, px; never empty.
    """

    pixels: np.ndarray
    maps: np.ndarray
    boxes: np.ndarray
    drawn: np.ndarray
    first: np.ndarray
    about: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        return self.pixels.shape[2]

    def lesions_of(self, i: int) -> slice:
        """Where `boxes` and `drawn` hold those of patch i."""
        return slice(self.first[i], self.first[i + 1])

    def analysis_of(self, i: int) -> Analysis:
        """What is known of patch i, which has lesions."""
        about = json.loads(str(self.about[i]))
        about = {k: np.array(v, np.float32) if isinstance(v, list) else v for k, v in about.items()}
        if about["face"] is not None:
            about["face"] = Face(box=(0.0, 0.0, 0.0, 0.0), landmarks=about["face"], score=1.0, detector="patch")
        skin, illumination = np.asarray(self.maps[i], np.float32)
        tone = Tone(**about.pop("tone"))
        boxes = self.boxes[self.lesions_of(i)]
        return Analysis(skin=skin, illumination=illumination, lesions=boxes, tone=tone, **about)


def cut_patches(
    table: ImageTable,
    *,
    side: int,
    per_photo: int,
    cache_dir: str | Path,
    num_workers: int,
    landmarks: bool | None = None,
) -> Patches:
    """Patches of all photographs of a table, from the cache if they are there.

    Args:
        table: with boxes.
        side: of a patch, in px of the photograph.
        per_photo: patches of each photograph.
        cache_dir: where they are kept, under a hash of what is in them.
        num_workers: processes.
        landmarks: as of `Analyser`.

    Raises:
        BadData: photographs are too small, have vanished or changed since the table was made; names them.
        ValueError: the table has no lesion boxes.
    """
    if table.boxes is None or len(table.boxes) == 0:
        raise ValueError(
            f"{table.root} has no lesion boxes: the refiner learns from lesions whose place is known "
            "(data=toy, data=acne04 with its Detection folder, or a boxes.csv beside metadata.csv)"
        )
    analyser = Analyser(landmarks=landmarks)
    faces = analyser.finder.fingerprint if analyser.finder else ""
    key = patches_key(table, side=side, per_photo=per_photo, faces=faces)
    folder = Path(cache_dir) / f"patches-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have cut them meanwhile
                _cut(table, folder, analyser, side, per_photo, num_workers)
    return Patches(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})


def patches_key(table: ImageTable, *, side: int, per_photo: int, faces: str) -> str:
    """16 hex digits of what decides the patches; `faces` is the `FaceFinder.fingerprint`, "" of none."""
    boxes = _boxes_by_name(table)
    photos = [[row.sha256, boxes[row.file_name].tolist()] for row in table.rows.itertuples()]
    return hashlib.sha256(json.dumps([VERSION, NAMES, side, per_photo, faces, photos]).encode()).hexdigest()[:16]


def _boxes_by_name(table: ImageTable) -> dict[str, np.ndarray]:
    none = np.zeros((0, 4), np.float32)
    boxed = {name: part.to_numpy()[:, 1:].astype(np.float32) for name, part in table.boxes.groupby("file_name")}
    return {name: boxed.get(name, none) for name in table.rows["file_name"]}


def _cut(table: ImageTable, folder: Path, analyser: Analyser, side: int, per_photo: int, num_workers: int) -> None:
    """Fill a folder aside and rename it."""
    boxes = _boxes_by_name(table)
    columns = zip(table.paths, table.rows["file_name"], table.rows["sha256"])
    jobs = [(path, name, sha256, boxes[name], analyser, side, per_photo) for path, name, sha256 in columns]
    aside = folder.with_name(f"{folder.name}.part")
    aside.mkdir(exist_ok=True)
    num = len(table) * per_photo
    pixels, maps = (
        np.lib.format.open_memmap(aside / f"{name}.npy", mode="w+", dtype=dtype, shape=(num, 2, side, side, *rest))
        for name, dtype, rest in (("pixels", np.uint8, (3,)), ("maps", np.float16, ()))
    )
    problems, found = [], []
    bar = tqdm(in_order(cut_photo, jobs, num_workers), total=len(jobs), desc=f"patches {side} px", unit="photo")
    for result in bar:
        if isinstance(result, str):
            problems.append(result)
            continue
        for patch in result:
            pixels[len(found)], maps[len(found)] = patch.pop("pixels"), patch.pop("maps")
            found.append(patch)
    if problems:
        raise BadData(problems, "lower patches.side, put the files back, or run `acne-lab prepare` again")
    pixels.flush()
    maps.flush()
    small = {
        "boxes": np.concatenate([patch["boxes"] for patch in found]),
        "drawn": np.array([texts for patch in found for texts in patch["drawn"]], str).reshape(-1, NUM_KEPT),
        "first": np.cumsum([0, *(len(patch["boxes"]) for patch in found)]),
        "about": np.array([patch["about"] for patch in found], str),
        "sizes": diameters(np.concatenate(list(boxes.values()))),
    }
    for name, array in small.items():
        np.save(aside / f"{name}.npy", array)
    os.replace(aside, folder)


def cut_photo(job: tuple[Path, str, str, np.ndarray, Analyser, int, int]) -> str | list[dict]:
    """The patches of one photograph, or what is wrong with it."""
    path, file_name, sha256, boxes, analyser, side, num = job
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"{file_name}: cannot be read ({error.strerror})"
    if hashlib.sha256(content).hexdigest() != sha256:
        return f"{file_name}: has changed since the table was made"
    photo = np.asarray(read_photo(io.BytesIO(content)))
    if min(photo.shape[:2]) < side:
        return f"{file_name}: {photo.shape[1]} x {photo.shape[0]} is smaller than a patch of {side} px"
    rng = np.random.default_rng(int(sha256[:16], 16))
    smooth = healed(photo, boxes, rng)
    try:
        analysis = analyser(smooth, boxes)  # on which lesions will be drawn: red ones may not look like skin
    except NoSkin:  # nothing is drawn there, but it may be painted
        analysis, boxes = None, boxes[:0]
    if analysis is not None:
        boxes = boxes[on_skin(analysis.skin, boxes)]
    drawn, patches = {}, []
    for x, y in corners(rng, photo.shape[:2], boxes, side=side, num=num):
        window, shift = (slice(y, y + side), slice(x, x + side)), np.array([x, y, x, y], np.float32)
        here = np.nonzero(within(boxes - shift, (side, side)))[0]
        for k in here:
            if k not in drawn:
                drawn[k] = resembling(photo, smooth, analysis, boxes[k], rng)
        part = None if analysis is None else cropped(analysis, window)
        patches.append(
            {
                "pixels": np.stack([photo[window], smooth[window]]),
                "maps": np.zeros((2, side, side)) if part is None else np.stack([part.skin, part.illumination]),
                "boxes": boxes[here] - shift,
                "drawn": [drawn[k] for k in here],
                "about": "null" if part is None else described(part),
            }
        )
    return patches


def described(analysis: Analysis) -> str:
    """What is known of a patch, but for maps and lesions, as JSON."""
    about = {part.name: getattr(analysis, part.name) for part in fields(Analysis)}
    for name in ("skin", "illumination", "lesions"):
        del about[name]
    about["face"] = None if analysis.face is None else analysis.face.landmarks.round(1)
    about["tone"] = asdict(analysis.tone)
    middle = np.array([analysis.skin.shape[::-1]]) / 2
    about["blurs"] = np.hstack([middle, analysis.blur_at(middle)[:, None]])
    return json.dumps({k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in about.items()})


def on_skin(skin: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which lesions lie, with all that is healed with them, on nothing but skin: [H, W], [N, 4] -> bool [N].

    Beside hair or lips healed skin takes on some of their colour. No drawn lesion ever lies on such a smudge, and a
    network that is shown them learns to paint them over.
    """
    parts, num_parts = ndimage.label(ellipses(boxes, skin.shape, reach=REACH))
    shares = np.zeros(num_parts + 1)  # 0: their centres are outside of the photograph
    if num_parts:
        shares[1:] = ndimage.mean(skin > 0.5, parts, np.arange(1, num_parts + 1))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).clip(0, np.array(skin.shape[::-1]) - 1).astype(int).T
    return shares[parts[y, x]] >= CLEAR


def resembling(
    photo: np.ndarray, smooth: np.ndarray, analysis: Analysis, box: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """`NUM_KEPT` of `NUM_TRIED` drawn lesions, those that look most like the one in the box, as `Patches.drawn`.

    Args:
        photo: uint8 [H, W, 3] with the lesion.
        smooth: the same without it.
        analysis: of the photograph.
        box: x0 y0 x1 y1 px.
    """
    centre, diameter = (box[None, :2] + box[None, 2:]) / 2, diameters(box[None])
    first = np.maximum(np.floor(centre[0] - 1.5 * diameter[0]), 0).astype(int)
    last = np.ceil(centre[0] + 1.5 * diameter[0]).astype(int)
    window = (slice(first[1], last[1]), slice(first[0], last[0]))
    part, target, skin = cropped(analysis, window), photo[window].astype(np.float32), smooth[window]
    shape = ellipses(box[None] - np.tile(first, 2), skin.shape[:2], reach=REACH)
    tried = ProceduralLesions().draw(rng, NUM_TRIED, darkness=analysis.tone.darkness)
    errors = []
    for lesion in tried:
        image = Overlay(least_change=0)(skin, part, [lesion], centre - first, diameter, intensity=1.0).image
        errors.append(np.abs(image[shape] - target[shape]).mean())
    return [json.dumps(asdict(tried[k])) for k in np.argsort(errors, kind="stable")[:NUM_KEPT]]


def drawn_lesion(text: str) -> ProceduralLesion:
    """A lesion of `Patches.drawn`."""
    return ProceduralLesion(**json.loads(text))


def cropped(analysis: Analysis, window: tuple[slice, slice]) -> Analysis:
    """What is known of rows and columns of a photograph, in their own pixels."""
    y, x = (part.start for part in window)
    face = analysis.face
    return replace(
        analysis,
        skin=analysis.skin[window],
        illumination=analysis.illumination[window],
        face=None if face is None else replace(face, landmarks=face.landmarks - np.array([x, y], np.float32)),
        lesions=analysis.lesions - np.array([x, y, x, y], np.float32),
        blurs=analysis.blurs - np.array([x, y, 0], np.float32),
    )


def corners(
    rng: np.random.Generator, size: tuple[int, int], lesions: np.ndarray, *, side: int, num: int
) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of `num` patches in a photograph of (height, width): most of them around a lesion."""
    room = np.array([size[1] - side, size[0] - side])
    num_near = round(NEAR_A_LESION * num) if len(lesions) else 0
    chosen = np.resize(rng.permutation(len(lesions)), num_near)  # every lesion once before one comes twice
    centres = (lesions[chosen, :2] + lesions[chosen, 2:]) / 2
    near = centres - side / 2 + rng.uniform(-side / 6, side / 6, (num_near, 2))
    anywhere = rng.uniform(0, 1, (num - num_near, 2)) * room
    return [(int(x), int(y)) for x, y in np.clip(np.concatenate([near, anywhere]), 0, room).round()]


def diameters(boxes: np.ndarray) -> np.ndarray:
    """Geometric mean of width and height: [N, 4] -> [N] px."""
    return np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1), axis=1))


def within(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which lesions lie in a piece of (height, width) with all that is healed of them: [N, 4] -> bool [N]."""
    centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * REACH
    return ((centre - radius >= 2) & (centre + radius <= np.array(size[::-1]) - 2)).all(axis=1)
