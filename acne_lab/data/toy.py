"""A population of drawn faces with acne: a stand-in for ACNE04 that anybody may publish, of any size.

People are an endless stream: person k of a seed is always the same, and so are their photographs. A
set of N photographs is the beginning of that stream, cut so that the severities have exactly the wanted
counts; a larger set repeats the smaller one, but for the last few that filled its counts, and goes on.
Severity is the Hayashi band of the number of lesions drawn, all of them apart and on bare skin.
What it does not know: cameras that correlate with severity, mislabelled files, duplicates.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from acne_lab.data.collect import Collected
from acne_lab.data.portrait import (
    LESION_DTYPE,
    LESION_KINDS,
    MOUTH_V,
    Hair,
    Photo,
    Subject,
    face_to_frame,
    render_photo,
    skin_clearance,
    to_linear,
)
from acne_lab.data.workers import in_order

VERSION = 1  # raise it whenever a photograph changes
CLASSES = ("mild", "moderate", "severe", "very_severe")
BANDS = (
    (0, 5),
    (6, 20),
    (21, 50),
    (51, 65),
)  # lesions per severity (Hayashi et al. 2008, as ACNE04 applies it)
ACNE04_COUNTS = (513, 633, 182, 129)  # photographs per severity in ACNE04's folders
SIZE_MU, SIZE_SIGMA = -4.259, 0.516  # log-normal of lesion diameter / short side, from ACNE04-v2's circles
KIND_SHARES = (0.52, 0.20, 0.08, 0.20)  # of LESION_KINDS
KIND_SIZES = (1.08, 1.0, 0.6, 1.08)  # papules and marks are larger than comedones
POOL = 80  # places of a person's skin where lesions come and go: 65 lesions and some that are healed
OVERLAP = 0.8  # neighbours keep at least this share of their radii apart
KEEPS_SEVERITY = 0.85  # chance that a photograph shows its person's usual severity and not a neighbouring one
TONE_SHARES = (
    0.15,
    0.22,
    0.21,
    0.17,
    0.14,
    0.11,
)  # Fitzpatrick I-VI: wider than ACNE04's, so that a grader's fairness can be measured
HAIR_COLOURS = (
    (22, 18, 17),
    (38, 28, 24),
    (62, 42, 30),
    (96, 66, 44),
    (138, 100, 62),
    (184, 148, 98),
    (130, 62, 34),
    (150, 146, 142),
)
IRIS_COLOURS = ((58, 36, 22), (84, 54, 30), (112, 86, 46), (88, 108, 72), (84, 118, 150), (110, 128, 138))
BACKGROUNDS = (
    (196, 202, 208),
    (150, 162, 172),
    (206, 196, 180),
    (120, 132, 128),
    (92, 104, 122),
    (178, 160, 146),
    (222, 220, 216),
    (70, 76, 84),
)
CLOTHES = (
    (44, 52, 70),
    (210, 208, 204),
    (60, 60, 62),
    (122, 52, 52),
    (70, 96, 84),
    (110, 120, 150),
    (168, 140, 110),
    (30, 30, 34),
)


@dataclass(frozen=True)
class Shot:
    """One row of the set: which photograph of which person, and its severity."""

    subject: int
    photo: int
    severity: int


class ToyFaces:
    """Source of drawn faces.

    Args:
        num_images: photographs in all; shared among the severities as in ACNE04 (largest remainder).
        photos_per_subject: mean number of photographs of one person.
        resolution: side of the square photographs in pixels.
        lesion_scale: times the lesion diameters of ACNE04, whose median is 0.9 px at 64 px; 2.5 makes it 2.3.
        seed: chooses the population.
        class_counts: photographs per severity, in place of `num_images`.
    """

    classes = CLASSES
    images_root = None

    def __init__(
        self,
        *,
        num_images: int = 2914,
        photos_per_subject: int = 4,
        resolution: int = 64,
        lesion_scale: float = 2.5,
        seed: int = 0,
        class_counts: dict[str, int] | None = None,
    ) -> None:
        if class_counts is not None and (unknown := set(class_counts) - set(CLASSES)):
            raise ValueError(f"class_counts names {sorted(unknown)}; the severities are {list(CLASSES)}")
        if photos_per_subject < 1:
            raise ValueError("photos_per_subject must be at least 1")
        self.photos_per_subject, self.resolution = photos_per_subject, resolution
        self.lesion_scale, self.seed = lesion_scale, seed
        if class_counts is None:
            self.class_counts = proportional_counts(num_images, ACNE04_COUNTS)
        else:
            self.class_counts = tuple(class_counts.get(name, 0) for name in CLASSES)

    def fingerprint(self) -> str:
        """Hash of everything the photographs depend on."""
        return hashlib.sha256(json.dumps([VERSION, vars(self)], sort_keys=True).encode()).hexdigest()[:16]

    def shots(self) -> list[Shot]:
        """The photographs of the set, person by person: the stream's whose severity is not yet full."""
        left, taken = list(self.class_counts), []
        stream = stream_of_shots(self.seed, self.photos_per_subject, self.class_counts)
        while any(left):
            shot = next(stream)
            if left[shot.severity]:
                left[shot.severity] -= 1
                taken.append(shot)
        return taken

    def collect(self, scratch: Path, num_workers: int) -> Collected:
        """Draws the set into `scratch/<severity>/` with `num_workers` processes (0 or 1: in this one)."""
        for name in CLASSES:
            (scratch / name).mkdir(parents=True, exist_ok=True)
        shots = self.shots()
        people = [list(group) for _, group in groupby(shots, key=lambda shot: shot.subject)]
        jobs = [(self.seed, self.lesion_scale, self.resolution, scratch, group) for group in people]
        rows, boxes = [], []
        with tqdm(total=len(shots), desc="toy faces", unit="img") as progress:
            for new_rows, new_boxes in in_order(draw_person, jobs, num_workers):
                rows += new_rows
                boxes += new_boxes
                progress.update(len(new_rows))
        boxes = pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"])
        report = {"population": f"toy-{self.seed}"}  # a person is the same in every set of one seed
        return Collected(rows=pd.DataFrame(rows), images_root=scratch, boxes=boxes, problems=[], report=report)


def draw_person(job: tuple[int, float, int, Path, list[Shot]]) -> tuple[list[dict], list[tuple]]:
    """Draws and saves one person's photographs. Returns their rows and lesion boxes (pixels)."""
    seed, lesion_scale, resolution, scratch, shots = job
    subject, places = sample_person(seed, shots[0].subject, lesion_scale)
    rows, boxes = [], []
    for shot in shots:
        photo = sample_photo(seed, shot, subject, places)
        name = f"{CLASSES[shot.severity]}/s{shot.subject:05d}_{shot.photo}.png"
        Image.fromarray(render_photo(subject, photo, resolution)).save(scratch / name, compress_level=1)
        rows.append(
            {
                "file_name": name,
                "severity": CLASSES[shot.severity],
                "lesions": len(photo.lesions),
                "subject": f"s{shot.subject:05d}",
                "source": "toy",
                "skin_tone": int(np.clip(round(subject.tone), 1, 6)),
            }
        )
        boxes += [(name, *box) for box in lesion_boxes(subject, photo, resolution)]
    return rows, boxes


def lesion_boxes(subject: Subject, photo: Photo, resolution: int) -> list[tuple[float, ...]]:
    """x0, y0, x1, y1 of every lesion in pixels."""
    centre = face_to_frame(photo.lesions["u"], photo.lesions["v"], subject, photo)
    radius = photo.lesions["radius"] * photo.scale
    corners = np.concatenate([centre - radius, centre + radius]).T
    return [tuple(round(float(k), 2) for k in box) for box in np.clip((corners + 1) * (resolution / 2), 0, resolution)]


# ---- who is in the set -------------------------------------------------------------------------------------


def proportional_counts(total: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Integers that sum to `total`, proportional to `weights`, by largest remainder."""
    exact = np.array(weights) * total / sum(weights)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return tuple(int(n) for n in counts)


def stream_of_shots(seed: int, photos_per_subject: int, class_counts: tuple[int, ...]) -> Iterator[Shot]:
    """Endless photographs, person by person; usual severities are drawn in proportion to `class_counts`."""
    shares = np.array(class_counts) / sum(class_counts)
    for subject in count():
        rng = np.random.default_rng((seed, subject, 0))
        usual = int(rng.choice(len(CLASSES), p=shares))
        for photo in range(1 + rng.poisson(photos_per_subject - 1)):
            step = rng.choice((-1, 1)) if rng.random() > KEEPS_SEVERITY else 0
            yield Shot(subject, photo, int(np.clip(usual + step, 0, len(CLASSES) - 1)))


def sample_person(seed: int, index: int, lesion_scale: float) -> tuple[Subject, np.ndarray]:
    """Person `index` of the population and the places (LESION_DTYPE [POOL]) of their lesions."""
    rng = np.random.default_rng((seed, index, 1))
    tone = float(np.clip(1 + rng.choice(6, p=TONE_SHARES) + rng.uniform(-0.45, 0.45), 0.8, 6.3))
    subject = Subject(
        tone=tone,
        redness=float(rng.uniform(0.03, 0.16)),
        oiliness=float(rng.uniform(0.03, 0.10)),
        width=float(rng.uniform(0.50, 0.57)),
        chin=float(rng.uniform(0.66, 0.74)),
        jaw=float(rng.uniform(2.1, 2.7)),
        taper=float(rng.uniform(0.10, 0.24)),
        eye_spacing=float(rng.uniform(0.205, 0.235)),
        eye_size=float(rng.uniform(0.108, 0.128)),
        eye_tilt=float(rng.uniform(-0.06, 0.12)),
        iris=pick(rng, IRIS_COLOURS if tone < 3.5 else IRIS_COLOURS[:2]),
        brow_thickness=float(rng.uniform(0.012, 0.026)),
        brow_arch=float(rng.uniform(0.02, 0.055)),
        nose_width=float(rng.uniform(0.085, 0.105) + 0.006 * (tone - 3)),
        nose_relief=float(rng.uniform(0.085, 0.125)),
        lip_width=float(rng.uniform(0.155, 0.20)),
        lip_fullness=float(rng.uniform(0.048, 0.070) + 0.004 * (tone - 3)),
        lip_redness=float(rng.uniform(0.1, 0.6)),
        neck=float(rng.uniform(0.28, 0.36)),
        clothes=pick(rng, CLOTHES),
        neckline=float(rng.uniform(0.90, 1.05)),
        hair=sample_hair(rng, tone),
        noise_seed=int(rng.integers(2**31)),
    )
    return subject, sample_places(rng, subject, lesion_scale)


def sample_hair(rng: np.random.Generator, tone: float) -> Hair:
    style = str(
        rng.choice(("short", "fringe", "parted", "long", "curly", "bald"), p=(0.27, 0.13, 0.18, 0.24, 0.13, 0.05))
    )
    part = float(rng.uniform(-0.22, 0.22))
    colour = pick(rng, HAIR_COLOURS if tone < 3.2 else HAIR_COLOURS[:3] if tone < 4.5 else HAIR_COLOURS[:2])
    return Hair(
        style=style,
        colour=colour,
        hairline=float(rng.uniform(-0.34, -0.29) if style == "fringe" else rng.uniform(-0.58, -0.48)),
        part=part,
        swoop={"parted": 0.45, "long": 0.40}.get(style, 0.05) * float(rng.uniform(0.6, 1.2)),
        temple=float(rng.uniform(3.5, 7.0)),
        volume=float(rng.uniform(0.10, 0.18) if style in ("curly", "parted") else rng.uniform(0.04, 0.10)),
        length=float(rng.uniform(0.55, 1.3)),
        curl=float(rng.uniform(0.016, 0.028)) if style == "curly" else 0.0,
    )


def pick(rng: np.random.Generator, colours: tuple) -> tuple[float, float, float]:
    """One of the sRGB colours as linear light, a little varied."""
    colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.9, 1.1) * rng.uniform(0.96, 1.04, 3)
    return tuple(float(k) for k in to_linear(np.clip(colour, 4, 250)))


def sample_places(rng: np.random.Generator, subject: Subject, lesion_scale: float) -> np.ndarray:
    """POOL clustered lesions on bare skin, apart from each other; the first are the likeliest to show."""
    sizes = (
        np.exp(rng.normal(SIZE_MU, SIZE_SIGMA, POOL)) * lesion_scale
    )  # a diameter in short sides is a radius in frame units
    lesions = np.zeros(POOL, LESION_DTYPE)
    lesions["kind"] = rng.choice(len(LESION_KINDS), POOL, p=KIND_SHARES)
    sizes *= np.array(KIND_SIZES)[lesions["kind"]]
    lesions["radius"] = np.clip(sizes, 0.008 * lesion_scale, 0.026 * lesion_scale)
    lesions["strength"] = rng.uniform(0.8, 1.2, POOL)
    lesions["aspect"] = np.exp(rng.normal(0, 0.10, POOL))
    lesions["turn"] = rng.uniform(0, np.pi, POOL)

    u, v = candidates(rng, subject, 2000)
    room = skin_clearance(u, v, subject)  # largest radius that a lesion could have at each candidate
    for lesion in lesions:
        while not (room > OVERLAP * lesion["radius"]).any():  # crowded: smaller lesions find a gap
            lesion["radius"] *= 0.9
        k = np.argmax(room > OVERLAP * lesion["radius"])
        lesion["u"], lesion["v"] = u[k], v[k]
        room = np.minimum(room, np.hypot(u - u[k], v - v[k]) - lesion["radius"])
    return lesions


def candidates(rng: np.random.Generator, subject: Subject, num: int) -> np.ndarray:
    """Face points [2, num]: most around a few centres on cheeks, chin and forehead, the rest anywhere."""
    zones = np.array(
        [
            (-0.33, 0.18),
            (0.33, 0.18),
            (-0.26, 0.36),
            (0.26, 0.36),
            (0.0, MOUTH_V + 0.16),
            (0.0, -0.36),
            (-0.22, -0.36),
            (0.22, -0.36),
        ]
    )
    chosen = rng.choice(len(zones), 5, replace=False, p=(0.14, 0.14, 0.17, 0.17, 0.20, 0.08, 0.05, 0.05))
    centres = zones[chosen] + rng.normal(0, 0.04, (5, 2))
    clustered = centres[rng.integers(5, size=num)] + rng.normal(0, 0.07, (num, 2))
    anywhere = rng.uniform((-subject.width, -0.55), (subject.width, subject.chin), (num, 2))
    return np.where(rng.random((num, 1)) < 0.7, clustered, anywhere).T.astype(np.float32)


def sample_photo(seed: int, shot: Shot, subject: Subject, places: np.ndarray) -> Photo:
    """One photograph: lesions in the severity's band from the person's places, and all else of the day."""
    rng = np.random.default_rng((seed, shot.subject, 2, shot.photo))
    low, high = BANDS[shot.severity]
    num_lesions = int(rng.integers(low, high + 1))
    turn = np.argsort(np.arange(POOL) + rng.normal(0, 2 + 0.2 * num_lesions, POOL))  # some heal, some are new
    side = rng.choice((-1, 1))
    light = np.array((side * rng.uniform(0.2, 0.9), rng.uniform(-0.8, -0.25), 1.0))
    base = np.array(pick(rng, BACKGROUNDS))
    return Photo(
        yaw=float(np.clip(rng.normal(0, 0.04), -0.09, 0.09)),
        roll=float(np.clip(rng.normal(0, 0.035), -0.08, 0.08)),
        scale=float(rng.uniform(1.02, 1.12)),
        shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(0.0, 0.06))),
        smile=float(rng.uniform(0, 0.8)),
        mouth_open=float(max(rng.uniform(-0.12, 0.06), 0)),
        eye_open=float(rng.uniform(0.85, 1.1)),
        light=tuple(float(k) for k in light / np.linalg.norm(light)),
        ambient=float(rng.uniform(0.22, 0.48)),
        warmth=float(rng.normal(0.02, 0.06)),
        background=(
            tuple(base * rng.uniform(0.55, 0.9)),
            tuple(np.minimum(base * rng.uniform(0.95, 1.2), 1)),
        ),
        background_angle=float(rng.uniform(0, 2 * np.pi)),
        exposure=float(np.exp(rng.normal(0.0, 0.08)) * (1 + 0.05 * max(subject.tone - 3, 0))),
        vignette=float(rng.uniform(0.05, 0.3)),
        blur=float(rng.uniform(0.001, 0.006)),
        noise=float(rng.uniform(0.004, 0.012)),
        noise_seed=int(rng.integers(2**31)),
        lesions=places[np.sort(turn[:num_lesions])],
    )
