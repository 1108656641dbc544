"""Exported graders answer as the network does, whatever the head, for any number of photographs."""

import functools
import json

import numpy as np
import pytest
import torch

from acne_lab.grade import heads
from acne_lab.grade.export import ExportedGrader, to_onnx
from acne_lab.grade.module import Grader
from acne_lab.metrics.calibration import Decision

CLASSES = ("mild", "moderate", "severe", "very_severe")
DECISION = Decision(temperature=1.7, weights=(1.0, 0.5, 2.0, 1.5))


def grader(head=heads.SoftmaxHead):
    torch.manual_seed(0)
    return Grader(backbone="test_resnet", head=functools.partial(head), classes=CLASSES, input_size=32).eval()


def photographs(num, side):
    return torch.from_numpy(np.random.default_rng(num).integers(0, 256, (num, side, side, 3), dtype=np.uint8))


@torch.no_grad()
def test_what_is_exported_is_what_the_run_would_say():
    model, given = grader(), photographs(5, 48)
    own = model.data_config
    mean, std = (torch.tensor(own[name]).view(3, 1, 1) for name in ("mean", "std"))
    probabilities, _ = model.predict_step(((given.permute(0, 3, 1, 2) / 255 - mean) / std,), 0)
    calibrated, grade = ExportedGrader(model, DECISION)(given)
    np.testing.assert_allclose(calibrated.numpy(), DECISION.calibrated(probabilities.numpy()), atol=1e-6)
    assert grade.tolist() == DECISION.predicted(probabilities.numpy()).tolist()


SLOW = (heads.SoftmaxHead, heads.CoralHead, heads.LdlHead, heads.CountHead)  # seconds each
KINDS = (heads.CornHead, *(pytest.param(head, marks=pytest.mark.slow) for head in SLOW))


@pytest.mark.parametrize("head", KINDS, ids=lambda head: head.__name__)
def test_onnx_is_close(tmp_path, head):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    model, path = grader(head), tmp_path / "x.onnx"
    assert to_onnx(model, path, resolution=48, decision=DECISION, about={"lineage": "nobody"}) < 1e-4
    assert [found.name for found in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("photographs", "tensor(uint8)", [48, 48, 3])
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "grade", "count"][: 3 if head.uses_counts else 2]
    for num in (1, 7):
        given = photographs(num, 48)
        with torch.no_grad():
            expected = ExportedGrader(model, DECISION)(given)
        for found, answer in zip(session.run(names, {"photographs": given.numpy()}), expected, strict=True):
            np.testing.assert_allclose(found, answer.numpy(), atol=1e-4)
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert Decision(**json.loads(facts["decision"])) == DECISION
    assert facts["lineage"] == "nobody"


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_an_error(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")

    class Drifting(onnxruntime.InferenceSession):
        def run(self, *given):
            return [answer + np.float32(0.01) for answer in super().run(*given)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Drifting)
    with pytest.raises(RuntimeError, match="computes something else"):
        to_onnx(grader(), tmp_path / "x.onnx", resolution=32, decision=Decision(), about={})
