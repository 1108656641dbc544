"""Draws one portrait with acne: signed-distance shapes, a relief lit by one soft light, and a simple camera.

Everything is a pure function of (Subject, Photo, resolution). Three frames of reference:

* *frame*: x right, y down, both in [-1, 1] over the square photograph, so one short side is 2 units.
* *head*: the frame moved, turned and scaled by the photo's pose. Outlines of head, hair and ears live here.
* *face*: head coordinates (u, v) with u slid sideways by the yaw, as a turned head slides its features but
  keeps its outline. Eyes, lips, hairline and lesions live here, so a lesion stays on its place of the skin
  from one photograph to the next.

Skin is pigment and relief, not paint: lesions add haemoglobin, melanin, pus and height, and are then lit like
the rest of the face. Colours are linear light until the camera. What it does not know: real anatomy, scars,
beards, glasses, cast shadows.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SUPERSAMPLING = {64: 2}  # samples per pixel and axis; larger photographs are drawn at their own size
EYE_V, BROW_V, NOSE_V, MOUTH_V = -0.06, -0.20, 0.20, 0.40  # rows of the canonical face
CROWN = 0.80  # height of the skull above the face's origin
SKULL = 2.25  # exponent of the skull's outline: a little squarer than an ellipse
LONG = ("long", "curly")  # hair styles that fall past the ears
# Typical sRGB colours of Fitzpatrick types I-VI in daylight; between types the absorbance is interpolated.
FITZPATRICK = np.array(
    [(243, 211, 193), (231, 189, 162), (214, 167, 134), (180, 129, 96), (134, 90, 65), (92, 62, 48)],
    np.float32,
)
HAEMOGLOBIN = np.array((0.20, 1.00, 0.78), np.float32)  # absorbance of blood per linear R, G, B: takes green and blue
MELANIN = np.array((0.50, 0.85, 1.00), np.float32)  # absorbance of melanin: takes blue most
SHADOW_TINT = np.array((0.10, -0.12, -0.20), np.float32)[
    :, None, None
]  # light that travels under the skin reddens its shadows
PUS = np.array((0.80, 0.66, 0.36), np.float32)

LESION_KINDS = ("papule", "pustule", "comedone", "mark")
LESION_DTYPE = np.dtype(
    [
        ("u", "f4"),
        ("v", "f4"),
        ("radius", "f4"),
        ("kind", "i1"),
        ("strength", "f4"),
        ("aspect", "f4"),
        ("turn", "f4"),
    ]
)


@dataclass(frozen=True)
class Hair:
    """Head hair: `style` is one of short, fringe, parted, long, curly, bald; lengths are in head units."""

    style: str
    colour: tuple[float, float, float]  # linear RGB
    hairline: float  # v of the hairline over the nose
    part: float  # u of the parting
    swoop: float  # how fast the hairline falls away from the parting
    temple: float  # exponent of the hairline's fall at the temples
    volume: float  # how far the hair stands off the skull
    length: float  # y where the hair ends
    curl: float  # roughness of the outline


@dataclass(frozen=True)
class Subject:
    """A person: what stays the same from photograph to photograph."""

    tone: float  # Fitzpatrick type as a continuous number, 0.6 to 6.4
    redness: float
    oiliness: float
    width: float  # half width of the face
    chin: float  # v of the chin
    jaw: float  # exponent of the lower outline: 2 is round, 3 is square
    taper: float  # how much the jaw narrows
    eye_spacing: float
    eye_size: float
    eye_tilt: float
    iris: tuple[float, float, float]
    brow_thickness: float
    brow_arch: float
    nose_width: float
    nose_relief: float
    lip_width: float
    lip_fullness: float
    lip_redness: float
    neck: float
    clothes: tuple[float, float, float]
    neckline: float
    hair: Hair
    noise_seed: int


@dataclass(frozen=True)
class Photo:
    """One photograph of a subject: pose, expression, light, camera and the lesions of that day."""

    yaw: float  # how far the middle of the face slides, in head units
    roll: float  # radians
    scale: float
    shift: tuple[float, float]
    smile: float
    mouth_open: float
    eye_open: float
    light: tuple[float, float, float]  # towards the light: x right, y down, z to the camera; unit length
    ambient: float
    warmth: float  # log ratio of red to blue of the light
    background: tuple[tuple[float, float, float], tuple[float, float, float]]  # linear colours of its two ends
    background_angle: float
    exposure: float
    vignette: float
    blur: float  # standard deviation in short sides
    noise: float
    noise_seed: int
    lesions: np.ndarray  # LESION_DTYPE


def render_photo(subject: Subject, photo: Photo, resolution: int) -> np.ndarray:
    """The photograph as uint8 [resolution, resolution, 3] sRGB; the same scene at every resolution."""
    samples = SUPERSAMPLING.get(resolution, 1)
    scene = Scene(subject, photo, resolution * samples)
    draw_background(scene)
    draw_hair_behind(scene)
    draw_neck_and_shoulders(scene)
    draw_ears(scene)
    draw_skin(scene)
    draw_mouth(scene)
    draw_nostrils(scene)
    draw_eyes(scene)
    draw_brows(scene)
    draw_hair_in_front(scene)
    linear = scene.image.reshape(3, resolution, samples, resolution, samples).mean((2, 4))
    return expose(linear, photo)


class Scene:
    """The linear image [3, S, S] being painted and the coordinates of its pixels."""

    def __init__(self, subject: Subject, photo: Photo, size: int) -> None:
        self.subject, self.photo, self.size = subject, photo, size
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        self.frame_x, self.frame_y = axis[None, :], axis[:, None]
        c, s = np.cos(photo.roll) / photo.scale, np.sin(photo.roll) / photo.scale
        dx, dy = self.frame_x - photo.shift[0], self.frame_y - photo.shift[1]
        self.x, self.y = np.float32(c) * dx + np.float32(s) * dy, np.float32(c) * dy - np.float32(s) * dx
        self.u, self.v = unyaw(self.x, subject, photo), self.y
        self.face = face_distance(self.x, self.y, subject)
        self.edge = 2 / size / photo.scale
        self.image = np.empty((3, size, size), np.float32)

    @cached_property
    def hair_outline(self) -> np.ndarray:
        return hair_distance(self)

    @cached_property
    def hair_colour(self) -> np.ndarray:
        return hair_colour(self)

    def window(self, u: float, v: float, radius: float) -> tuple[slice, slice]:
        """The rows and columns that hold a disc around face point (u, v)."""
        column, row = ((face_to_frame(u, v, self.subject, self.photo) + 1) * (self.size / 2)).astype(int).tolist()
        reach = int(radius * 1.15 * self.photo.scale * self.size / 2) + 2
        return slice(max(row - reach, 0), max(row + reach + 1, 0)), slice(
            max(column - reach, 0), max(column + reach + 1, 0)
        )

    def paint(self, colour: np.ndarray | tuple, alpha: np.ndarray, window: tuple = (slice(None), slice(None))) -> None:
        """Blends a colour, (3,) or [3, h, w], over the image where alpha [h, w] says so."""
        colour = np.asarray(colour, np.float32)
        target = self.image[:, *window]
        target += alpha * ((colour if colour.ndim == 3 else colour[:, None, None]) - target)


# ---- coordinates and small tools ---------------------------------------------------------------------------


def unyaw(x: np.ndarray, subject: Subject, photo: Photo) -> np.ndarray:
    """Face column u of a head column x."""
    return x - np.float32(photo.yaw) * np.maximum(1 - (x / np.float32(subject.width)) ** 2, 0)


def face_to_frame(u: np.ndarray, v: np.ndarray, subject: Subject, photo: Photo) -> np.ndarray:
    """Frame coordinates [2, ...] of face points: the inverse of `unyaw` (a quadratic), then the pose."""
    yaw, width = photo.yaw, subject.width
    inside = np.minimum(np.maximum(u, -width), width)
    x = u - inside + 2 * (inside + yaw) / (1 + np.sqrt(1 + 4 * yaw * (inside + yaw) / width**2))
    c, s = math.cos(photo.roll) * photo.scale, math.sin(photo.roll) * photo.scale
    return np.array([c * x - s * v + photo.shift[0], s * x + c * v + photo.shift[1]])


def to_linear(srgb: np.ndarray) -> np.ndarray:
    return (np.asarray(srgb, np.float32) / 255) ** 2.2


def cover(distance: np.ndarray, edge: float) -> np.ndarray:
    """Antialiased coverage in [0, 1] of a shape with this signed distance (negative inside)."""
    return np.minimum(np.maximum(0.5 - distance / edge, 0), 1)  # np.clip costs more than a small window's painting


def bump(u: np.ndarray, v: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    return np.exp(-(((u - at[0]) / size[0]) ** 2) - ((v - at[1]) / size[1]) ** 2)


def ramp(t: np.ndarray) -> np.ndarray:
    """Smoothstep from 0 at t = 0 to 1 at t = 1."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=16)  # most is the subject's: the same in all their photographs, which are drawn one after the other
def soft_noise(seed: int, cells: int, size: int) -> np.ndarray:
    """Smooth noise [size, size], read-only, with unit variance at its cells x cells nodes; the same at every size."""
    nodes = np.random.default_rng(seed).standard_normal((cells, cells), np.float32)
    return np.asarray(Image.fromarray(nodes).resize((size, size), Image.Resampling.BICUBIC))


# ---- geometry ----------------------------------------------------------------------------------------------


def face_distance(x: np.ndarray, y: np.ndarray, subject: Subject) -> np.ndarray:
    """About the signed distance to the outline of the face: the skull above, a tapered jaw below."""
    down = np.clip(y / subject.chin, 0, None)
    a = np.abs(x) / (subject.width * (1 - subject.taper * np.minimum(down, 1) ** 1.5))
    above = (a**SKULL + np.abs(y / CROWN) ** SKULL) ** (1 / SKULL)
    below = (a**subject.jaw + down**subject.jaw) ** (1 / subject.jaw)
    return (np.where(y < 0, above, below) - 1) * 0.55


def hairline_distance(u: np.ndarray, v: np.ndarray, subject: Subject) -> np.ndarray:
    """Distance below the hairline and inside the side locks: negative where hair covers the face."""
    hair, side = subject.hair, np.abs(u) / subject.width
    line = hair.hairline + hair.swoop * np.abs(u - hair.part) + (0.08 - hair.hairline) * side**hair.temple
    below = v - line
    if hair.style in LONG:
        return np.minimum(below, 0.97 * subject.width - np.abs(u))
    return below


def mouth_shape(u: np.ndarray, subject: Subject, smile: float, mouth_open: float) -> tuple[np.ndarray, ...]:
    """Rows of (upper edge, upper lip's lower edge, lower lip's upper edge, lower edge) for each u."""
    t = np.clip(u / (subject.lip_width * (1 + 0.25 * smile)), -1, 1)
    arc = 1 - t * t
    middle = MOUTH_V - 0.05 * smile * t * t + 0.008 * np.exp(-((t / 0.25) ** 2))
    gap = 0.5 * mouth_open * arc
    bow = 1 + 0.25 * np.exp(-(((np.abs(t) - 0.25) / 0.2) ** 2)) - 0.2 * np.exp(-((t / 0.12) ** 2))
    return (
        middle - gap - 0.62 * subject.lip_fullness * arc * bow,
        middle - gap,
        middle + gap,
        middle + gap + subject.lip_fullness * arc**0.8,
    )


def skin_clearance(u: np.ndarray, v: np.ndarray, subject: Subject) -> np.ndarray:
    """How far face points are inside bare skin: off outline, hair, brows, eyes, nostrils and lips."""
    side = np.abs(u)
    eye = np.hypot((side - subject.eye_spacing) / 1.9, v - EYE_V + 0.01) - 0.075
    brow = np.maximum(np.abs(v - BROW_V) - 0.045 - subject.brow_thickness, np.abs(side - 0.21) - 0.15)
    nostril = np.hypot(side - 0.055, v - NOSE_V - 0.03) - 0.04
    mouth = np.hypot(u / 2.4, v - MOUTH_V - 0.01) - 0.085
    outline = -face_distance(u, v, subject) - 0.03
    return np.minimum.reduce([eye, brow, nostril, mouth, outline, hairline_distance(u, v, subject)])


# ---- layers, back to front ---------------------------------------------------------------------------------


def draw_background(scene: Scene) -> None:
    photo = scene.photo
    t = np.cos(photo.background_angle) * scene.frame_x + np.sin(photo.background_angle) * scene.frame_y
    t = ramp(0.5 + 0.4 * t + 0.12 * soft_noise(photo.noise_seed, 4, scene.size))
    first, second = (np.asarray(c, np.float32)[:, None, None] for c in photo.background)
    scene.image[:] = first + t * (second - first)


def hair_distance(scene: Scene) -> np.ndarray:
    """About the signed distance to the outer outline of the hair, open below."""
    hair, subject = scene.subject.hair, scene.subject
    if hair.style in LONG:
        width = (subject.width + hair.volume) * (1 + 0.16 * np.clip(scene.y + 0.1, 0, 1))
    else:  # cut shorter and shorter towards the ears
        width = subject.width + 0.005 + hair.volume * ramp((0.12 - scene.y) / 0.55)
    up = np.minimum(scene.y, 0) / (CROWN + hair.volume * 0.9)
    distance = (((np.abs(scene.x) / width) ** SKULL + np.abs(up) ** SKULL) ** (1 / SKULL) - 1) * 0.6
    if hair.curl:
        distance = distance + hair.curl * soft_noise(subject.noise_seed + 1, 20, scene.size)
    return distance


def hair_colour(scene: Scene) -> np.ndarray:
    """Linear colours [3, S, S]: strands that fall from the parting, and a soft ring of gloss."""
    hair, size = scene.subject.hair, scene.size
    strand = (scene.x - hair.part) / (0.35 + np.clip(scene.y + 0.9, 0, 0.8))
    texture = strand_tones(scene.subject.noise_seed + 2)[(strand * 230).astype(np.int32) & 1023]
    if hair.curl:
        texture = 0.3 * texture + 0.8 * soft_noise(scene.subject.noise_seed + 3, 34, size)
    lx, ly, _ = scene.photo.light
    light = np.clip(0.55 + 0.45 * (lx * scene.x / 0.6 + ly * scene.y / 0.9), 0.1, 1.1)
    gloss = (
        np.exp(-(((np.hypot(scene.x - 0.15 * lx, scene.y + 0.1) - 0.62) / 0.09) ** 2)) * (0.10 + 0.10 * texture) * light
    )
    shade = (0.45 + 0.75 * light) * (1 + 0.22 * texture)
    colour = np.asarray(hair.colour, np.float32)[:, None, None]
    return np.maximum(colour * shade + np.maximum(gloss, 0) * (0.25 + colour), 0.003)


@lru_cache(maxsize=1)
def strand_tones(seed: int) -> np.ndarray:
    """Brightness of hair around the head [1024]: fine strands on broad locks."""
    tones = np.random.default_rng(seed).standard_normal(1024).astype(np.float32)
    return gaussian_filter(tones, 2.0, mode="wrap") * 2.2 + gaussian_filter(tones[::-1], 12, mode="wrap") * 4


def draw_hair_behind(scene: Scene) -> None:
    hair = scene.subject.hair
    if hair.style not in LONG:
        return
    ends = scene.y - hair.length - 0.05 * np.cos(scene.x * 7 + hair.part * 9)
    alpha = cover(np.maximum(scene.hair_outline, ends), scene.edge * 2)
    scene.paint(scene.hair_colour * np.float32(0.62), alpha)


def draw_neck_and_shoulders(scene: Scene) -> None:
    subject, photo = scene.subject, scene.photo
    below = (slice(scene.size // 2, None), slice(None))
    x, y = scene.x[below], scene.y[below]
    slope = np.abs(x) - subject.neck
    skin = skin_albedo(subject.tone, np.float32(subject.redness))[:, None, None]
    under_jaw = 0.42 + 0.58 * ramp((scene.face[below] - 0.01) / 0.20)
    light = 0.78 + 0.35 * photo.light[0] * x / subject.neck
    light = light * (1 - 0.40 * np.clip(np.abs(x) / (subject.neck + 0.03), 0, 1) ** 2.5) * under_jaw
    neck = slope - 0.30 * np.maximum(y - 0.72, 0) ** 1.5
    shoulder = 0.82 + 0.22 * np.clip(slope, 0, None) ** 1.1 - y
    skin = skin * (0.95 * light * (1 + (1 - under_jaw) * SHADOW_TINT))
    scene.paint(skin, cover(np.minimum(np.maximum(neck, 0.2 - y), shoulder + 0.02), scene.edge), below)
    collar = subject.neckline - 0.19 * (x / subject.neck) ** 2 - y
    folds = 1 + 0.06 * soft_noise(subject.noise_seed + 4, 7, scene.size)[below]
    cloth = np.asarray(subject.clothes, np.float32)[:, None, None] * ((0.75 + 0.3 * photo.light[0] * x) * folds)
    scene.paint(cloth, cover(np.maximum(shoulder, collar), scene.edge * 1.5), below)


def draw_ears(scene: Scene) -> None:
    subject, photo = scene.subject, scene.photo
    if subject.hair.style in LONG:
        return
    for side in (-1, 1):
        centre = side * (subject.width + 0.012 - side * 0.25 * photo.yaw)
        box = scene.window(centre, 0.02, 0.2)
        x, y = scene.x[box] - centre, scene.y[box] - 0.02
        outer = np.hypot((x - side * 0.10 * -y) / 0.055, y / 0.135)
        light = 0.72 + 0.30 * photo.light[0] * side
        skin = skin_albedo(subject.tone, np.float32(subject.redness + 0.35)) * light
        scene.paint(skin, cover((outer - 1) * 0.055, scene.edge), box)
        scene.paint(skin * 0.6, 0.7 * cover((np.hypot(x / 0.028, (y + 0.01) / 0.085) - 1) * 0.03, scene.edge * 2), box)


def skin_albedo(tone: float, haemoglobin: np.ndarray, melanin: np.ndarray | float = 0.0) -> np.ndarray:
    """Linear colour [3, ...] of skin of a Fitzpatrick tone with extra blood and melanin (Beer-Lambert)."""
    absorbance = -np.log(to_linear(FITZPATRICK))
    base = np.array([np.interp(tone, np.arange(1, 7), channel) for channel in absorbance.T], np.float32)
    column = (3,) + (1,) * np.ndim(haemoglobin)
    # on dark skin blood shows less as red and more as a darker, violet brown
    blood = HAEMOGLOBIN + np.float32(0.10 * max(tone - 2.5, 0)) * np.array((1.0, 0.4, 0.0), np.float32)
    return np.exp(-(base.reshape(column) + blood.reshape(column) * haemoglobin + MELANIN.reshape(column) * melanin))


def face_height(u: np.ndarray, v: np.ndarray, x: np.ndarray, subject: Subject) -> np.ndarray:
    """Relief of the face: an ellipsoid with brow ridge, sockets, cheekbones, nose, lips and chin."""
    up, down = np.minimum(v - 0.02, 0) / (CROWN * 1.05), np.maximum(v - 0.02, 0) / (subject.chin * 1.12)
    squared = (x / (subject.width * 1.06)) ** 2 + up**2 + down**2
    side = np.abs(u)
    nose, width = subject.nose_relief, subject.nose_width
    height = 0.60 * np.sqrt(np.maximum(1 - squared, 0.02))
    height += 0.030 * bump(side, v, (0.17, BROW_V + 0.02), (0.17, 0.06))
    height -= 0.055 * bump(side, v, (subject.eye_spacing - 0.02, EYE_V), (0.12, 0.075))
    height += 0.035 * bump(side, v, (0.30, 0.13), (0.14, 0.12))
    ridge = ramp((v + 0.24) / 0.42) * ramp((NOSE_V + 0.075 - v) / 0.07)
    height += nose * ridge * np.exp(-((u / (0.50 * width + 0.30 * width * np.maximum(v, 0) / NOSE_V)) ** 2))
    height += 0.45 * nose * bump(side, v, (0.72 * width, NOSE_V + 0.01), (0.36 * width, 0.045))
    height += 0.030 * bump(u, v, (0, MOUTH_V), (0.17, 0.09))
    height += 0.035 * bump(u, v, (0, subject.chin - 0.09), (0.13, 0.07))
    height -= 0.012 * bump(u, v, (0, MOUTH_V + 0.11), (0.12, 0.03))
    return height


def draw_skin(scene: Scene) -> None:
    """The face: pigment fields and relief with the lesions in them, then light."""
    subject, photo, u, v = scene.subject, scene.photo, scene.u, scene.v
    side = np.abs(u)
    height = face_height(u, v, scene.x, subject)
    blood = 0.10 * soft_noise(subject.noise_seed + 5, 9, scene.size) + 0.05 * soft_noise(
        subject.noise_seed + 6, 48, scene.size
    )
    blood += subject.redness * (
        1 + bump(side, v, (0.30, 0.16), (0.15, 0.12)) + 0.9 * bump(u, v, (0, NOSE_V - 0.02), (0.09, 0.07))
    )
    blood += inflammation(scene)
    melanin, pus = np.zeros_like(u), np.zeros_like(u)
    draw_lesions(scene, blood, melanin, pus, height)

    albedo = skin_albedo(subject.tone, blood, melanin)
    albedo += pus * (PUS[:, None, None] * (0.25 + 0.75 * albedo[:1]) / 0.8 - albedo)
    slope_y, slope_x = np.gradient(height, 2 / scene.size / photo.scale)
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lx, ly, lz = (np.float32(k) for k in photo.light)
    facing = (lz - lx * slope_x - ly * slope_y) * norm
    diffuse = np.clip((facing + 0.25) / 1.25, 0, 1)
    half = np.array((lx, ly, lz + 1), np.float32) / np.float32(np.sqrt(2 + 2 * lz))
    gloss = np.clip((half[2] - half[0] * slope_x - half[1] * slope_y) * norm, 0, 1) ** 16 * np.float32(subject.oiliness)

    occlusion = 1 - 0.28 * bump(side, v, (subject.eye_spacing - 0.03, EYE_V - 0.03), (0.13, 0.07))
    occlusion *= 1 - 0.30 * np.exp(-np.maximum(hairline_distance(u, v, subject), 0) / 0.05) * (
        subject.hair.style != "bald"
    )
    occlusion *= 1 - 0.25 * bump(u, v, (0, NOSE_V + 0.085), (0.11, 0.030))
    light = (photo.ambient + (1.15 - photo.ambient) * diffuse) * occlusion
    colour = albedo * light
    colour *= 1 + (1 - np.minimum(light, 1)) * (0.6 * SHADOW_TINT)
    colour += gloss * light
    scene.paint(colour, cover(scene.face, scene.edge))


def inflammation(scene: Scene) -> np.ndarray | float:
    """Diffuse redness [S, S] around crowded lesions."""
    lesions = scene.photo.lesions
    if not len(lesions):
        return 0.0
    points = face_to_frame(lesions["u"], lesions["v"], scene.subject, scene.photo)
    column, row = np.clip((points + 1) * 8, 0, 15).astype(int)
    crowd = np.bincount(16 * row + column, minlength=256).reshape(16, 16).astype(np.float32)
    crowd = np.tanh(gaussian_filter(crowd, 1.0)) * 0.30
    return np.asarray(Image.fromarray(crowd).resize((scene.size, scene.size), Image.Resampling.BICUBIC))


def draw_lesions(scene: Scene, blood: np.ndarray, melanin: np.ndarray, pus: np.ndarray, height: np.ndarray) -> None:
    """Adds every lesion to the pigment and height fields, each in its own window."""
    darkness = np.clip((scene.subject.tone - 2.5) / 3.5, 0, 1)
    for u, v, radius, kind, strength, aspect, turn in scene.photo.lesions.tolist():
        kind = LESION_KINDS[kind]
        box = scene.window(u, v, radius * 1.6)
        du, dv = scene.u[box] - u, scene.v[box] - v
        c, s = math.cos(turn) / radius, math.sin(turn) / radius
        r2 = ((c * du + s * dv) * aspect) ** 2 + ((c * dv - s * du) / aspect) ** 2
        core = np.exp(-(r2**2))  # flat top, soft rim
        if kind == "mark":
            blood[box] += (0.38 - 0.15 * darkness) * strength * core
            melanin[box] += (0.30 + 0.75 * darkness) * strength * core
        elif kind == "comedone":
            melanin[box] += 1.5 * strength * core
        else:
            blood[box] += strength * ((0.62 + 0.45 * darkness) * core + 0.14 * np.exp(-r2 / 1.8))
            melanin[box] += 0.12 * strength * core
            dome = 0.42 * radius * np.exp(-1.5 * r2)
            height[box] += dome
            if kind == "pustule":
                pus[box] = np.maximum(pus[box], 0.8 * np.exp(-((r2 / 0.26) ** 2)))


def draw_mouth(scene: Scene) -> None:
    subject, photo = scene.subject, scene.photo
    box = scene.window(0, MOUTH_V, subject.lip_width * 1.35)
    u, v = scene.u[box], scene.v[box]
    top, upper, lower, bottom = mouth_shape(u, subject, photo.smile, photo.mouth_open)
    inside = np.abs(u) - subject.lip_width * (1 + 0.25 * photo.smile)
    skin = skin_albedo(min(subject.tone, 5.0) * 0.85 + 0.6, np.float32(0.55 + subject.lip_redness))
    light = 0.78 + 0.22 * photo.light[0] * np.clip(u / 0.3, -1, 1)
    soft = scene.edge * 1.5
    scene.paint(
        skin[:, None, None] * (0.66 * light),
        0.9 * cover(np.maximum.reduce([top - v, v - upper, inside]), soft),
        box,
    )
    gloss = 0.10 * bump(u, v, (0.2 * photo.light[0] * 0.3, float(MOUTH_V + 0.45 * subject.lip_fullness)), (0.07, 0.012))
    scene.paint(
        skin[:, None, None] * light + gloss,
        0.9 * cover(np.maximum.reduce([lower - v, v - bottom, inside]), soft),
        box,
    )
    line = 0.008
    scene.paint(
        (0.035, 0.012, 0.012),
        0.85 * cover(np.maximum.reduce([upper - line - v, v - lower - line, inside]), soft),
        box,
    )
    if photo.mouth_open > 0.03:
        teeth = np.maximum.reduce([upper + 0.004 - v, v - lower + 0.3 * photo.mouth_open, inside + 0.06])
        scene.paint((0.62, 0.58, 0.50), 0.9 * cover(teeth, soft), box)


def draw_nostrils(scene: Scene) -> None:
    subject = scene.subject
    skin = skin_albedo(subject.tone, np.float32(0.9)) * 0.22
    for side in (-1, 1):
        at = side * 0.62 * subject.nose_width + 0.15 * scene.photo.yaw
        box = scene.window(at, NOSE_V + 0.045, 0.06)
        du, dv = scene.u[box] - at, scene.v[box] - NOSE_V - 0.045
        scene.paint(
            skin,
            0.8 * cover((np.hypot(du / 0.030, (dv + 0.25 * side * du) / 0.013) - 1) * 0.014, scene.edge * 2),
            box,
        )


def draw_eyes(scene: Scene) -> None:
    subject, photo = scene.subject, scene.photo
    width = subject.eye_size
    tall = 0.44 * width * photo.eye_open
    skin = skin_albedo(subject.tone, np.float32(subject.redness + 0.3))
    for side in (-1, 1):
        at = side * subject.eye_spacing
        box = scene.window(at, EYE_V, width * 1.5)
        u, v = (scene.u[box] - at) * side, scene.v[box] - EYE_V
        v = v + subject.eye_tilt * u
        arc = np.maximum(1 - (u / width) ** 2, 0)
        upper, lower = -tall * 1.15 * arc**0.8, tall * 0.75 * arc
        ends = np.abs(u) - width
        almond = np.maximum.reduce([upper - v, v - lower, ends])
        opening = cover(almond, scene.edge)
        crease = np.abs(v - upper * 1.25 + 0.022) - 0.004
        scene.paint(skin * 0.42, 0.55 * cover(np.maximum(crease, ends + 0.01), scene.edge * 2), box)
        shade = np.clip(0.50 + 7 * (v - upper), 0.45, 0.95) * (0.9 + 0.1 * photo.light[0] * side)
        scene.paint(np.array((0.66, 0.62, 0.59), np.float32)[:, None, None] * shade, opening, box)
        gaze = np.hypot(u, v + 0.004)
        iris = 0.49 * width
        ring = np.asarray(subject.iris, np.float32)[:, None, None] * (1.25 - 0.85 * np.clip(gaze / iris, 0, 1) ** 4)
        scene.paint(ring, opening * cover(gaze - iris, scene.edge), box)
        scene.paint((0.006, 0.006, 0.006), opening * cover(gaze - 0.45 * iris, scene.edge), box)
        spark = np.hypot(u - side * 0.4 * iris * np.sign(photo.light[0]), v + 0.35 * iris + 0.004) - 0.26 * iris
        scene.paint((0.95, 0.95, 0.95), 0.9 * opening * cover(spark, scene.edge * 1.5), box)
        lash = np.maximum(np.abs(v - upper + 0.004) - 0.009, ends - 0.008)
        scene.paint((0.012, 0.009, 0.008), 0.9 * cover(lash, scene.edge * 1.5), box)
        scene.paint(skin * 0.35, 0.45 * cover(np.maximum(np.abs(v - lower) - 0.004, ends), scene.edge * 1.5), box)


def draw_brows(scene: Scene) -> None:
    subject = scene.subject
    colour = np.asarray(subject.hair.colour, np.float32) * 0.55 + np.float32(0.006)
    for side in (-1, 1):
        box = scene.window(side * 0.21, BROW_V, 0.22)
        t = (scene.u[box] * side - 0.075) / 0.26  # 0 at the nose, 1 at the temple
        arch = BROW_V + 0.02 - subject.brow_arch * np.sin(np.clip(t, 0, 1) * 2.2) + 0.012 * t * t
        thick = subject.brow_thickness * np.clip(1.15 - 0.85 * np.clip(t, 0, 1) ** 2, 0.05, 1)
        distance = np.maximum(np.abs(scene.v[box] - arch) - thick, (np.abs(t - 0.5) - 0.5) * 0.26)
        scene.paint(colour, 0.82 * cover(distance, scene.edge * 2 + 0.012), box)


def draw_hair_in_front(scene: Scene) -> None:
    subject, hair = scene.subject, scene.subject.hair
    if hair.style == "bald":
        return
    fray = 0.012 * soft_noise(subject.noise_seed + 7, 40, scene.size)
    covered = hairline_distance(scene.u, scene.v, subject) + fray
    end = hair.length - 0.05 * np.cos(scene.x * 9) if hair.style in LONG else 0.06
    distance = np.maximum.reduce([scene.hair_outline, covered, scene.y - end])
    scene.paint(scene.hair_colour, cover(distance, scene.edge * 1.5 + 0.015))


def expose(linear: np.ndarray, photo: Photo) -> np.ndarray:
    """Camera: vignette, white balance, exposure, lens blur, gamma, noise. [3, R, R] -> uint8 [R, R, 3]."""
    size = linear.shape[-1]
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1) ** 2
    falloff = 1 - np.float32(photo.vignette) * (axis[:, None] + axis[None, :]) / 2
    balance = np.exp(np.array((photo.warmth / 2, 0, -photo.warmth / 2), np.float32)) * np.float32(photo.exposure)
    image = linear * balance[:, None, None] * falloff
    image = gaussian_filter(image, (0, photo.blur * size, photo.blur * size), truncate=3)
    image = np.clip(image, 0, 1) ** np.float32(1 / 2.2)
    grain = np.random.default_rng(photo.noise_seed).standard_normal(image.shape, np.float32)
    image = image + np.float32(photo.noise) * grain
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
