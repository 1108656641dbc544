"""Where a grader looks: Grad-CAM (Selvaraju et al., ICCV 2017) on any timm backbone, through pytorch-grad-cam.

A map answers one question about one photograph: which places, as the network describes them at one of its stages, push
a score up. It says nothing of places that push it down, it is as coarse as that stage, and a plausible map is no proof:
compare with a network of random weights (Adebayo et al., NeurIPS 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from acne_lab.grade.heads import Graded
from acne_lab.grade.module import Grader
from acne_lab.metrics.calibration import Decision

INSTALL = "pip install 'acne-lab[explain]'"
LEAST_CELLS = 14  # those of a ViT of 224 px
SCORES = ("severity", "prediction")

Reshape = Callable[[Tensor], Tensor]


def attributions(
    grader: Grader, images: Tensor, *, stage: int = -1, decision: Decision | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Grad-CAM of photographs, for two questions at once.

    Args:
        grader: its weights stay as they are; it is left in eval mode.
        images: [B, 3, R, R], normalised, as it is trained on.
        stage: of the backbone's stages (timm's `feature_info`), -1 the last. An earlier one has finer maps, which are
            further from the decision.
        decision: how probabilities become the predicted class; None: it is the most probable one.

    Returns:
        probabilities float32 [B, C], and maps float32 [B, h, w] >= 0 over what the backbone sees of the images:
        "severity": what raises the grade, by the expected class number or, of a head that regresses the lesion count,
        by that; "prediction": what speaks for the predicted class and against all others, by its log-odds.

    Raises:
        ValueError: pytorch-grad-cam is not installed, or the backbone has no such stage, or none with places.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise ValueError(f"Grad-CAM needs pytorch-grad-cam: {INSTALL}") from error

    grader.eval()
    layer = target_layer(grader.backbone, stage)
    images = images.detach().requires_grad_()  # gradients flow also where every weight is frozen
    with torch.enable_grad(), GradCAM(grader, [layer], as_map(grader.backbone, layer)) as cam:
        hooks = cam.activations_and_grads
        probabilities, scores = _scores(grader.head.graded(hooks(images)), decision or Decision())
        maps = {}
        for name, score in scores.items():
            torch.autograd.grad(score.sum(), images, retain_graph=True)
            activations, gradients = (kept[0].float().numpy() for kept in (hooks.activations, hooks.gradients))
            # Not cam(images): it stretches each map to [0, 1], and an even map, which points nowhere, to nothing.
            maps[name] = np.maximum(cam.get_cam_image(images, layer, [], activations, gradients), 0)
    return probabilities.detach().cpu().numpy(), maps


@dataclass(frozen=True)
class View:
    """What the backbone sees of the square images that a grader gets: seen = scale * place + shift, both axes.

    Places are shares of the square and of what is seen of it: 0 is the left or upper edge, 1 the right or lower one.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes float [N, 4], x0 y0 x1 y1 in sides of the square, in sides of what is seen."""
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * (self.scale * 2) + self.shift * 2


def view(grader: Grader, resolution: int) -> View:
    """Measured and not computed, so that it is right whatever the grader does to its images before the backbone.

    An image whose values are its places is sent through; where they come out says what has been cut and resized.

    Args:
        grader: in eval mode.
        resolution: side of the square images in px.
    """
    places = (torch.arange(resolution, device=grader.device) + 0.5) / resolution
    y, x = torch.meshgrid(places, places, indexing="ij")
    (seen,) = seen_by_backbone(grader, torch.stack([x, y, x])[None])
    height, width = seen.shape[1:]
    ends = []
    for line in (seen[0, height // 2], seen[1, :, width // 2]):
        side = len(line)
        first, last = side // 4, side - 1 - side // 4  # away from the edges, where a resize has less to go by
        step = (line[last] - line[first]).item() / (last - first)  # places per pixel that is seen
        ends.append((1 / (step * side), (0.5 + first - line[first].item() / step) / side))
    return View(*zip(*ends))


def seen_by_backbone(grader: Grader, images: Tensor) -> Tensor:
    """The images [B, 3, S, S] that reach the backbone where `images` [B, 3, R, R] are given to the grader."""
    seen = []
    handle = grader.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            grader(images)
    finally:
        handle.remove()
    return seen[0]


def _scores(graded: Graded, decision: Decision) -> tuple[Tensor, dict[str, Tensor]]:
    """Probabilities [B, C], and for each question a number [B] that the network is asked to raise."""
    probabilities, counts = graded
    grades = torch.arange(probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    severity = counts if counts is not None and counts.requires_grad else probabilities @ grades
    top = torch.as_tensor(decision.predicted(probabilities.detach().cpu().numpy()), device=probabilities.device)
    others = probabilities.scatter(1, top[:, None], 0).sum(dim=1)
    # Log-odds, not the probability: its gradient does not vanish where the grader is sure.
    least = torch.finfo(others.dtype).tiny
    odds = probabilities.gather(1, top[:, None]).squeeze(1).clamp(min=least).log() - others.clamp(min=least).log()
    return probabilities, dict(zip(SCORES, (severity, odds)))


def target_layer(backbone: nn.Module, stage: int = -1) -> nn.Module:
    """The layer whose output is explained: where a stage of the backbone ends.

    Of a transformer's block that is the norm at its beginning: behind the last block the class token alone is read, so
    no other token has a gradient there.

    Raises:
        ValueError: there is no such stage.
    """
    info = backbone.feature_info
    if not -len(info) <= stage < 0:
        raise ValueError(
            f"the backbone_stage must be -1 (the last) to {-len(info)} (the first) of this backbone, not {stage}"
        )
    module = backbone.get_submodule(info[stage]["module"])
    return module.norm1 if hasattr(backbone, "num_prefix_tokens") and hasattr(module, "norm1") else module


def stage_of(backbone: nn.Module, side: int) -> int:
    """The last stage whose map of an input of `side` px has LEAST_CELLS cells a side; the first one if none has.

    Lesions are small, and the last stage of a convolutional network sees 7 x 7 places: it cannot point at one. And hit
    rates of several backbones can be compared only where their maps are about as fine.
    """
    info = backbone.feature_info
    fine = [stage for stage in range(-1, -len(info) - 1, -1) if side / info[stage]["reduction"] >= LEAST_CELLS]
    return fine[0] if fine else -len(info)


def as_map(backbone: nn.Module, layer: nn.Module) -> Reshape:
    """What brings the layer's output into [B, C, h, w]: it is that already, or [B, h, w, C], or tokens [B, N, C]."""
    channels_last = getattr(backbone, "output_fmt", None) == "NHWC"
    num_prefix = getattr(backbone, "num_prefix_tokens", 0)

    def reshape(output: Tensor) -> Tensor:
        if output.ndim == 4:
            return output.permute(0, 3, 1, 2) if channels_last else output
        if output.ndim == 3:
            places = output[:, num_prefix:]
            side = round(places.shape[1] ** 0.5)
            if side * side == places.shape[1]:
                return places.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        raise ValueError(
            f"the output {list(output.shape)} of {type(layer).__name__} has no places that a map could show: explain "
            "a grader with another backbone, or another stage"
        )

    return reshape


def randomised(grader: Grader, images: Tensor, *, seed: int) -> Grader:
    """The same network with random weights throughout: what its attributions show, the training has not put there.

    Args:
        grader: whose network it is.
        images: [B, 3, R, R], normalised: batch normalisation takes its statistics from them. By those that layers
            start with, features of deep random networks vanish (efficientnet_b0) or reach 1e10 (inception_v3).
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = Grader(**grader.hparams)
    other.use_average()  # of its weights as they are: it keeps no second copy
    other.to(grader.device).eval()
    for layer in other.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of what it sees
            layer.train()
    with torch.no_grad():
        other.features(images)
    return other.eval()
