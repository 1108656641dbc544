"""A grader for other programs: one ONNX file, checked against the network it was made from.

Everything between a photograph's pixels and its grade is in the file: normalisation, resizing, the backbone, the head,
the temperature and the decision. What is not: how a photograph becomes a square of that many pixels.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from acne_lab.metrics.calibration import Decision

ONNX_TOLERANCE = 1e-3  # of a probability, and of a count


class ExportedGrader(nn.Module):
    """Photographs uint8 [N, R, R, 3] (RGB) -> probabilities [N, C], grade int64 [N] and, if the head counts, count [N].

    Args:
        grader: a `Grader` in evaluation, with the weights to use.
        decision: of its run: probabilities are calibrated, grades are decided as in its figures.
    """

    def __init__(self, grader: nn.Module, decision: Decision) -> None:
        super().__init__()
        self.grader = grader
        own = grader.data_config
        self.register_buffer("mean", torch.tensor(own["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(own["std"]).view(3, 1, 1))
        self.register_buffer("weights", torch.tensor(decision.weights or (1.0,) * len(grader.classes)))
        self.temperature = decision.temperature

    def forward(self, photographs: Tensor) -> tuple[Tensor, ...]:
        images = (photographs.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        graded = self.grader.head.graded(self.grader(images))
        least = torch.finfo(torch.float32).tiny
        calibrated = (graded.probabilities.clamp(min=least).log() / self.temperature).softmax(dim=1)
        outputs = (calibrated, (calibrated * self.weights).argmax(dim=1))
        return outputs if graded.counts is None else (*outputs, graded.counts)


@torch.no_grad()
def to_onnx(grader: nn.Module, path: Path, *, resolution: int, decision: Decision, about: dict[str, str]) -> float:
    """Write an ONNX file; return by how much ONNX Runtime's probabilities and counts differ from ours, at most.

    Args:
        grader: a `Grader` in evaluation.
        path: of the file.
        resolution: R, of the photographs that it was trained on.
        decision: how probabilities become grades.
        about: what to say of it in the file's metadata, beside `classes` and `decision`.

    Raises:
        RuntimeError: the file computes something else.
    """
    import onnx  # an extra, like the next
    import onnxruntime

    exported = ExportedGrader(grader, decision).eval()

    def photographs(num: int) -> Tensor:
        """Smooth ones with some grain: a network's answers to pure noise are of no interest."""
        rng = np.random.default_rng(num)
        coarse = torch.from_numpy(rng.uniform(0, 255, (num, 3, 4, 4)))
        smooth = nn.functional.interpolate(coarse, resolution, mode="bilinear").permute(0, 2, 3, 1)
        return (smooth + rng.normal(0, 8, smooth.shape)).clamp(0, 255).to(torch.uint8)

    given = photographs(3)
    expected = exported(given)
    names = ["probabilities", "grade", "count"][: len(expected)]
    torch.onnx.export(
        exported,
        (photographs(2),),
        path,
        input_names=["photographs"],
        output_names=names,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    model = onnx.load(path)
    facts = {"classes": json.dumps(grader.classes), "decision": json.dumps(vars(decision)), **about}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {"photographs": given.numpy()})))
    expected = dict(zip(names, [x.numpy() for x in expected]))
    difference = float(max(np.abs(found[name] - expected[name]).max() for name in names if name != "grade"))
    margin = np.sort(expected["probabilities"] * exported.weights.numpy(), axis=1)
    sure = margin[:, -1] - margin[:, -2] > 2 * ONNX_TOLERANCE  # of two grades as likely, either may win
    if difference > ONNX_TOLERANCE or (found["grade"] != expected["grade"])[sure].any():
        raise RuntimeError(f"{path} computes something else: probabilities or counts differ by {difference:.1e}")
    return difference
