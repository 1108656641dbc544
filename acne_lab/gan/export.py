"""The averaged generator for other programs: TorchScript and ONNX, each checked against the network it was made from.

Both take z [N, z_dim], then one-hot labels c [N, c_dim] if the network is conditional, then the truncation psi [],
for any N, and return images [N, C, R, R], nominally in [-1, 1]. Noise is the stored one and arithmetic is float32.
They are made, and checked, with the reference operators: other programs do not have the compiled ones.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from acne_lab.gan.generator import Generator
from acne_lab.ops import extension

ONNX_TOLERANCE = 1e-3  # of the largest pixel


class Exported(nn.Module):
    """z, c and psi -> images, without random numbers."""

    def __init__(self, G: Generator) -> None:
        super().__init__()
        self.mapping, self.synthesis = G.mapping, G.synthesis

    def forward(self, z: Tensor, *c_and_psi: Tensor) -> Tensor:
        *c, psi = c_and_psi
        ws = self.mapping.w_avg.lerp(self.mapping(z, *c), psi)
        return self.synthesis(ws, noise_mode="const", force_fp32=True)


def inputs(G: Generator, n: int, psi: float) -> dict[str, Tensor]:
    """Arguments of an exported network by name."""
    rng = torch.Generator().manual_seed(n)
    c = {"c": torch.eye(G.c_dim)[torch.arange(n) % G.c_dim]} if G.c_dim else {}
    return {"z": torch.randn(n, G.z_dim, generator=rng), **c, "psi": torch.tensor(psi)}


@torch.no_grad()
@extension.use("reference")
def to_torchscript(G: Generator, path: Path) -> None:
    """Write a TorchScript file, which computes the same images to the bit: `torch.jit.load(path)(z, psi)`.

    Raises:
        RuntimeError: it does not.
    """
    exported = Exported(G).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes of layers become constants: they are
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and what C++ programs can load
        torch.jit.trace(exported, tuple(inputs(G, 2, 0.5).values()), check_trace=False).save(path)
        check = tuple(inputs(G, 3, 0.7).values())
        if not torch.equal(torch.jit.load(path)(*check), exported(*check)):
            raise RuntimeError(f"{path} does not compute the same images as the network")


@torch.no_grad()
@extension.use("reference")
def to_onnx(G: Generator, path: Path) -> float:
    """Write an ONNX file; return the largest difference that ONNX Runtime finds, as a share of the largest pixel.

    Raises:
        RuntimeError: the file computes other images.
    """
    import onnxruntime  # an extra, like those that torch writes the file with

    exported = Exported(G).eval()
    example = inputs(G, 2, 0.5)
    n = torch.export.Dim("n")
    sizes = [{0: n} if x.ndim else {} for x in example.values()]
    torch.onnx.export(
        exported,
        tuple(example.values()),
        path,
        input_names=list(example),
        output_names=["images"],
        dynamic_shapes=(sizes[0], tuple(sizes[1:])),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    check = inputs(G, 3, 0.7)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [images] = session.run(None, {name: x.numpy() for name, x in check.items()})
    expected = exported(*check.values())
    difference = float((torch.from_numpy(images) - expected).abs().max() / expected.abs().max())
    if difference > ONNX_TOLERANCE:
        raise RuntimeError(f"{path} computes other images: they differ by {difference:.1e} of the largest pixel")
    return difference
